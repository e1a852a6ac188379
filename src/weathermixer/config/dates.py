"""Periods as people write them: ``START/STOP`` in ISO 8601."""

from __future__ import annotations

import re

import numpy as np

from weathermixer.errors import UserError

Period = tuple[np.datetime64, np.datetime64]
"""A first and a last time, both included, UTC."""

# NumPy alone would also read "today", "NaT", nothing at all, and 20200101 as a year.
_MOMENT = re.compile(r"\d{4}(-\d\d(-\d\d([T ]\d\d(:\d\d(:\d\d)?)?Z?)?)?)?")


def parse_period(text: str) -> Period:
    """Read a period ``START/STOP``: its first and last second, both inclusive.

    A day as STOP is whole.
    Times are UTC. Raises ValueError, saying what is expected, for any other text.

    >>> [str(moment) for moment in parse_period("1979-01-01/2016-12-31")]
    ['1979-01-01T00:00:00', '2016-12-31T23:59:59']
    """
    start, slash, stop = (part.strip() for part in text.partition("/"))
    try:
        if not slash:
            raise ValueError
        first = _moment(start).astype("datetime64[s]")
        last = (_moment(stop) + 1).astype("datetime64[s]") - np.timedelta64(1, "s")
    except ValueError:
        raise ValueError(f"{text!r} is not START/STOP, such as 1979-01-01/2016-12-31T18") from None
    if first > last:
        raise ValueError(f"{text!r} ends before it starts")
    return first, last


def period_of(text: str, key: str) -> Period:
    """Read the period that was given under a key, such as ``--period``; UserError if it is none."""
    try:
        return parse_period(text)
    except ValueError as error:
        raise UserError(f"{key} {error}") from error


def periods_overlap(first: Period, second: Period) -> bool:
    """Whether two periods, each inclusive, share a moment."""
    return bool(first[0] <= second[1] and second[0] <= first[1])


def _moment(text: str) -> np.datetime64:
    """A moment in the unit in which it is written, such as days."""
    if not _MOMENT.fullmatch(text):
        raise ValueError(text)
    return np.datetime64(text.removesuffix("Z"))
