"""How far samples are forecast: a number, a range to draw from, or a table of these by step.

What is drawn depends on the seed and the optimizer step alone, so that every rank draws the same,
and a run that goes on what it would have drawn without the break.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, Field

from weathermixer.config.kinds import Length, Number, refusal

_RANGE = re.compile(r"\s*([0-9]{1,5})\s*-\s*([0-9]{1,5})\s*")
_LONGEST = 10_000


def _is_range(value: str) -> str:
    found = _RANGE.fullmatch(value)
    if found is None:
        raise ValueError("give a range, such as '1-4'")
    first, last = map(int, found.groups())
    return f"{first}-{last}"


LengthRange = Annotated[str, Field(max_length=20), AfterValidator(_is_range)]
LengthSchedule = Length | LengthRange | dict[Number, Length | LengthRange]


class Lengths(NamedTuple):
    """How far a sample is forecast: ``rollout`` times by the network, each ``latent`` steps on."""

    rollout: int
    latent: int = 1

    @property
    def steps(self) -> int:
        """The steps from the first state of a sample to its last."""
        return self.rollout * self.latent

    def leads(self, input_times: int = 1) -> slice:
        """Which states of a window are read: ``input_times``, then those compared with forecasts.

        Of several input times, forecasts advance by one step at a time.
        """
        assert input_times == 1 or self.latent == 1
        return slice(0, input_times + self.steps, self.latent)


def validated_schedule(value: Any, validate: Callable[[Any], Any]) -> Any:
    """Check a length, a range or a table of these, as ``validate`` does the types in it."""
    for length in value.values() if isinstance(value, Mapping) else [value]:
        _refuse_an_empty_range(length)
    if isinstance(value, Mapping):
        for key, length in value.items():
            if length is None and ":" in str(key):
                raise refusal(
                    f"has no space after the colon of {str(key)!r}",
                    "write a table as {0: 1, 400: 2}",
                )
    result = validate(value)
    if isinstance(result, dict):
        if len(result) < len(value):
            raise refusal("lists a step twice", "remove the repeated entry")
        if 0 not in result:
            raise ValueError("a table of rollout lengths must say the length from step 0")
    return result


def starts_of(schedule: int | str | Mapping[int, int | str]) -> set[int]:
    """The optimizer steps from which a schedule has another length, the first of them 0."""
    return {0, *schedule} if isinstance(schedule, Mapping) else {0}


def shortest_at(schedule: int | str | Mapping[int, int | str], step: int) -> int:
    """The least that a schedule allows at an optimizer step."""
    return _bounds(_entry(schedule, step))[0]


def longest_at(schedule: int | str | Mapping[int, int | str], step: int) -> int:
    """The most that a schedule allows at an optimizer step."""
    return _bounds(_entry(schedule, step))[1]


def drawn_at(
    schedule: int | str | Mapping[int, int | str], step: int, *, seed: int, name: str
) -> int:
    """The length at an optimizer step, counted from 0; of a range, each is as likely.

    Schedules of different names draw apart from each other.
    """
    first, last = _bounds(_entry(schedule, step))
    drawn = blake2b(f"{seed} {name} {step}".encode(), digest_size=8).digest()
    return first + int.from_bytes(drawn, "little") % (last - first + 1)


def _entry(schedule: int | str | Mapping[int, int | str], step: int) -> int | str:
    if not isinstance(schedule, Mapping):
        return schedule
    return schedule[max(start for start in schedule if start <= step)]


def _bounds(length: int | str) -> tuple[int, int]:
    first, _, last = str(length).partition("-")
    return int(first), int(last or first)


def _refuse_an_empty_range(length: Any) -> None:
    found = _RANGE.fullmatch(length) if isinstance(length, str) else None
    if found is None:
        return
    first, last = map(int, found.groups())
    if not 1 <= first <= last <= _LONGEST:
        raise refusal(
            f"{first}-{last} holds no length",
            f"give a range such as 1-4, from the shortest to the longest, within 1-{_LONGEST}",
        )
