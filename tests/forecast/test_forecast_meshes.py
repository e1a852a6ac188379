"""Forecasts by several ranks, each of which holds and writes its own part of every state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from numpy.typing import NDArray

from support.forecast_runs import forecast_on, write_run
from support.ranks import Pool
from support.waves import write_waves
from weathermixer.config import FORCING_NAMES
from weathermixer.data.store.store import Store
from weathermixer.errors import UserError
from weathermixer.forecast import batches
from weathermixer.forecast.forecast import forecast
from weathermixer.forecast.rollout import rollout
from weathermixer.jigsaw.exchange import total_over
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.architecture import architecture_of
from weathermixer.model.cuts import Part
from weathermixer.runs.run import Run

INIT, STEPS = "2001-01-02/2001-01-04/12h", 5
ASKED = (INIT, STEPS)
MESHES = [
    Layout(domain=3),
    Layout(domain=2),
    Layout(tensor=2),
    Layout(data=2),
    Layout(domain=2, tensor=2),
    Layout(data=2, domain=2),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run in float64 with forcings, and its store: two channels, four columns of patches."""
    folder = tmp_path_factory.mktemp("float64")
    waves = write_waves(folder / "waves.zarr")
    return write_run(
        folder / "run",
        waves,
        scale=0.05,
        training={"dtype": "float64"},
        model={"overlap": 2, "smoothing": 1},
        forcings=FORCING_NAMES,
        input_times=2,
    ), waves


def roll_out(mesh: Mesh, run: Path, store: Path) -> tuple[Part, NDArray[np.float64]]:
    """A rank's part of the states after each step, normalised, before anything is rounded."""
    opened, source = Run.open(run), Store.open(store)
    config = opened.config
    part = Part.on(mesh, architecture_of(config.data, config.model, source.grid))
    own = part.of(opened.normalisation)
    model = opened.load_model(config, mesh)
    states_before = [
        source.read(index, source.channel_indices(own.channels), part.longitudes)
        for index in (9, 8)
    ]
    recent = [
        torch.from_numpy(own.normalise(state.astype(np.float64)))[None] for state in states_before
    ]
    static = torch.from_numpy(own.static).to(torch.float64)
    forcings = part.forcings_of(config.data, opened.normalisation)
    of_steps = [np.empty((1, *forcings.shape)) for _ in range(STEPS)]
    for fields, time in zip(of_steps, source.times[9:], strict=False):
        forcings.fill(fields[0], time)
    given = ((static, torch.from_numpy(fields)) for fields in of_steps)
    states = [later[0].numpy() for later in rollout(model, recent, given)]
    return part, np.stack(states)


def forecast_until(mesh: Mesh, run: Path, store: Path, out: Path, number: int) -> None:
    """The same, stopped after some batches of two initial times were written."""
    met = 0

    def meet_or_stop(*arguments: Any) -> Any:
        nonlocal met
        met += 1
        if met > number:
            raise KeyboardInterrupt
        return total_over(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "_LARGEST_BATCH", 2)
        patch.setattr(batches, "total_over", meet_or_stop)
        with pytest.raises(KeyboardInterrupt):
            forecast_on(mesh, run, store, out, *ASKED)


@pytest.mark.parametrize("layout", [m for m in MESHES if m.ways > 1], ids=str)
def test_states_are_those_of_one_rank_before_they_are_rounded(
    pool: Pool, layout: Layout, run: tuple[Path, Path]
) -> None:
    _, whole = roll_out(Mesh.describe(), *run)
    for part, states in pool.run(roll_out, layout, *run):
        expected = whole[:, part.channels, :, part.longitudes]
        assert np.abs(states - expected).max() <= 1e-10 * np.abs(whole).max()


@pytest.mark.parametrize("layout", MESHES, ids=str)
def test_a_forecast_is_the_same_on_every_mesh(
    pool: Pool, layout: Layout, run: tuple[Path, Path], tmp_path: Path
) -> None:
    forecast(*run, INIT, STEPS, tmp_path / "one.zarr")
    assert (
        pool.run(forecast_on, layout, *run, tmp_path / "many.zarr", *ASKED)
        == [None] * layout.world_size
    )
    one = xr.open_zarr(tmp_path / "one.zarr").load()
    many = xr.open_zarr(tmp_path / "many.zarr").load()
    for name, values in one.data_vars.items():
        # Float64 states differ by rounding at most, which may cross a boundary of float32.
        np.testing.assert_allclose(many[name], values, rtol=1.2e-7)
    xr.testing.assert_identical(many.coords.to_dataset(), one.coords.to_dataset())


def test_ranks_continue_with_the_initial_times_that_are_missing(
    pool: Pool, run: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, out = Layout(domain=2), tmp_path / "f.zarr"
    pool.run(forecast_until, layout, *run, out, 1)
    assert not out.exists()
    marks = tmp_path / "f.zarr.partial" / ".progress"
    assert {path.name for path in marks.iterdir()} == {"0", "1", "description.json"}
    assert pool.run(forecast_on, layout, *run, out, *ASKED) == [None, None]
    forecast(*run, INIT, STEPS, tmp_path / "one.zarr")
    xr.testing.assert_allclose(xr.open_zarr(out), xr.open_zarr(tmp_path / "one.zarr"), rtol=1.2e-7)


def test_an_unfinished_forecast_is_not_continued_on_a_mesh_that_would_share_its_chunks(
    pool: Pool, run: tuple[Path, Path], tmp_path: Path
) -> None:
    pool.run(forecast_until, Layout(domain=2), *run, tmp_path / "f.zarr", 1)
    with pytest.raises(UserError, match=r"unfinished forecast of another model, store.* or mesh"):
        forecast(*run, INIT, STEPS, tmp_path / "f.zarr")
