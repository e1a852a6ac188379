"""A trained network as one file to pass on, with a card that tells what it is."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml

import weathermixer
from weathermixer.config import Config, Logging, config_text
from weathermixer.errors import UserError
from weathermixer.model.architecture import Architecture, architecture_of
from weathermixer.model.arithmetic import Arithmetic
from weathermixer.model.mixer import WeatherMixer
from weathermixer.report.inputs import ReportInputs
from weathermixer.runs import checkpoint
from weathermixer.runs.export_file import SUFFIX, write_export
from weathermixer.runs.run import Run, Weights
from weathermixer.training.origin import Origin

_FILL_IN = "FILL IN"


def export_run(
    run_path: Path, out: Path, *, which: str = "newest", weights: Weights | None = None
) -> Path:
    """Write a run's network to ``out``, and a card in Markdown beside it; returns the card's path.

    ``which`` checkpoint is ``newest``, ``best``, or a number of steps; ``weights`` are by default
    the moving average, where the run keeps one, else the last ones. All of them are held in memory
    at once.

    Raises UserError where the run is none or damaged, where its network is not WeatherMixer, and
    where a file exists already or cannot be written.
    """
    if out.suffix != SUFFIX:
        raise UserError(f"an export is in safetensors, so name it {out.name}{SUFFIX}")
    card = out.with_suffix(".md")
    for path in (out, card):
        if path.exists():
            raise UserError(f"{path} exists already: choose another name, or remove it")
    run = Run.open(run_path).read()
    path = run.require_checkpoint(which)
    weights = run.weights_of(path, weights)
    config, normalisation = run.config, run.normalisation
    architecture = architecture_of(config.data, config.model, normalisation.grid)
    dtype = Arithmetic.of(config.training.dtype).states
    tensors = _weights(architecture, dtype, path, run.kind_of(weights))
    about = {"checkpoint": path.name, "weights": weights}
    text = config_text(_without_places(config))
    write_export(out, about, asdict(architecture), text, normalisation, tensors)
    number = sum(tensor.numel() for tensor in tensors.values())
    try:
        card.write_text(_card(run, out, path, number), encoding="utf-8")
    except OSError as error:
        raise UserError(f"the card {card} cannot be written ({error.strerror})") from error
    return card


def _without_places(config: Config) -> Config:
    """The configuration without what tells of a machine: folders, and services that kept logs."""
    data = config.data.model_copy(update={"store": Path(config.data.store).name})
    return config.model_copy(update={"data": data, "logging": Logging()})


def _weights(
    architecture: Architecture, dtype: torch.dtype, path: Path, kind: str
) -> dict[str, torch.Tensor]:
    tensors = {
        name: torch.empty(parameter.shape, dtype=dtype)
        for name, parameter in WeatherMixer(architecture, device="meta").named_parameters()
    }
    checkpoint.load(path, {f"{kind}.{name}": tensor for name, tensor in tensors.items()})
    return tensors


def _card(run: Run, out: Path, path: Path, parameters: int) -> str:
    """The card: what is known of the network, and what whoever publishes it has to fill in."""
    config, grid = run.config, run.normalisation.grid
    data, training = config.data, config.training
    head: dict[str, Any] = {
        "library_name": "weathermixer",
        "license": _FILL_IN,
        "tags": ["weather", "forecasting"],
    }
    origin = Origin.read(run.origin)
    period = f"{origin.first} to {origin.last}, {origin.pairs} pairs" if origin else "not known"
    verified = ReportInputs.find(run.path).verified
    is_scored = verified is not None and verified.attributes.get("checkpoint") == path.name
    levels = ", ".join(f"{level:g}" for level in data.levels)
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False).rstrip(),
        "---",
        "",
        f"# {out.stem}",
        "",
        f"A WeatherMixer of {parameters:,} parameters, which makes the state of the atmosphere "
        f"{data.step_hours:g} hours later of "
        + ("one state." if data.input_times == 1 else f"the latest {data.input_times} states."),
        "",
        "## What it forecasts",
        "",
        f"* grid: {grid[0]} × {grid[1]}, latitude × longitude",
        f"* variables: {', '.join((*data.variables, *data.diagnostic))}",
        f"* levels: {levels} hPa",
        f"* static fields: {', '.join(data.static) or 'none'}; forcings: "
        f"{', '.join(data.forcings) or 'none'}",
        "",
        "```",
        f"weathermixer forecast {out.name} --store STORE --init TIME --steps 40 --out FORECAST",
        f"weathermixer train CONFIG --from {out.name} --out run",
        "```",
        "",
        "## What it learned from",
        "",
        f"* states of {period} ({_FILL_IN}: where they are from, and their licence)",
        f"* {training.steps:,} steps, seed {training.seed}, {training.dtype}; {path.name}; "
        f"WeatherMixer {weathermixer.__version__}",
        "",
        "## How well it forecasts",
        "",
    ]
    if verified is not None and is_scored:
        lines += ["```", verified.verification.render().rstrip(), "```"]
    else:
        lines.append(
            f"{_FILL_IN}: no scores of this checkpoint were found in the run or beside it."
        )
    lines += [
        "",
        "## Licence, authors, limits",
        "",
        f"* licence of the weights: {_FILL_IN}",
        f"* authors, and how to cite it: {_FILL_IN}",
        f"* what it is not for: {_FILL_IN}",
        "",
    ]
    return "\n".join(lines)
