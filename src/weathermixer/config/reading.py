"""Reading a configuration from a file and the command line, and writing it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from weathermixer import __version__
from weathermixer.config.overrides import parse_overrides
from weathermixer.config.problems import Problem, problems_of, sentences, shown
from weathermixer.config.settings import Config
from weathermixer.config.yaml_files import Keys, Unreadable, parse_yaml, read_text
from weathermixer.errors import UserError

# A path or a period is text, even where it looks like a number.
_VERBATIM: frozenset[Keys] = frozenset(
    {("data", "store"), ("data", "train"), ("data", "validation")}
)

_WRITTEN_BY = "# written by WeatherMixer "


def read_config(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    base_overrides: Sequence[str] = (),
    text: str | None = None,
) -> Config:
    """Read the configuration in a YAML file, with ``section.key=value`` overrides.

    ``base_overrides`` replace what the file says, and give way to ``overrides``. With ``text``,
    that is what it says, and it is not read. Raises UserError with every problem, in one sentence.
    """
    result = parse_config(path, overrides, base_overrides=base_overrides, text=text)
    if isinstance(result, Config):
        return result
    raise UserError(sentences(result))


def parse_config(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    base_overrides: Sequence[str] = (),
    text: str | None = None,
) -> Config | list[Problem]:
    """Read the configuration in a YAML file with overrides, or find everything wrong with it.

    The arguments are those of :func:`read_config`. Raises UserError where the file cannot be
    opened.
    """
    try:
        content = read_text(path) if text is None else text
        values, problems = parse_yaml(content, str(path), verbatim=_VERBATIM)
    except Unreadable as error:
        return [error.problem]
    if values is None:
        values = {}
    if not isinstance(values, dict):
        what = f"must hold sections such as 'model:' and 'data:', not {shown(values)}"
        return [*problems, Problem("error", str(path), what, "write their settings below them")]
    for words in (base_overrides, overrides):
        assigned, wrong = parse_overrides(words, verbatim=_VERBATIM)
        problems += wrong
        for keys, value in assigned.items():
            _assign(values, keys, value)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        noted = [problem.where for problem in problems]
        further = problems_of(error, path)
        return problems + [each for each in further if not _is_noted(each.where, noted)]
    return problems or config


def write_config(config: Config, path: Path) -> None:
    """Write a configuration as YAML that ``read_config`` reads back equal."""
    path.write_text(config_text(config), encoding="utf-8")


def config_text(config: Config) -> str:
    """A configuration as YAML, whose first line is a comment that names the program's version."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    return f"{_WRITTEN_BY}{__version__}\n{text}"


def version_that_wrote(path: Path) -> str | None:
    """The version of the program that wrote a configuration; None where its file does not say."""
    try:
        first = path.read_text(encoding="utf-8").partition("\n")[0]
    except (OSError, UnicodeDecodeError):
        return None
    return first.removeprefix(_WRITTEN_BY) if first.startswith(_WRITTEN_BY) else None


def _is_noted(key: str, noted: Sequence[str]) -> bool:
    return any(where == key or where.startswith(f"{key}.") for where in noted)


def _assign(values: dict[str, Any], keys: Keys, value: Any) -> None:
    *sections, key = keys
    for name in sections:
        if values.get(name) is None:
            values[name] = {}
        section: Any = values[name]
        if not isinstance(section, dict):
            return  # which is a problem of its own
        values = section
    values[key] = value
