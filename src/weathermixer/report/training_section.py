"""What the page says of a run: its size, its mesh, its data and all settings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weathermixer.config import Config, settings
from weathermixer.console import size_text
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.model.architecture import architecture_of
from weathermixer.model.mixer import count_parameters
from weathermixer.report.formatting import grouped_number, label_of, short_number
from weathermixer.report.training_curves import training_charts
from weathermixer.report.training_log import TrainingLog
from weathermixer.runs.checkpoint_index import stored_shapes
from weathermixer.runs.run import Run

_TRAINING = "training.json"  # beside the configuration, in a run's folder


@dataclass(frozen=True)
class Setting:
    """A setting of a run: its key within its section, its value, its meaning and its default.

    ``is_default`` says that the value is the default one.
    """

    key: str
    value: str
    meaning: str
    default: str
    is_default: bool


@dataclass(frozen=True)
class ChannelValidation:
    """Validated RMSE of a channel relative to persistence: the newest, the lowest, and its step."""

    label: str
    newest: str
    lowest: str
    lowest_step: int


@dataclass(frozen=True)
class TrainingSection:
    """What the page says of a run in the folder ``path``.

    ``parameters`` is their number; ``steps_done`` of ``steps_wanted`` were taken. ``facts`` are
    pairs of name and value, ``sections`` the settings by section, ``charts`` the curves of its log,
    for the page's script, and ``channels`` what its validations say of each channel.
    """

    path: str
    parameters: int
    steps_done: int
    steps_wanted: int
    facts: tuple[tuple[str, str], ...]
    sections: tuple[tuple[str, tuple[Setting, ...]], ...]
    charts: tuple[dict[str, Any], ...]
    channels: tuple[ChannelValidation, ...]

    @classmethod
    def read(cls, run: Run) -> TrainingSection:
        """The section about a run.

        Raises UserError where its configuration, data description, log or checkpoint is damaged.
        """
        config, normalisation = run.config, run.normalisation
        log = TrainingLog.read(run.log)
        newest = run.newest_checkpoint()
        checkpoint = newest.name if newest else "none yet"
        parameters = (
            # Of a network that may be another one than the settings describe.
            sum(map(math.prod, stored_shapes(newest, "model").values()))
            if newest
            else count_parameters(architecture_of(config.data, config.model, normalisation.grid))
        )
        return cls(
            path=str(run.path),
            parameters=parameters,
            steps_done=log.last_step,
            steps_wanted=config.training.steps,
            facts=tuple(_facts(run, normalisation, log, parameters, checkpoint)),
            sections=tuple(_sections(config)),
            charts=tuple(training_charts(log, config.training)),
            channels=tuple(_channels(log)),
        )


def _facts(
    run: Run,
    normalisation: Normalisation,
    log: TrainingLog,
    parameters: int,
    checkpoint: str,
) -> Iterator[tuple[str, str]]:
    config = run.config
    model, training = config.model, config.training
    rows, columns = normalisation.grid
    tokens = -(-rows // model.patch[0]) * -(-columns // model.patch[1])
    yield "Parameters", grouped_number(parameters)
    yield "Mesh (data × domain × tensor)", _mesh(run)
    yield "Grid (latitude × longitude)", f"{rows} × {columns}"
    yield "Tokens", f"{grouped_number(tokens)} of {model.patch[0]} × {model.patch[1]} grid points"
    yield (
        "Channels",
        f"{len(normalisation.channels)} predicted, {len(normalisation.static_channels)} static",
    )
    yield "Forcings", ", ".join(config.data.forcings).replace("_", " ") or "none"
    yield "Latent channels × blocks", f"{model.channels} × {model.blocks}"
    yield "Step", f"{config.data.step_hours:g} h"
    yield "Arithmetic", training.dtype
    yield "Steps taken", f"{grouped_number(log.last_step)} of {grouped_number(training.steps)}"
    if "samples" in log.columns and log.last_step:
        yield "Samples seen", grouped_number(int(log.columns["samples"][-1]))
    if math.isfinite(log.samples_per_second):
        yield "Samples per second, median", short_number(log.samples_per_second)
    yield from _effort_facts(log)
    if math.isfinite(log.hours):
        yield "Time in training", _duration(log.hours)
    if log.validation:
        step, loss, relative = log.validation[-1]
        yield f"Validation loss, step {grouped_number(step)}", short_number(loss)
        if math.isfinite(relative):
            yield "RMSE relative to persistence, validation", short_number(relative)
    yield "Newest checkpoint", checkpoint


def _effort_facts(log: TrainingLog) -> Iterator[tuple[str, str]]:
    """What steps took, as medians over the log; what it does not hold is left out."""
    seconds, predicted = log.median("seconds_per_step"), log.median("predicted_seconds_per_step")
    if math.isfinite(seconds) and math.isfinite(predicted):
        yield (
            "Seconds a step, median, and predicted",
            f"{short_number(seconds)}, {short_number(predicted)}",
        )
    peak = log.median("peak_fraction")
    if math.isfinite(peak):
        yield "Of the machine’s rate of matrix products, median", f"{100.0 * peak:.3g} %"
    for column, name in (
        ("waited_for_data", "Seconds a step waited for samples, median"),
        ("waited_for_ranks", "Seconds a step waited for other ranks, median"),
    ):
        if math.isfinite(log.median(column)):
            yield name, short_number(log.median(column))
    memory = log.columns.get("peak_memory_bytes")
    if memory is not None and np.isfinite(memory).any():
        yield "Most memory of a rank", size_text(float(np.nanmax(memory)))
    if math.isfinite(log.median("joules_per_sample")):
        yield "Joules a sample, median", short_number(log.median("joules_per_sample"))


def _channels(log: TrainingLog) -> Iterator[ChannelValidation]:
    for channel, errors in log.channels.items():
        step, lowest = min(errors, key=lambda entry: entry[1])
        newest = errors[-1][1]
        yield ChannelValidation(label_of(channel), short_number(newest), short_number(lowest), step)


def _mesh(run: Run) -> str:
    """The mesh that the newest training of a run used, else the one of its settings."""
    parallel = run.config.parallel
    axes = _recorded_mesh(run.path / _TRAINING) or (parallel.data, parallel.domain, parallel.tensor)
    if None in axes:
        return "not recorded"
    ranks = math.prod(axis for axis in axes if axis is not None)
    return f"{' × '.join(map(str, axes))} = {ranks} {'rank' if ranks == 1 else 'ranks'}"


def _recorded_mesh(path: Path) -> tuple[int, int, int] | None:
    """The mesh ``(data, domain, tensor)`` that a training recorded; None where it recorded none."""
    try:
        layout = json.loads(path.read_text(encoding="utf-8"))["layout"]
        return int(layout["data"]), int(layout["domain"]), int(layout["tensor"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not there yet, or damaged: no reason to withhold the page


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
