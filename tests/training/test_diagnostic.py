"""A variable that is only predicted, from an archive in millimetres to its scores."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

from oracles.loss import increment_loss
from support.waves import wave_config, write_waves
from support.weatherbench import as_dataset, write_archive
from weathermixer.data.making.preparation import prepare
from weathermixer.data.store.store import Store
from weathermixer.errors import UserError
from weathermixer.forecast.forecast import forecast
from weathermixer.runs.run import Run
from weathermixer.training.trainer import train
from weathermixer.verification.verify import verify

RAIN = "total_precipitation_6hr"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Waves of temperature, and of precipitation in millimetres."""
    folder = tmp_path_factory.mktemp("rain")
    dataset = as_dataset(Store.open(write_waves(folder / "waves.zarr", diagnostic=(RAIN,))))
    for name in ("temperature", "2m_temperature"):
        dataset[name].attrs["units"] = "K"
    dataset["land_sea_mask"] = dataset["land_sea_mask"] / 4.0 + 0.25
    dataset[RAIN] = (1000.0 * dataset[RAIN]).assign_attrs(units="mm")
    return write_archive(dataset, folder / "archive.zarr")


def test_it_is_learned_forecast_and_verified_without_being_given(
    archive: str, tmp_path: Path
) -> None:
    config = wave_config(
        tmp_path / "s.zarr",
        data={"diagnostic": [RAIN]},
        training={"steps": 40, "dtype": "float64", "rollout": 2, "learning_rate": 0.01},
    )
    store = prepare(tmp_path / "s.zarr", [archive], config=config)
    assert store.channels == ("temperature_850", "2m_temperature", RAIN)
    with xr.open_zarr(archive) as dataset:
        millimetres = dataset[RAIN].isel(time=7).values
    np.testing.assert_allclose(store.read(7)[2], millimetres / 1000.0, rtol=1e-6)

    result = train(config, tmp_path / "run", console=Console(file=io.StringIO()))
    assert Run.open(tmp_path / "run").normalisation.channels == store.channels
    assert result.validation[40].relative_rmse[RAIN] < 0.9

    # A forecast begins with no precipitation.
    dry = prepare(tmp_path / "dry.zarr", [archive], config=wave_config(tmp_path / "dry.zarr"))
    assert RAIN not in dry.channels
    forecast(tmp_path / "run", dry.path, "2001-01-10,2001-01-12", 4, tmp_path / "f.zarr")
    with xr.open_zarr(tmp_path / "f.zarr") as made:
        assert made[RAIN].attrs["units"] == "m"
        assert bool(np.isfinite(made[RAIN]).all())
    found = verify(tmp_path / "f.zarr", store.path).to_json()
    for scores in (found["scores"], found["baselines"]["persistence"]):
        assert list(map(float, scores["rmse"][RAIN])) == [6.0, 12.0, 18.0, 24.0]


def test_the_first_loss_is_that_of_persistence_and_of_the_mean(
    archive: str, tmp_path: Path
) -> None:
    """The oracle's loss, in which errors of a diagnostic channel count in units of its own spread.

    The network is given an earlier state too; it is the newest that persists.
    """
    config = wave_config(
        tmp_path / "s.zarr",
        data={
            "diagnostic": [RAIN],
            "input_times": 2,
            "train": "2001-01-01T18/2001-01-02T06",
        },
        training={"steps": 1, "warmup_steps": 0, "dtype": "float64", "instance_batch": 1},
    )
    store = prepare(tmp_path / "s.zarr", [archive], config=config)
    result = train(config, tmp_path / "run", console=Console(file=io.StringIO()))
    mean, std, step_std = (
        getattr(store.statistics_over((store.times[3], store.times[5])), name)
        for name in ("mean", "std", "step_std")
    )
    before, after = (
        (store.read(index).astype(np.float64) - mean[:, None, None]) / std[:, None, None]
        for index in (4, 5)
    )
    predicted = np.concatenate([before[:2], np.zeros_like(before[2:])])
    expected = increment_loss(
        predicted[None], after[None], std, np.array([*step_std[:2], std[2]]), store.latitude
    )
    assert result.loss[0] == pytest.approx(expected, rel=1e-6)


def test_without_a_word_of_it_a_store_is_made_as_before(archive: str, tmp_path: Path) -> None:
    store = prepare(tmp_path / "s.zarr", [archive])
    assert store.channels == ("temperature_850", "2m_temperature")


def test_what_the_network_is_given_is_not_diagnostic(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"lists '2m_temperature', which data\.variables lists too"
    ):
        wave_config(tmp_path, data={"diagnostic": ["2m_temperature"]})
    with pytest.raises(ValueError, match=r"list total_precipitation_6hr in data\.diagnostic"):
        wave_config(tmp_path, data={"variables": ["total_precipitation_6hr"]})


def test_a_store_without_it_is_refused_with_its_name(tmp_path: Path) -> None:
    store = write_waves(tmp_path / "s.zarr")
    config = wave_config(store, data={"diagnostic": [RAIN]})
    with pytest.raises(UserError, match=f"lacks.*{RAIN}"):
        train(config, tmp_path / "run", console=Console(file=io.StringIO()))
