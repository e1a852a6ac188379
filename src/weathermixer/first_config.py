"""A first configuration for a store and a machine, which can be trained as it is.

What the store and the mesh decide is set; everything else stays at its default, to be changed by
whoever reads the file.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weathermixer import __version__
from weathermixer.check import check
from weathermixer.config import (
    LEVELS_HPA,
    STATIC_NAMES,
    VARIABLE_NAMES,
    Config,
    Data,
    Model,
    read_config,
)
from weathermixer.config.commented import commented_config
from weathermixer.config.problems import sentences
from weathermixer.config.schema import SCHEMA_FILE
from weathermixer.console import size_text
from weathermixer.data.channels import PRESSURE_VARIABLES, parse_channel
from weathermixer.data.opening import open_states
from weathermixer.data.states import States
from weathermixer.data.store.store import Store
from weathermixer.data.time_steps import to_hours
from weathermixer.errors import UserError
from weathermixer.model.architecture import architecture_of
from weathermixer.planning.choosing import this_machine
from weathermixer.planning.machine_files import find_machine
from weathermixer.planning.plan import Candidate, Planner, layout_text

# About as many as the examples have. Token mixing grows with their square.
_MOST_TOKENS = 2048
_DEFAULT_STEP_HOURS: float = Data.model_fields["step_hours"].default


def write_first_config(
    out: Path, store: str, *, gpus: int | None = None, machine: str | None = None
) -> str:
    """Write a commented configuration that learns from ``store``; returns the command to run next.

    The mesh is the one that takes the least time of a sample on so many ``gpus`` of a ``machine``,
    as ``plan`` predicts it: by default ``default_gpus`` of this machine. Raises UserError where
    ``out`` exists or cannot be written, where nothing can be learned from the store, and where the
    model fits on no mesh of so many ranks.
    """
    refuse_existing(out)
    found = this_machine() if machine is None else find_machine(machine)
    if gpus is None:
        gpus = default_gpus(machine)
    states = open_states(store, read_config(out, [f"data.store={store}"], text="").data)
    chosen: dict[str, dict[str, Any]] = {
        "model": _model_for(states),
        "data": {"store": store, **_data_for(states)},
    }
    config = Config.model_validate(chosen)
    architecture = architecture_of(config.data, config.model, states.grid)
    best = Planner(config, architecture, found, states=states).plan(gpus).require_fit()
    chosen["parallel"] = {axis: getattr(best.layout, axis) for axis in ("data", "domain", "tensor")}
    heading = _heading(states, best, found.name)
    if out.with_name(SCHEMA_FILE).exists():
        heading.insert(0, f"yaml-language-server: $schema={SCHEMA_FILE}")
    text = commented_config(chosen, heading)
    findings = check(out, text=text)
    if findings.has_errors:
        errors = [problem for problem in findings.problems if problem.severity == "error"]
        raise UserError(f"nothing can be learned from {store} as it is: {sentences(errors)}")
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(
            f"the configuration {out} cannot be written ({error.strerror}): choose another place"
        ) from error
    if machine is None:
        ranks = {"--nproc": gpus} if gpus > 1 else {}
        return _command("train", out, ranks)
    fewest = math.ceil(gpus / found.ranks_per_node)
    nodes = next(count for count in range(fewest, gpus + 1) if gpus % count == 0)
    return _command("submit", out, {"--nodes": nodes, "--ranks-per-node": gpus // nodes})


def refuse_existing(out: Path) -> None:
    """Raise UserError where there is something at ``out`` that a configuration would overwrite."""
    if out.exists():
        raise UserError(f"{out} exists already: choose another place, or remove it first")


def default_gpus(machine: str | None) -> int:
    """The ranks to plan for where nobody says: those of a node, on this machine its accelerators.

    Raises UserError where there is no such machine.
    """
    if machine is None:
        return max(torch.cuda.device_count(), 1)
    return find_machine(machine).ranks_per_node


def _command(name: str, out: Path, ranks: Mapping[str, int]) -> str:
    words = ["weathermixer", name, str(out), "--out", "run"]
    return shlex.join([*words, *(word for pair in ranks.items() for word in map(str, pair))])


def _heading(states: States, best: Candidate, machine: str) -> list[str]:
    rows, columns = states.grid
    return [
        f"Made by 'weathermixer init' {__version__} for {states.path}: {len(states.channels)} "
        f"channels on {rows}×{columns} points (latitude × longitude) at {len(states.times)} times, "
        f"{states.times[0]} to {states.times[-1]}.",
        f"The mesh {layout_text(best.layout)} (data × domain × tensor) is the one that "
        f"'weathermixer plan' takes on {machine}: {best.time.total:.2g} s a step and "
        f"{size_text(round(best.step.memory_bytes))} a rank, as predicted.",
        "A setting behind a # has its default: remove the # to change it. 'weathermixer train "
        "--help' lists every setting.",
    ]


def _model_for(states: States) -> dict[str, Any]:
    """The patch, where the default one does not divide the grid or leaves very many tokens."""
    default = Model().patch
    patches = [
        (rows, columns)
        for rows in _divisors(states.grid[0])
        for columns in _divisors(states.grid[1])
    ]

    def preference(patch: tuple[int, int]) -> tuple[bool, bool, int, int]:
        tokens = math.prod(states.grid) // math.prod(patch)
        is_small = math.prod(patch) < math.prod(default)
        return tokens > _MOST_TOKENS, is_small, max(patch), -min(patch)

    if default in patches and not any(preference(default)[:2]):
        return {}
    best = min(patches, key=preference)
    return {"patch": list(best)}


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _data_for(states: States) -> dict[str, Any]:
    """What of the section ``data`` differs from the defaults: what the store lacks, and its step.

    Raises UserError where the store has nothing that could be predicted.
    """
    held: dict[str, set[int]] = {}
    for channel in map(parse_channel, states.channels):
        held.setdefault(channel.variable, set()).update(filter(None, (channel.level_hpa,)))
    variables = [name for name in VARIABLE_NAMES if name in held]
    on_levels = [held[name] for name in variables if name in PRESSURE_VARIABLES]
    levels = sorted(set.intersection(*on_levels)) if on_levels else list(LEVELS_HPA)
    if not levels:
        variables = [name for name in variables if name not in PRESSURE_VARIABLES]
        levels = list(LEVELS_HPA)
    if not variables:
        raise UserError(
            f"{states.path} has nothing to predict: give a store with some of "
            f"{', '.join(VARIABLE_NAMES)}"
        )
    found = {
        "variables": variables,
        "levels": levels,
        "static": [name for name in STATIC_NAMES if name in states.static_channels],
        "step_hours": _step_hours(states),
    }
    defaults = {
        "variables": list(VARIABLE_NAMES),
        "levels": list(LEVELS_HPA),
        "static": list(STATIC_NAMES),
        "step_hours": _DEFAULT_STEP_HOURS,
    }
    return {key: value for key, value in found.items() if value != defaults[key]}


def _step_hours(states: States) -> float:
    """The step that a store was made for; of an archive the default, or else its usual spacing."""
    if isinstance(states, Store) or len(states.times) < 2:
        return to_hours(states.step)
    spacing = to_hours(np.median(np.diff(states.times)))
    return _DEFAULT_STEP_HOURS if _DEFAULT_STEP_HOURS % spacing == 0 else spacing
