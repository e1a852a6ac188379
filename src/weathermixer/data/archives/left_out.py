"""What of an archive is not used, with the reasons, as data and in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_SHOWN_NAMES = 5


@dataclass(frozen=True)
class LeftOut:
    """A variable of an archive that is not used, under the archive's own name, and the reason.

    ``is_known`` tells a variable that this project knows, but cannot use as it is, from others.
    """

    name: str
    reason: str
    is_known: bool


def left_out_in_words(source: str, left_out: Sequence[LeftOut]) -> str | None:
    """A line about what is left out of an archive, with the reasons; None where nothing is.

    Such as ``a.grib: left out z (has no level …); tp, sp (WeatherMixer does not use it)``.
    """
    return f"{source}: left out {_in_words(left_out)}" if left_out else None


def reasons_in_words(source: str, left_out: Sequence[LeftOut]) -> str:
    """What is left out of an archive though this project knows it, to follow what is missed.

    It stands in brackets after a space; empty where there is nothing of the kind.
    """
    said = left_out_in_words(source, [each for each in left_out if each.is_known])
    return f" ({said})" if said else ""


def nothing_usable(source: str, kind: str, left_out: Sequence[LeftOut]) -> str:
    """The message where nothing of an archive is left, of the ``kind`` that was asked for."""
    known = [each for each in left_out if each.is_known]
    if not known:
        return (
            f"{source} holds none of the variables that WeatherMixer knows; it has "
            f"{_listed([each.name for each in left_out]) or 'none at all'}: choose another source"
        )
    reasons = list(dict.fromkeys(each.reason for each in known))
    if len(reasons) == 1 and len(known) > 1:
        return f"{source} {reasons[0]}"
    return f"{source} holds no {kind} that can be used: {_in_words(known)}"


def _in_words(left_out: Iterable[LeftOut]) -> str:
    reasons: dict[str, list[str]] = {}
    for each in left_out:
        reasons.setdefault(each.reason, []).append(each.name)
    return "; ".join(f"{_listed(names)} ({reason})" for reason, names in reasons.items())


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
