"""Zarr as WeatherBench 2 and its kin lay it out, written by xarray: read without hints."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from support.noise import LEADS, noisy
from support.planets import LATITUDES, Planet, write_forecast, write_planet
from support.selection import exhaustive
from weathermixer.errors import UserError
from weathermixer.verification.verification_record import Verification
from weathermixer.verification.verify import verify

MakePlanet = Callable[..., Planet]
ON_LEVELS = ("time", "level", "latitude", "longitude")


def _write(dataset: xr.Dataset, path: Path, **options: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of consolidated metadata in Zarr 3
        dataset.drop_encoding().to_zarr(path, **{"zarr_format": 2, "consolidated": True} | options)
    return path


def _truth(planet: Planet) -> xr.Dataset:
    """The planet's states as ERA5 in WeatherBench 2."""
    dataset = xr.Dataset(
        {
            "geopotential": (ON_LEVELS, planet.states[:, :2]),
            "2m_temperature": (("time", "latitude", "longitude"), planet.states[:, 2]),
            "land_sea_mask": (("latitude", "longitude"), planet.states[0, 0]),
            "total_cloud_cover": (("time", "latitude", "longitude"), planet.states[:, 2]),
        },
        {
            "time": planet.times.astype("datetime64[ns]"),
            "level": [500, 850],
            "latitude": planet.latitude,
            "longitude": np.arange(6.0) * 60.0,
        },
    )
    return dataset.transpose("time", "level", "longitude", "latitude")


def _climatology(planet: Planet) -> xr.Dataset:
    """The planet's climatology as WeatherBench 2 publishes its own."""
    assert planet.climatology is not None
    dims = ("hour", "dayofyear", *ON_LEVELS[1:])
    geopotential, temperature = planet.climatology[:, :, :2], planet.climatology[:, :, 2]
    return xr.Dataset(
        {
            "geopotential": (dims, geopotential, {"units": "m**2 s**-2"}),
            "2m_temperature": ((*dims[:2], *dims[3:]), temperature, {"units": "K"}),
        },
        {
            "hour": np.arange(4) * 6,
            "dayofyear": np.arange(90) + 1,
            "level": [500, 850],
            "latitude": planet.latitude,
            "longitude": np.arange(6.0) * 60.0,
        },
    ).transpose("hour", "dayofyear", "level", "longitude", "latitude")


def _assert_same(got: Verification, expected: Verification) -> None:
    assert got.scores.channels == expected.scores.channels
    assert got.scores.pairs == expected.scores.pairs
    for region, scores in expected.regions.items():
        assert got.regions[region].values.keys() == scores.values.keys()
        for source, metric, channel, _, _ in scores.rows():
            np.testing.assert_allclose(
                got.regions[region].series(source, metric, channel),
                scores.series(source, metric, channel),
                rtol=1e-9,
                atol=1e-9,
                err_msg=f"{region} {source} {metric} {channel}",
            )
    for source, values in expected.spectra.values.items():
        # Turned fields add up in another order; energies span fifteen orders of magnitude.
        largest = values.max(axis=-2, keepdims=True)
        assert np.abs((got.spectra.values[source] - values) / largest).max() < 1e-12


def _in_hours(dataset: xr.Dataset) -> xr.Dataset:
    hours = (dataset.prediction_timedelta / np.timedelta64(1, "h")).astype(int)
    return dataset.assign_coords(
        prediction_timedelta=("prediction_timedelta", hours.values, {"units": "hours"})
    )


def _in_nanoseconds(dataset: xr.Dataset) -> xr.Dataset:
    values = dataset.prediction_timedelta.values.astype("timedelta64[ns]").astype(np.int64)
    return dataset.assign_coords(
        prediction_timedelta=("prediction_timedelta", values, {"units": "nanoseconds"})
    )


def _in_short_names(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.rename(
        {
            "geopotential": "z",
            "2m_temperature": "t2m",
            "latitude": "lat",
            "longitude": "lon",
            "level": "pressure_level",
            "time": "init_time",
            "prediction_timedelta": "lead_time",
        }
    )


def _in_pascal(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.assign_coords(level=("level", dataset.level.values * 100.0, {"units": "Pa"}))


def _about_greenwich(dataset: xr.Dataset) -> xr.Dataset:
    shifted = dataset.assign_coords(longitude=(dataset.longitude + 180) % 360 - 180)
    return shifted.sortby("longitude")


LAYOUTS: dict[str, Callable[[xr.Dataset], xr.Dataset]] = {
    "longitude before latitude": lambda d: d.transpose(..., "longitude", "latitude"),
    "any order": lambda d: d.transpose("longitude", "latitude", "prediction_timedelta", ...),
    "latitude turned": lambda d: d.isel(latitude=slice(None, None, -1)),
    "longitude from -180": _about_greenwich,
    "levels downwards": lambda d: d.isel(level=slice(None, None, -1)),
    "integer hours": _in_hours,
    "integer nanoseconds": _in_nanoseconds,
    "short names": _in_short_names,
    "levels in pascal": _in_pascal,
    "initial times in disorder": lambda d: d.isel(time=[2, 0, 1]),
    "chunks of several times and leads": lambda d: d.chunk(time=2, prediction_timedelta=3),
}


@pytest.fixture(scope="module")
def scored(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Planet, xr.Dataset, Verification]:
    """A planet, forecasts of it as we lay them out, and their scores."""
    folder = tmp_path_factory.mktemp("scored")
    planet = write_planet(folder / "truth.zarr")
    inits = planet.times[:3]
    dataset = write_forecast(folder / "a.zarr", planet, noisy(planet, inits), inits, LEADS)
    return planet, dataset, verify(folder / "a.zarr", planet.truth)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_forecasts_laid_out_otherwise_score_the_same(
    scored: tuple[Planet, xr.Dataset, Verification], tmp_path: Path, layout: str
) -> None:
    planet, dataset, expected = scored
    path = _write(LAYOUTS[layout](dataset), tmp_path / "b.zarr")
    _assert_same(verify(path, planet.truth), expected)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("consolidated", [True, False])
def test_either_version_of_zarr_is_read(
    scored: tuple[Planet, xr.Dataset, Verification],
    tmp_path: Path,
    version: int,
    consolidated: bool,
) -> None:
    planet, dataset, expected = scored
    options = {"zarr_format": version, "consolidated": consolidated}
    path = _write(dataset.transpose(..., "longitude", "latitude"), tmp_path / "b.zarr", **options)
    truth = _write(_truth(planet), tmp_path / "era5.zarr", **options)
    result = verify(path, truth, climatology=str(planet.truth))
    _assert_same(result, expected)


@pytest.mark.parametrize("together", [5, *exhaustive(1)])
def test_truth_and_climatology_are_read_from_archives_of_weatherbench(
    make_planet: MakePlanet, tmp_path: Path, together: int
) -> None:
    planet = make_planet()
    inits = planet.times[:6]
    write_forecast(tmp_path / "f.zarr", planet, noisy(planet, inits), inits, LEADS)
    truth = _write(_truth(planet).chunk(time=together), tmp_path / "era5.zarr")
    climatology = _write(_climatology(planet), tmp_path / "climatology.zarr")
    result = verify(tmp_path / "f.zarr", truth, climatology=str(climatology))
    _assert_same(result, verify(tmp_path / "f.zarr", planet.truth))


def test_a_truth_without_climatology_still_scores(make_planet: MakePlanet, tmp_path: Path) -> None:
    planet = make_planet()
    inits = planet.times[:3]
    write_forecast(tmp_path / "f.zarr", planet, noisy(planet, inits), inits, LEADS)
    result = verify(tmp_path / "f.zarr", _write(_truth(planet), tmp_path / "era5.zarr")).to_json()
    assert result["scores"].keys() == {"rmse", "bias"}
    assert result["baselines"].keys() == {"persistence"}
    unused, lacking = result["warnings"]
    assert "left out total_cloud_cover (WeatherMixer does not use it)" in unused
    assert "has no climatology" in lacking


def test_a_row_at_the_south_pole_that_one_lacks_is_left_out_of_all(tmp_path: Path) -> None:
    whole = write_planet(tmp_path / "truth.zarr", LATITUDES["with poles, southward"])
    inits = whole.times[:3]
    states = noisy(whole, inits)
    dataset = write_forecast(tmp_path / "whole.zarr", whole, states, inits, LEADS)
    forecast = _write(dataset.isel(latitude=slice(0, -1)), tmp_path / "without.zarr")
    truth = _write(_truth(whole).isel(latitude=slice(0, -1)), tmp_path / "era5.zarr")
    normals = str(whole.truth)
    expected = verify(forecast, truth, climatology=normals)
    _assert_same(verify(forecast, whole.truth), expected)
    _assert_same(verify(tmp_path / "whole.zarr", truth, climatology=normals), expected)


def test_archives_that_do_not_fit_are_named(make_planet: MakePlanet, tmp_path: Path) -> None:
    planet = make_planet()
    inits = planet.times[:3]
    forecast = tmp_path / "f.zarr"
    dataset = write_forecast(forecast, planet, noisy(planet, inits), inits, LEADS)
    era5 = _truth(planet)

    def refuse(match: str, **stores: Any) -> None:
        arguments = {"forecast": forecast, "truth": planet.truth} | stores
        with pytest.raises(UserError, match=match):
            verify(**arguments)

    coarse = _write(era5.isel(longitude=slice(None, None, 2)), tmp_path / "coarse.zarr")
    refuse(r"f\.zarr is on another grid \(5×6,.* than .*coarse\.zarr \(5×3", truth=coarse)
    coarse_normals = _climatology(planet).isel(longitude=slice(None, None, 2))
    normals = _write(coarse_normals, tmp_path / "normals.zarr")
    refuse("normals.zarr is on another grid", climatology=str(normals))
    poorer = _write(era5.drop_vars("2m_temperature"), tmp_path / "poorer.zarr")
    refuse("poorer.zarr lacks 2m_temperature", truth=poorer)
    refuse("there is nothing at", climatology=str(tmp_path / "nothing.zarr"))
    refuse("is on time × level × longitude", climatology=str(poorer))
    refuse("is on hour × dayofyear", truth=normals)

    twice = _write(era5.isel(time=[0, 1, 0]), tmp_path / "twice.zarr")
    refuse("holds 2001-03-01T00:00:00 more than once", truth=twice)
    again = _write(dataset.isel(time=[0, 1, 1]), tmp_path / "again.zarr")
    refuse("again.zarr holds 2001-03-01T06:00:00 more than once", forecast=again)
    # Zarr keeps no chunk of zeros, here of hours since the first time: either may have happened.
    zeros = _write(dataset.isel(time=[0, 0]), tmp_path / "zeros.zarr")
    refuse(
        "zeros.zarr has values of time that are repeated .* drop what is repeated", forecast=zeros
    )
    chilly = dataset.copy()
    chilly["2m_temperature"].values[:] -= 273.15
    celsius = _write(chilly, tmp_path / "celsius.zarr")
    refuse("does not say in which units 2m_temperature is, and its values", forecast=celsius)
    chilly = _climatology(planet)
    chilly["2m_temperature"] = chilly["2m_temperature"].drop_attrs() - 273.15
    normals = _write(chilly, tmp_path / "celsius-normals.zarr")
    refuse("does not say in which units 2m_temperature is", climatology=str(normals))


def test_missing_values_of_the_truth_are_named_with_their_time(
    make_planet: MakePlanet, tmp_path: Path
) -> None:
    planet = make_planet()
    inits = planet.times[:3]
    write_forecast(tmp_path / "f.zarr", planet, noisy(planet, inits), inits, LEADS)
    era5 = _truth(planet).chunk(time=1)
    truth = _write(era5, tmp_path / "era5.zarr")
    (truth / "2m_temperature" / "2.0.0").unlink()
    with pytest.raises(UserError, match=r"2m_temperature at 2001-03-01T12:00:00 was never written"):
        verify(tmp_path / "f.zarr", truth)
