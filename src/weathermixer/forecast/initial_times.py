"""From what a user types after ``--init`` to the initial times of a forecast. Pure."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from weathermixer.errors import UserError

_TIME = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}(:\d{2}(:\d{2})?)?)?")
_SHORT_STEP = re.compile(r"(?P<count>\d+)\s*(?P<unit>d|h|min)", re.IGNORECASE)
_ISO_STEP = re.compile(
    r"P(?=.)((?P<d>\d+)D)?(T(?=\d)((?P<h>\d+)H)?((?P<min>\d+)M)?)?", re.IGNORECASE
)
_SECONDS = {"d": 86400, "h": 3600, "min": 60}


def parse_initial_times(text: str) -> NDArray[np.datetime64]:
    """The initial times ``(time,)`` that ``text`` denotes, in seconds, increasing.

    Either ``TIME[,TIME...]`` or ``START/STOP/STEP``, both ends inclusive, where a day as STOP
    means all of it. Times are ISO 8601, in UTC; STEP is ``12h``, ``1d`` or ISO 8601's ``PT12H``.
    Raises UserError where it is neither, or names a time twice.
    """
    if "/" not in text:
        times = np.array([_parse_time(part, text) for part in text.split(",")])
        distinct = np.unique(times)
        if len(distinct) < len(times):
            raise UserError(f"--init {text!r} names a time twice: remove the second")
        return distinct
    parts = [part.strip() for part in text.split("/")]
    if len(parts) != 3:
        raise UserError(
            f"--init {text!r} is not START/STOP/STEP, such as 2020-01-01/2020-01-31/12h: "
            "give all three, or times separated by commas"
        )
    start, stop = (_parse_time(part, text) for part in parts[:2])
    if len(parts[1]) == len("2020-01-31"):
        stop += np.timedelta64(86399, "s")
    if stop < start:
        raise UserError(f"--init {text!r} ends before it starts: put the earlier time first")
    return np.arange(start, stop + np.timedelta64(1, "s"), _parse_step(parts[2], text))


def _parse_time(part: str, text: str) -> np.datetime64:
    bare = part.strip().removesuffix("Z")
    try:
        if not _TIME.fullmatch(bare):
            raise ValueError
        return np.datetime64(bare, "s")
    except ValueError:
        raise UserError(
            f"--init {text!r}: {part.strip()!r} is not a time: write it as 2020-01-31T12, in UTC"
        ) from None


def _parse_step(step: str, text: str) -> np.timedelta64:
    short, iso = _SHORT_STEP.fullmatch(step), _ISO_STEP.fullmatch(step)
    seconds = 0
    if short:
        seconds = int(short["count"]) * _SECONDS[short["unit"].lower()]
    elif iso:
        seconds = sum(int(iso[unit] or 0) * length for unit, length in _SECONDS.items())
    if seconds <= 0:
        raise UserError(
            f"--init {text!r}: {step!r} is not an interval above zero: write it as 12h, 1d or PT12H"
        )
    return np.timedelta64(seconds, "s")
