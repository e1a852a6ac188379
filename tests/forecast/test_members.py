"""Ensembles: members that differ by what is drawn for them, and by nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from oracles.mixer import next_state
from support.forecast_runs import forecast_on, write_run
from support.ranks import Pool
from support.selection import exhaustive
from support.waves import CHANNELS, wave_config, write_waves
from weathermixer.data.store.store import Store
from weathermixer.errors import UserError
from weathermixer.forecast.forecast import forecast
from weathermixer.jigsaw.layout import Layout
from weathermixer.model.noise import draw_noise
from weathermixer.runs.run import Run
from weathermixer.training.loop import TrainingLoop

INIT, STEPS, MEMBERS = "2001-01-02,2001-01-03", 2, 3
NAMES = ("temperature", "2m_temperature")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run in float64 whose norms are modulated by two numbers and one of each token."""
    folder = tmp_path_factory.mktemp("noisy")
    waves = write_waves(folder / "waves.zarr")
    training = {"dtype": "float64", "seed": 4}
    return write_run(
        folder / "run",
        waves,
        scale=0.05,
        training=training,
        model={"noise": 2, "local_noise": 1},
    ), waves


@pytest.fixture(scope="module")
def ensemble(run: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    out = tmp_path_factory.mktemp("ensemble") / "f.zarr"
    forecast(*run, INIT, STEPS, out, members=MEMBERS)
    return xr.open_zarr(out).load()


def channels(dataset: xr.Dataset) -> NDArray[np.float32]:
    """``(time, member, lead, channel, latitude, longitude)``."""
    fields = [dataset["temperature"].isel(level=0), dataset["2m_temperature"]]
    return np.stack([each.values for each in fields], axis=-3)


def by_hand(run: Path, store: Path) -> NDArray[np.float64]:
    """All members by the description of the network, in K."""
    opened, source = Run.open(run), Store.open(store)
    weights = {name: parameter.detach().numpy()
               for name, parameter in opened.load_model().named_parameters()}  # fmt: skip
    normalisation = opened.normalisation
    members = np.empty((2, MEMBERS, STEPS, 2, 8, 16))
    for place, day in enumerate((2, 3)):
        time = np.datetime64(f"2001-01-0{day}", "s")
        initial = source.read(source.index_of(time), source.channel_indices(CHANNELS))
        for member in range(MEMBERS):
            state = normalisation.normalise(initial.astype(np.float64))
            for lead in range(STEPS):
                key = (int(time.astype(np.int64)), member, lead)
                # Of each of 4 × 2 tokens, longitude by longitude, after those of all; then of
                # each of 8 × 16 points.
                drawn = draw_noise(2 + 8 + 128, [key], seed=4)[0].numpy()
                state = next_state(
                    state,
                    normalisation.static.astype(np.float64),
                    weights,
                    patch=(4, 4),
                    blocks=2,
                    increment_scale=normalisation.increment_scale,
                    noise=drawn[:2],
                    local_noise=drawn[2:10].reshape(4, 2, 1),
                    point_noise=drawn[10:].reshape(8, 16),
                )
                members[place, member, lead] = normalisation.restore(state)
    return members


def test_members_are_forecasts_with_noise_of_their_own(
    run: tuple[Path, Path], ensemble: xr.Dataset
) -> None:
    dimensions = ("time", "realization", "prediction_timedelta", "latitude", "longitude")
    assert ensemble["2m_temperature"].dims == dimensions
    assert ensemble["temperature"].dims == (*dimensions[:3], "level", *dimensions[3:])
    assert ensemble["realization"].values.tolist() == [0, 1, 2]
    made = channels(ensemble)
    np.testing.assert_allclose(made, by_hand(*run), rtol=1.2e-7)
    assert np.all(np.std(made, axis=1).mean(axis=(-2, -1)) > 1e-3)


@pytest.mark.parametrize(
    "layout", [Layout(data=2), *exhaustive(Layout(domain=2, tensor=2), Layout(domain=3))], ids=str
)
def test_members_are_the_same_on_every_mesh(
    pool: Pool, layout: Layout, run: tuple[Path, Path], ensemble: xr.Dataset, tmp_path: Path
) -> None:
    asked = (INIT, STEPS, MEMBERS)
    said = pool.run(forecast_on, layout, *run, tmp_path / "many.zarr", *asked)
    assert said == [None] * layout.world_size
    many = xr.open_zarr(tmp_path / "many.zarr").load()
    np.testing.assert_allclose(channels(many), channels(ensemble), rtol=1.2e-7)


def test_a_seed_makes_other_members_and_fewer_are_the_first(
    run: tuple[Path, Path], ensemble: xr.Dataset, tmp_path: Path
) -> None:
    one = INIT.partition(",")[0]
    forecast(*run, one, STEPS, tmp_path / "fewer.zarr", members=2)
    fewer = channels(xr.open_zarr(tmp_path / "fewer.zarr"))
    np.testing.assert_allclose(fewer, channels(ensemble)[:1, :2], rtol=1.2e-7)
    forecast(*run, one, 1, tmp_path / "other.zarr", members=2, overrides=["training.seed=5"])
    other = channels(xr.open_zarr(tmp_path / "other.zarr"))
    assert np.all(np.abs(other - fewer[:, :, :1]).max(axis=(-2, -1)) > 1e-3)
    with pytest.raises(UserError, match=r"training\.seed=5 cannot change a forecast"):
        forecast(*run, one, 1, tmp_path / "single.zarr", overrides=["training.seed=5"])


@pytest.mark.parametrize(
    ("model", "cause"),
    [
        ({}, "the network has no noise"),
        ({"noise": 2}, "the network has learned nothing of its noise"),
        ({"dropout": 0.2}, None),
    ],
    ids=["none", "unlearned", "dropout"],
)
def test_members_that_will_be_equal_are_warned_about(
    model: dict[str, Any],
    cause: str | None,
    run: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scale = 0.0 if "noise" in model else 0.05
    untrained = write_run(tmp_path / "run", run[1], scale=scale, model=model)
    forecast(untrained, run[1], "2001-01-02", 1, tmp_path / "f.zarr", members=2)
    said = capsys.readouterr().err
    made = channels(xr.open_zarr(tmp_path / "f.zarr"))
    assert np.array_equal(made[:, 0], made[:, 1]) == (cause is not None)
    assert ("all members will be equal" in said) == (cause is not None)
    if cause is not None:
        assert f"since {cause}: train it with model.local_noise" in said


def test_members_that_will_hardly_differ_are_warned_about(
    run: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    single = wave_config(run[1], model={"local_noise": 2, "blocks": 1}, training={"steps": 3})
    with TrainingLoop.begin(single, tmp_path / "run") as loop:
        loop.step()
        loop.save()
    forecast(tmp_path / "run", run[1], "2001-01-02", 1, tmp_path / "f.zarr", members=2)
    made = channels(xr.open_zarr(tmp_path / "f.zarr"))
    assert not np.array_equal(made[:, 0], made[:, 1])
    cause = "the network has learned nothing of its noise"
    assert f"all members will hardly differ, since {cause}" in capsys.readouterr().err
