"""What tests of forecasts in Earth2Studio share: states, forecasts of ours, work for ranks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from support.forecast_runs import write_run
from weathermixer.config import Config
from weathermixer.earth2studio import CutEarth2Model, Earth2Model
from weathermixer.earth2studio.model import Coordinates
from weathermixer.earth2studio.names import earth2studio_name
from weathermixer.errors import UserError
from weathermixer.forecast.forecast import forecast
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.job import connect_for_forecasts
from weathermixer.model.architecture import Architecture

ROOT = Path(__file__).resolve().parents[2]
TIMES, STEPS = ["2001-01-05T06", "2001-01-06T12"], 3
INIT = ",".join(TIMES)
VARIABLES = ["t500", "t850", "t2m"]


def e2s_times() -> list[np.datetime64]:
    return [np.datetime64(time, "ns") for time in TIMES]


def our_forecast(
    run: Path, waves: Path, folder: Path, *, steps: int = STEPS, members: int | None = None
) -> xr.Dataset:
    """The same forecasts, as the command makes them."""
    out = folder / f"ours-{members}.zarr"
    forecast(run, waves, INIT, steps, out, members=members)
    return xr.open_zarr(out, decode_timedelta=True)


def given(model: Earth2Model, source: Path) -> tuple[torch.Tensor, Coordinates]:
    """What a workflow would give to the model at the initial times."""
    coords = model.input_coords()
    del coords["batch"]
    coords["time"] = np.array(e2s_times())
    states = xr.open_dataarray(source)
    leads = [states.sel(time=coords["time"] + lead).values for lead in coords["lead_time"]]
    return torch.from_numpy(np.stack(leads, axis=1)), coords


def take(
    model: Earth2Model, x: torch.Tensor, coords: Coordinates, number: int
) -> list[tuple[torch.Tensor, Coordinates]]:
    """So many states of the iterator."""
    return [step for step, _ in zip(model.create_iterator(x, coords), range(number), strict=False)]


def require_members(made: Any, ours: xr.Dataset) -> None:
    """Compare ``(ensemble, time, lead time, ...)`` with an ensemble of ours, to rounding."""
    for name in VARIABLES:
        fields, expected = np.asarray(made[name])[:, :, 1:], np.moveaxis(field(ours, name), 1, 0)
        # Another number of forecasts is computed together.
        np.testing.assert_allclose(fields, expected, rtol=0, atol=2e-5 * expected.std())
        assert fields.std(axis=0).max() > 0.01, "members differ"


def run_of(waves: Path, folder: Path, **changes: Any) -> Path:
    data = {"levels": [500, 850], "input_times": 2} | changes.pop("data", {})
    run = write_run(folder / "run", waves, scale=0.05, **changes, **data)
    (run / "origin.json").unlink()  # an empty one
    return run


def field(forecasts: xr.Dataset, name: str) -> np.ndarray:
    """A variable of ours under its name in Earth2Studio's vocabulary."""
    for variable, values in forecasts.data_vars.items():
        levels = values.level.values if "level" in values.dims else [None]
        for level in levels:
            channel = str(variable) if level is None else f"{variable}_{level}"
            if earth2studio_name(channel) == name:
                return np.asarray(values if level is None else values.sel(level=level))
    raise AssertionError(name)


def initial(source: Path, name: str) -> NDArray[np.float32]:
    """The states ``(time, 1, latitude, longitude)`` of a variable at the initial times."""
    states = xr.open_dataarray(source).sel(variable=name, time=e2s_times())
    return states.values[:, None]


def lead_workflow(
    mesh: Mesh,
    path: Path,
    source: Path,
    times: Sequence[str],
    steps: int,
    members: int | None = None,
) -> dict[str, NDArray[Any]] | str | None:
    """What a rank does: the workflow on the first, which has its fields, or what refuses it."""
    sizes = [f"parallel.{axis}={getattr(mesh.layout, axis)}" for axis in ("domain", "tensor")]
    model = CutEarth2Model(path, overrides=sizes)
    try:
        return model.lead(lambda: _fields(model, source, times, steps, members))
    except UserError as error:
        return str(error)


def _fields(
    model: CutEarth2Model, source: Path, times: Sequence[str], steps: int, members: int | None
) -> dict[str, NDArray[Any]]:
    # On the first rank alone: it takes half a minute to import.
    from earth2studio.data import DataArrayFile
    from earth2studio.io import KVBackend
    from earth2studio.perturbation import Zero
    from earth2studio.run import deterministic, ensemble

    data, writer = DataArrayFile(str(source)), KVBackend()
    when = [np.datetime64(time, "ns") for time in times]
    if members is None:
        deterministic(when, steps, model, data, writer, verbose=False)
    else:
        ensemble(when, steps, members, model, data, writer, Zero(), batch_size=2, verbose=False)
    return {name: np.asarray(writer.root[name]) for name in model.input_coords()["variable"]}


def alternate(
    mesh: Mesh, path: Path, states: NDArray[np.float32], times: Sequence[str], steps: int
) -> list[NDArray[np.float32]] | None:
    """What a rank does: forecasts from two times, by turns; the last states of both."""
    import torch

    sizes = [f"parallel.{axis}={getattr(mesh.layout, axis)}" for axis in ("domain", "tensor")]
    model = CutEarth2Model(path, overrides=sizes)

    def by_turns() -> list[NDArray[np.float32]]:
        begun = []
        for state, time in zip(states, times, strict=True):
            coords = model.input_coords()
            del coords["batch"]
            coords["time"] = np.array([time], dtype="datetime64[ns]")
            begun.append(model.create_iterator(torch.from_numpy(state)[None], coords))
        for _ in range(steps):
            for iterator in begun:
                next(iterator)
        first = next(begun[0])[0].numpy()
        begun[0].close()  # type: ignore[attr-defined]
        return [first, next(begun[1])[0].numpy()]

    return model.lead(by_turns)


def step_without_lead(mesh: Mesh, path: Path, states: NDArray[np.float32]) -> str:
    """What a rank does: a step that the others do not hear of; the sentence that refuses it."""
    model = CutEarth2Model(path)
    coords = model.input_coords()
    del coords["batch"]
    coords["time"] = np.array(TIMES[:1], dtype="datetime64[ns]")
    try:
        model(torch.from_numpy(states)[None], coords)
    except UserError as error:
        return str(error)
    return ""


def narrow_mesh(mesh: Mesh, config: Config, architecture: Architecture) -> torch.dtype | None:
    """What a rank does: connect for forecasts; the type that products are exchanged in."""
    return connect_for_forecasts(config, architecture).domain.exchange_dtype
