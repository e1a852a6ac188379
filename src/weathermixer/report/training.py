"""What a run is: its size, its mesh, its data and every setting."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from weathermixer.config import Config, settings
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.model.mixer import architecture_of, count_parameters
from weathermixer.report import curves
from weathermixer.report.numbers import count, short
from weathermixer.runs.run import Run


@dataclass(frozen=True)
class Setting:
    """One setting of a run; ``is_default`` where nobody has touched it."""

    key: str
    value: str
    meaning: str
    default: str
    is_default: bool


@dataclass(frozen=True)
class TrainingPart:
    """What the page says of a run; ``facts`` are (name, value)."""

    path: str
    parameters: int
    steps_done: int
    steps_wanted: int
    facts: tuple[tuple[str, str], ...]
    sections: tuple[tuple[str, tuple[Setting, ...]], ...]
    charts: tuple[dict[str, Any], ...]

    @classmethod
    def read(cls, run: Run) -> TrainingPart:
        """Raises UserError where the run's configuration, data description or log is damaged."""
        config, normalisation = run.config, run.normalisation
        log = curves.Log.read(run.log)
        parameters = count_parameters(architecture_of(config, normalisation.grid))
        newest = run.newest()
        checkpoint = newest.name if newest else "none yet"
        return cls(
            path=str(run.path),
            parameters=parameters,
            steps_done=log.last_step,
            steps_wanted=config.training.steps,
            facts=tuple(_facts(config, normalisation, log, parameters, checkpoint)),
            sections=tuple(_sections(config)),
            charts=tuple(curves.charts(log, config.training)),
        )


def _facts(
    config: Config,
    normalisation: Normalisation,
    log: curves.Log,
    parameters: int,
    checkpoint: str,
) -> Iterator[tuple[str, str]]:
    model, training = config.model, config.training
    rows, columns = normalisation.grid
    tokens = -(-rows // model.patch[0]) * -(-columns // model.patch[1])
    yield "Parameters", count(parameters)
    yield "Mesh (data × domain × tensor)", _mesh(config)
    yield "Grid (latitude × longitude)", f"{rows} × {columns}"
    yield "Tokens", f"{count(tokens)} of {model.patch[0]} × {model.patch[1]} grid points"
    yield (
        "Channels",
        f"{len(normalisation.channels)} predicted, {len(normalisation.static_channels)} static",
    )
    yield "Latent channels × blocks", f"{model.channels} × {model.blocks}"
    yield "Step", f"{config.data.step_hours:g} h"
    yield "Arithmetic", training.dtype
    yield "Steps taken", f"{count(log.last_step)} of {count(training.steps)}"
    if "samples" in log.columns and log.last_step:
        yield "Samples seen", count(int(log.columns["samples"][-1]))
    if math.isfinite(log.samples_per_second):
        yield "Samples per second, median", short(log.samples_per_second)
    if math.isfinite(log.hours):
        yield "Time in training", _duration(log.hours)
    if log.validation:
        step, loss, relative = log.validation[-1]
        yield f"Validation loss, step {count(step)}", short(loss)
        if math.isfinite(relative):
            yield "RMSE relative to persistence, validation", short(relative)
    yield "Newest checkpoint", checkpoint


def _mesh(config: Config) -> str:
    parallel = config.parallel
    axes = (parallel.data, parallel.domain, parallel.tensor)
    shown = " × ".join("chosen" if axis is None else str(axis) for axis in axes)
    if None in axes:
        return f"{shown} at the start"
    ranks = math.prod(axis for axis in axes if axis is not None)
    return f"{shown} = {ranks} {'rank' if ranks == 1 else 'ranks'}"


def _duration(hours: float) -> str:
    if hours >= 48.0:
        return f"{hours / 24.0:.1f} days"
    return f"{hours:.1f} h" if hours >= 1.5 else f"{60.0 * hours:.0f} min"


def _sections(config: Config) -> Iterator[tuple[str, tuple[Setting, ...]]]:
    """The settings of each section; those that belong to none come first."""
    values = config.model_dump(mode="json")
    defaults = Config.model_validate({"data": {"store": config.data.store}}).model_dump(mode="json")
    by_section: dict[str, list[Setting]] = {}
    for key, _, meaning in settings():
        section, _, name = key.rpartition(".")
        here, usual = (each[section] if section else each for each in (values, defaults))
        setting = Setting(
            name or key, _text(here[name]), meaning, _text(usual[name]), here[name] == usual[name]
        )
        by_section.setdefault(section or "general", []).append(setting)
    for section, members in by_section.items():
        yield section, tuple(members)


def _text(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, dict):
        return ", ".join(f"{_text(item)} from {key}" for key, item in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
