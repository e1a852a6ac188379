"""The planet's own physics as a forecaster: what it is refused for, and how well it forecasts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from weathermixer.cli import main
from weathermixer.data.making.planet import grid_coordinates
from weathermixer.data.making.planet_numerics import TRUTH, PlanetNumerics
from weathermixer.data.making.planet_simulation import CHANNELS, STEP, planet_on
from weathermixer.data.store.store import Store
from weathermixer.data.store.store_description import StoreDescription
from weathermixer.data.store.store_writer import StoreWriter
from weathermixer.errors import UserError
from weathermixer.forecast.nwp import forecast_planet

GRID = (32, 64)
SPIN_UP = 160  # of six hours
START = np.datetime64("2001-03-01T00", "s")
SOURCE = "simulated Earth: SPEEDY physics at T21, 8 layers (jcm 3.0.0)"


def write_store(
    path: Path,
    states: Iterable[NDArray[np.float32]],
    *,
    source: str = SOURCE,
    channels: tuple[str, ...] = CHANNELS,
    hours: float = 6.0,
    latitude: NDArray[np.float64] | None = None,
) -> Path:
    """A store as ``data planet`` would make it, all of which but the end is the training period."""
    kept = list(states)
    own_latitude, longitude = grid_coordinates(GRID)
    times = START + np.arange(len(kept)) * np.timedelta64(round(3600 * hours), "s")
    description = StoreDescription(
        channels, times, own_latitude if latitude is None else latitude, longitude, hours,
        attributes={"sources": [source]},
    )  # fmt: skip
    writer = StoreWriter.create(path, description)
    for block in writer.missing_blocks():
        for _ in writer.write_block(block, kept.__getitem__):
            pass
    writer.finish((times[0], times[len(kept) * 3 // 4]))
    return path


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A planet on which nothing ever happens: enough to be refused something."""
    path = tmp_path_factory.mktemp("still") / "planet.zarr"
    return write_store(path, np.zeros((4, len(CHANNELS), *GRID), dtype=np.float32))


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"steps": 0}, "--steps 0 is impossible: forecast at least one step"),
        ({"init": "2001-04-01"}, "2001-04-01"),
        ({"init": "yesterday"}, "'yesterday' is not a time"),
        ({"analysis_error": -0.1}, "analysis error of -0.1 .* choose zero or more"),
    ],
)
def test_what_cannot_be_forecast_is_refused_and_nothing_begun(
    still: Path, tmp_path: Path, wanted: dict[str, Any], sentence: str
) -> None:
    arguments = {"init": "2001-03-01", "steps": 4, **wanted}
    with pytest.raises(UserError, match=sentence):
        forecast_planet(still, out=tmp_path / "nwp.zarr", **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("differing", "problem"),
    [
        ({"source": "era5.nc"}, "it was made from era5.nc"),
        ({"channels": CHANNELS[:-1]}, "it has other channels"),
        ({"hours": 12.0}, "its step is 12 h"),
        ({"latitude": np.linspace(-87.0, 87.0, GRID[0])}, "it is on another grid"),
    ],
)
def test_a_store_that_is_no_planets_is_refused(
    tmp_path: Path, differing: dict[str, Any], problem: str
) -> None:
    num_channels = len(differing.get("channels", CHANNELS))
    states = np.zeros((4, num_channels, *GRID), dtype=np.float32)
    store = write_store(tmp_path / "other.zarr", states, **differing)
    sentence = f"cannot forecast from .*other.zarr, since {problem}: give a store"
    with pytest.raises(UserError, match=sentence):
        forecast_planet(store, "2001-03-01", 4, tmp_path / "nwp.zarr")


@pytest.mark.parametrize(
    ("numerics", "sentence"),
    [
        ({"layers": 4}, "in 4 layers: choose 5 to 8"),
        ({"layers": 9}, "in 9 layers: choose 5 to 8"),
        ({"diffusion_order": 3}, "of order 3 is impossible: choose 2, 4, 6 or 8"),
        ({"diffusion_hours": 0.0}, "in 0 hours is impossible: choose a time above zero"),
        ({"diffusion_hours": float("nan")}, "choose a time above zero"),
    ],
)
def test_a_model_that_the_physics_cannot_do_with_is_refused(
    numerics: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        PlanetNumerics(**numerics)


def test_the_command_refuses_a_place_that_is_taken(
    still: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--init", "2001-03-01", "--steps", "4", "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as end:
        main(["data", "nwp", str(still), *words])
    assert end.value.code == 2
    assert f"Error: {tmp_path} exists already" in capsys.readouterr().err


def test_without_jcm_one_sentence_says_what_to_install(
    still: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planet_on.cache_clear()
    for module in ("planet_model", "planet_boundary"):
        monkeypatch.delitem(sys.modules, f"weathermixer.data.making.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(UserError, match=r"pip install 'weathermixer\[planet\]'"):
        forecast_planet(still, "2001-03-01", 4, tmp_path / "nwp.zarr")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def planet(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Six days of the planet, after forty from rest, in which storms have grown."""
    pytest.importorskip("jcm", reason="the simulated planet needs the extra 'planet'")
    model = planet_on(GRID, TRUTH)
    carry = model.start(START - (SPIN_UP + 1) * STEP, 1)
    states = []
    for _ in range(SPIN_UP + 24):
        carry, state = model.forecast(carry)
        states.append(state)
    return Store.open(
        write_store(tmp_path_factory.mktemp("planet") / "planet.zarr", states[SPIN_UP:])
    )


def squared_errors(
    forecast: Path, store: Store, channel: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean squared errors of a forecast and of persistence, ``(time, lead)``, by area."""
    variable, _, level = channel.rpartition("_")
    with xr.open_zarr(forecast, consolidated=False) as opened:
        field = opened[variable].sel(level=int(level)) if level.isdecimal() else opened[channel]
        forecasts = field.values.astype(np.float64)
        start = np.searchsorted(store.times, opened.time.values.astype("datetime64[s]"))
    place = store.channels.index(channel)
    truth = np.stack([store.read(index, [place])[0] for index in range(len(store.times))])
    valid = truth[start[:, None] + 1 + np.arange(forecasts.shape[1])].astype(np.float64)
    return mean_square(forecasts - valid), mean_square(valid - truth[start][:, None])


def mean_square(difference: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean square over the globe, of cells that end halfway between rows or at a pole."""
    rows = np.deg2rad(grid_coordinates(GRID)[0])
    edges = np.concatenate([[-np.pi / 2], (rows[1:] + rows[:-1]) / 2, [np.pi / 2]])
    weights = np.diff(np.sin(edges))[:, None] / (2 * GRID[1])
    return (weights * difference**2).sum(axis=(-2, -1))


SCORED = ("geopotential_500", "temperature_850", "v_component_of_wind_250", "2m_temperature")


@pytest.mark.exhaustive
def test_a_state_looks_the_same_from_the_layers_that_are_fitted_to_it(planet: Store) -> None:
    import jax

    model = planet_on(GRID, TRUTH)
    state = planet.read(12)
    spectral, _ = model._analysed(state)
    seen = np.asarray(jax.jit(model._channels)(spectral))
    relative = np.sqrt(mean_square(seen.astype(np.float64) - state)) / planet.statistics.step_std
    aloft = [n for n, name in enumerate(CHANNELS) if name.endswith(("_50", "_100"))]
    assert np.delete(relative, aloft).max() < 0.2
    assert relative[aloft].max() < 0.8  # over mountains, no level sees the highest layer well
    assert relative.mean() < 0.1


@pytest.mark.exhaustive
def test_the_truths_own_model_stays_near_the_truth_and_goes_on_after_a_kill(
    planet: Store, tmp_path: Path
) -> None:
    def forecast(name: str, progress: Any = None) -> Path:
        forecast_planet(
            planet.path, "2001-03-03,2001-03-04T06", 6, tmp_path / name,
            numerics=TRUTH, analysis_error=0.0, progress=progress,
        )  # fmt: skip
        return tmp_path / name

    def stop(done: int, total: int) -> None:
        assert total == 12
        if done == 8:
            raise KeyboardInterrupt

    whole = forecast("whole.zarr")
    for channel in SCORED:
        model, persistence = squared_errors(whole, planet, channel)
        relative = np.sqrt(model / persistence)
        assert relative.max() < 0.3, channel
        assert relative[:, 3:].max() < 0.15, channel
    with pytest.raises(KeyboardInterrupt):
        forecast("killed.zarr", progress=stop)
    assert not (tmp_path / "killed.zarr").exists()
    with (
        xr.open_zarr(whole, consolidated=False) as one,
        xr.open_zarr(forecast("killed.zarr"), consolidated=False) as other,
    ):
        xr.testing.assert_identical(one.load(), other.load())


@pytest.mark.exhaustive
def test_the_command_forecasts_imperfectly_and_verify_scores_it(
    planet: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "nwp.zarr"
    words = ["--init", "2001-03-03T06,2001-03-04", "--steps", "4", "--out", str(out), "--json"]
    main(["data", "nwp", str(planet.path), *words])
    result = json.loads(capsys.readouterr().out)
    assert result["forecast"] == str(out)
    assert result["lead_hours"] == [6.0, 12.0, 18.0, 24.0]
    assert result["processor_seconds_per_forecast"] > 0
    main(["verify", str(out), "--truth", str(planet.path), "--processes", "1", "--json"])
    scores = json.loads(capsys.readouterr().out)["scores"]["rmse"]
    for channel in SCORED:
        model, persistence = np.mean(squared_errors(out, planet, channel), axis=1)[:, 3]
        assert scores[channel]["24"] == pytest.approx(np.sqrt(model), rel=1e-5), channel
        # Worse than the truth's own model, which stays within 0.15, and better than nothing.
        assert 0.15 < np.sqrt(model / persistence) < 1.0, channel
