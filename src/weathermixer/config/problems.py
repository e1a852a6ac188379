"""What is wrong with a configuration, in plain words, under the key that the user wrote."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from weathermixer.config.settings import Config, settings

_LONGEST_VALUE = 60

_AS_IN_YAML = {"None": "null", "True": "true", "False": "false"}

_EXPECTED = {
    "int_": "give a whole number",
    "float_": "give a number",
    "finite_": "give a finite number",
    "bool_": "give true or false",
    "string_": "give text",
    "path_": "give text",
    "tuple_": "give a list, such as [500, 850]",
    "dict_": "give a table, such as {{0: 1, 400: 2}}",
    "greater_than_equal": "give at least {ge:.4g}",
    "greater_than": "give more than {gt:g}",
    "less_than_equal": "give at most {le:g}",
    "less_than": "give less than {lt:g}",
    "literal_error": "choose {expected}",
    "too_long": "give at most {max_length} values",
    "missing": "give one more value",
}


@dataclass(frozen=True)
class Problem:
    """Something wrong with a configuration, or with what it refers to: where, what, and a remedy.

    ``severity`` tells an error, with which nothing can begin, from a warning. ``where`` is a key
    such as ``training.steps``, or the file itself.
    """

    severity: Literal["error", "warning"]
    where: str
    what: str
    remedy: str

    def sentence(self) -> str:
        """The problem in one sentence, without a full stop."""
        return f"{self.where}: {self.what}; {self.remedy}"


def problems_of(error: ValidationError, path: Path) -> list[Problem]:
    """Put pydantic's error into problems: one for each key, in the order of the settings."""
    details: dict[str, list[Any]] = {}
    for detail in error.errors(include_url=False):
        details.setdefault(_key(detail), []).append(detail)
    return [_problem(key, alternatives, path) for key, alternatives in details.items()]


def unknown_key(key: str, kind: str = "key") -> Problem:
    """The problem of a key, or of a whole ``section``, that is none of the settings."""
    keys = [name for name, _, _ in settings()]
    candidates = keys if "." in key else [*Config.model_fields, *keys]
    # The right name in the wrong section comes before a similar one.
    near = [name for name in keys if name.rpartition(".")[2] == key.rpartition(".")[2]]
    near += difflib.get_close_matches(key, candidates, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "remove it, or see 'weathermixer train -h'"
    return Problem("error", key, f"there is no such {kind}", hint)


def shown(value: Any) -> str:
    """A value as a message shows it: as YAML writes a short one, and cut where it is long."""
    text = _AS_IN_YAML.get(repr(value), repr(value))
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def _key(detail: Any) -> str:
    """The setting that was meant; what follows names elements of it and alternatives of a type."""
    return ".".join(map(str, detail["loc"][:2]))


def _problem(key: str, details: list[Any], path: Path) -> Problem:
    # A value that fits none of several types is reported for each; the deepest comes closest.
    depth = max(len(detail["loc"]) for detail in details)
    nearest = [detail for detail in details if len(detail["loc"]) == depth]
    first, context = nearest[0], nearest[0].get("ctx", {})
    match first["type"]:
        case "refused":
            return Problem("error", key, context["what"], context["remedy"])
        case "extra_forbidden":
            is_section = "." not in key and isinstance(first["input"], Mapping)
            return unknown_key(key, "section" if is_section else "key")
        case "missing" if depth <= 2:
            return Problem("error", key, "is not set", f"set it in {path} or with --{key}=...")
        case "model_type":
            return Problem(
                "error",
                key,
                f"is a section, and {shown(first['input'])} is none",
                "write its settings below it, each as 'key: value' with a space after the colon",
            )
    expected = " or ".join(dict.fromkeys(expectation(detail) for detail in nearest))
    return Problem("error", key, f"{shown(first['input'])} is impossible", expected)


def expectation(detail: Any) -> str:
    """What to give instead, from one of the details of pydantic's errors."""
    for kind, text in _EXPECTED.items():
        if detail["type"].startswith(kind):
            return text.format(**detail.get("ctx", {}))
    message = detail["msg"].removeprefix("Value error, ")
    return f"{message[0].lower()}{message[1:]}"


def sentences(problems: Iterable[Problem]) -> str:
    """All problems in one text, without a full stop at its end."""
    texts = (problem.sentence() for problem in problems)
    return " ".join(text if text.endswith("?") else f"{text}." for text in texts).removesuffix(".")
