"""Runs with random weights, for tests that forecast."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from support.waves import wave_config
from weathermixer.data.channels import names, predicted_channels
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.store.store import Store
from weathermixer.errors import UserError
from weathermixer.forecast.forecast import forecast
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.architecture import architecture_of
from weathermixer.runs.building import build_model
from weathermixer.runs.checkpoint import checkpoint_path
from weathermixer.runs.run import Run, model_tensors
from weathermixer.runs.saving import save


def write_run(
    path: Path,
    waves: Path,
    *,
    scale: float,
    training: Mapping[str, Any] | None = None,
    patch: tuple[int, int] = (4, 4),
    model: Mapping[str, Any] | None = None,
    **data: Any,
) -> Path:
    """Save a run with normally distributed weights of this standard deviation."""
    config = wave_config(
        waves,
        training=dict(training or {}),
        model={"patch": patch, **(model or {})},
        data=data,
    )
    store = Store.open(waves)
    normalisation = Normalisation.from_store(
        store,
        names(predicted_channels(config.data)),
        config.data.static,
        store.training_period,
        diagnostic=config.data.diagnostic,
    )
    run = Run.create(path, config, normalisation, Path.touch)
    architecture = architecture_of(config.data, config.model, normalisation.grid)
    built = build_model(architecture, config.training, normalisation)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in built.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(scale * noise.to(parameter.dtype))
    save(checkpoint_path(run.checkpoints, 7), model_tensors(built))
    return path


def forecast_on(
    mesh: Mesh,
    run: Path,
    store: Path,
    out: Path,
    init: str,
    steps: int,
    members: int | None = None,
) -> str | None:
    """What a rank does: the forecast on this mesh, or the sentence that refuses it."""
    layout = mesh.layout
    sizes = [f"parallel.{axis}={getattr(layout, axis)}" for axis in ("data", "domain", "tensor")]
    try:
        forecast(run, store, init, steps, out, members=members, overrides=sizes)
    except UserError as error:
        return str(error)
    return None
