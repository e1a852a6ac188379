"""Kinds of values that settings take, and how a check of a setting refuses one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from weathermixer.config.variables import (
    DIAGNOSTIC_NAMES,
    FORCING_NAMES,
    STATIC_NAMES,
    VARIABLE_NAMES,
)

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
# The upper bounds are beyond any use, and keep arithmetic on a mistyped number finite.
Count = Annotated[int, Field(gt=0, le=10**12)]
Number = Annotated[int, Field(ge=0, le=10**12)]
Ranks = Annotated[int, Field(gt=0, le=100_000)]
Length = Annotated[int, Field(gt=0, le=10_000)]
InputTimes = Annotated[int, Field(ge=1, le=100)]
Seed = Annotated[int, Field(ge=0, lt=2**64)]
Multiple = Annotated[float, Field(gt=0.0, le=1000.0)]
Hours = Annotated[float, Field(ge=1.0 / 3600.0, le=8784.0)]
Reader = Literal["zarr", "tensorstore"]
# One step, or several in a row, counted from 1.
Steps = Annotated[
    str,
    BeforeValidator(
        lambda value: str(value) if isinstance(value, int) else value,
        json_schema_input_type=str | int,
    ),
]
# Apart from a path, in which "//" would become "/".
Address = Annotated[str, Field(pattern="://")]

NAMES_OF_LISTS = {
    "static": STATIC_NAMES,
    "variables": VARIABLE_NAMES,
    "diagnostic": DIAGNOSTIC_NAMES,
    "forcings": FORCING_NAMES,
}
"""What the lists of the section ``data`` may name, by key."""


def refusal(what: str, remedy: str) -> PydanticCustomError:
    """The error to raise in a check of a setting: what is wrong with it, and what to do."""
    return PydanticCustomError("refused", "{what}; {remedy}", {"what": what, "remedy": remedy})


def as_list(value: Any) -> Any:
    """``500``, ``500, 850`` and ``[500, 850]`` are lists; values of another kind stay as is."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return [value] if isinstance(value, int | float) else value


AsList = BeforeValidator(as_list)


def refuse_truth_values(value: Any) -> None:
    """Raise where true or false, which would pass for 1 and 0, stand for a value or in it."""
    if isinstance(value, bool):
        raise refusal(
            f"{str(value).lower()} is impossible", "give a value that is neither true nor false"
        )
    if isinstance(value, list | tuple):
        for entry in value:
            refuse_truth_values(entry)
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            refuse_truth_values([key, entry])


def require_distinct(value: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the entries of a list; raises where some are listed twice."""
    repeated = {entry: None for entry in value if value.count(entry) > 1}
    if repeated:
        raise refusal(f"lists {listed(repeated)} twice", "remove the repeated entry")
    return value


def require_known(value: tuple[str, ...], known: Sequence[str], kind: str) -> tuple[str, ...]:
    """Return the names; raises, with near ones, where some are not among the known ones."""
    unknown = [name for name in value if name not in known]
    if unknown:
        hints = " ".join(dict.fromkeys(_hint(name, known) for name in unknown)).removesuffix(".")
        are_none = f"are no {kind}s" if len(unknown) > 1 else f"is no {kind}"
        raise refusal(f"lists {listed(unknown)}, which {are_none}", hints)
    return value


def _hint(name: str, known: Sequence[str]) -> str:
    for key, names in NAMES_OF_LISTS.items():
        if name in names:
            return f"list {name} in data.{key}."
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"choose among {', '.join(known)}."


def listed(entries: Iterable[Any]) -> str:
    """The entries of a list in words, as a message names them."""
    return ", ".join(map(repr, entries))


def text_of(value: Any) -> str:
    """The value of a setting as one would write it behind ``--section.key=``.

    >>> [text_of(value) for value in (None, True, 1e-06, ("a", 5))]
    ['unset', 'true', '1e-06', 'a, 5']
    """
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(text_of, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
