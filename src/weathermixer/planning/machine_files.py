"""Machine files: YAML with a version, read with every problem named, and written to be read.

Those of the package lie in ``machines/``, one for each kind of node.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from weathermixer.config.problems import Problem, expectation, sentences, shown
from weathermixer.config.yaml_files import Unreadable, parse_yaml, read_text
from weathermixer.errors import UserError
from weathermixer.planning.machine import VERSION, Machine

_FOLDER = Path(__file__).parent / "machines"


def shipped_machines() -> list[str]:
    """Names of the machines that the package describes."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def find_machine(name: str) -> Machine:
    """Read a machine of the package by its name, or a machine file by its path.

    Raises UserError where there is neither, and as ``read_machine`` does.
    """
    names = shipped_machines()
    if name in names:
        return read_machine(_FOLDER / f"{name}.yaml")
    if not Path(name).exists():
        raise UserError(
            f"the machine {name} is neither a file nor one that is known: give a file that "
            f"'weathermixer bench machine' wrote, or one of {', '.join(names)}"
        )
    return read_machine(Path(name))


def read_machine(path: Path) -> Machine:
    """Read a machine file.

    Raises UserError, with file, key and value of everything wrong, where it cannot be read, is of
    another version, or holds what no machine can be.
    """
    try:
        values, problems = parse_yaml(
            read_text(path, kind="machine file"), str(path), verbatim=frozenset()
        )
    except Unreadable as error:
        raise UserError(error.problem.sentence()) from error
    if not isinstance(values, dict):
        raise UserError(
            f"{path}: holds no description of a machine; write one with 'bench machine'"
        )
    if values.get("version") != VERSION:
        what = shown(values["version"]) if "version" in values else "no version"
        raise UserError(
            f"{path}: version: {what} is none that this program reads; it reads version "
            f"{VERSION}, as its own 'weathermixer bench machine' writes"
        )
    try:
        machine = Machine.model_validate(values)
    except ValidationError as error:
        problems += [_problem(detail, path) for detail in error.errors(include_url=False)]
        raise UserError(sentences(problems)) from error
    if problems:
        raise UserError(f"{path}: {sentences(problems)}")
    return machine


def write_machine(machine: Machine, path: Path) -> None:
    """Write a machine file that ``read_machine`` reads back equal.

    Raises UserError where it cannot be written.
    """
    values = machine.model_dump(mode="json", exclude_none=True)
    text = yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=100)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"the machine file {path} cannot be written ({error.strerror}): choose another place"
        ) from error


def _problem(detail: Any, path: Path) -> Problem:
    key = ".".join(map(str, detail["loc"]))
    where = f"{path}: {key}" if key else str(path)
    match detail["type"]:
        case "refused":
            return Problem("error", where, detail["ctx"]["what"], detail["ctx"]["remedy"])
        case "extra_forbidden":
            return Problem("error", where, "there is no such key", "remove it")
        case "missing":
            return Problem("error", where, "is not set", "set it")
    return Problem("error", where, f"{shown(detail['input'])} is impossible", expectation(detail))
