"""Settings on the command line: ``--section.key=value``, or ``--section.key value``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from weathermixer.config.problems import Problem, shown, unknown_key
from weathermixer.config.sections import is_section
from weathermixer.config.settings import Config, settings
from weathermixer.config.yaml_files import Keys, Unreadable, parse_yaml

_EXAMPLE = "write --section.key=value, such as --training.steps=100"


def parse_overrides(
    words: Sequence[str], *, verbatim: frozenset[Keys]
) -> tuple[dict[Keys, Any], list[Problem]]:
    """Read overrides: values by keys such as ``("training", "steps")``, and problems of others.

    Values are YAML, but those under the keys in ``verbatim`` are text, unless quoted. A section
    stands for each of its keys. A key with two different values is refused.
    """
    values: dict[Keys, Any] = {}
    problems: list[Problem] = []
    texts: dict[str, str] = {}
    for key, text in _assignments(words, problems):
        if texts.setdefault(key, text) != text:
            problems.append(
                Problem(
                    "error",
                    key,
                    f"is given twice, as {shown(texts[key])} and {shown(text)}",
                    "keep one of the two",
                )
            )
            continue
        try:
            value, wrong = _value(key, text, verbatim)
        except Unreadable:
            wrong = [
                Problem("error", key, f"{shown(text)} is not valid YAML", "quote or correct it")
            ]
        problems += wrong
        if not wrong:
            values |= _by_key(key, value, problems)
    return values, problems


def _assignments(words: Sequence[str], problems: list[Problem]) -> Iterator[tuple[str, str]]:
    """Pairs of key and text; a word with dashes and without ``=`` takes the next one."""
    remaining = iter(range(len(words)))
    for place in remaining:
        word = words[place]
        key, equals, text = word.removeprefix("--").partition("=")
        following = words[place + 1] if place + 1 < len(words) else "--"
        names_key = word.startswith("--") and ("." in key or _is_key(key))
        if not equals and names_key and not following.startswith("--"):
            text = words[next(remaining)]
        elif not equals and names_key:
            text = ""
        elif not (equals and all(key.split("."))):
            problems.append(Problem("error", shown(word), "is not an override", _EXAMPLE))
            continue
        if text.strip():
            yield key, text
        else:
            problems.append(
                Problem("error", key, "has no value", f"write --{key}=VALUE, or leave it out")
            )


def _value(key: str, text: str, verbatim: frozenset[Keys]) -> tuple[Any, list[Problem]]:
    keys = tuple(key.split("."))
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if keys in verbatim and not quoted and text not in ("null", "~"):
        return text, []
    return parse_yaml(text, f"--{key}", verbatim=verbatim, below=keys)


def _by_key(key: str, value: Any, problems: list[Problem]) -> dict[Keys, Any]:
    """The value of a key, or those of a section; nothing, and a problem, where it is neither."""
    if _is_section(key):
        if isinstance(value, Mapping):
            return {(key, str(name)): entry for name, entry in value.items()}
        problems.append(
            Problem("error", key, f"is a section, and {shown(value)} is none", _EXAMPLE)
        )
    elif _is_key(key):
        return {tuple(key.split(".")): value}
    else:
        problems.append(unknown_key(key))
    return {}


def _is_key(key: str) -> bool:
    return any(key == name for name, _, _ in settings())


def _is_section(key: str) -> bool:
    field = Config.model_fields.get(key)
    return field is not None and is_section(field.annotation)
