"""GRIB as ECMWF sends it: several data sets in one file, of which each stands alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from support.gribs import Message, write_grib
from weathermixer.data.archives.forecasts import Forecast
from weathermixer.data.archives.merging import open_sources
from weathermixer.data.channels import Channel, names
from weathermixer.errors import UserError

pytest.importorskip("cfgrib", reason="cfgrib is an optional extra")
import eccodes

Archive = Callable[..., xr.Dataset]

SIX_HOURS = np.timedelta64(6, "h")
HALF_A_STEP = 1e-4  # of values that GRIB keeps in 24 bits, of these variables


@pytest.fixture
def dataset(archive: Archive) -> xr.Dataset:
    """Three states on a grid with both poles."""
    variables = ("geopotential", "temperature", "2m_temperature", "mean_sea_level_pressure")
    return archive(times=3, latitude=np.linspace(90, -90, 7), columns=12, variables=variables)


def surface(dataset: xr.Dataset, *variables: str, **keys: Any) -> Iterator[Message]:
    for variable in variables:
        for field in dataset[variable]:
            yield Message(variable, field.time.values, field.values, keys=keys)


def aloft(dataset: xr.Dataset, variable: str, *levels: int) -> Iterator[Message]:
    for level in levels:
        for field in dataset[variable].sel(level=level):
            yield Message(variable, field.time.values, field.values, level)


def rain(dataset: xr.Dataset) -> Iterator[Message]:
    """Accumulated since the start of a forecast, by initial and lead time."""
    for start in dataset.time.values[:2] - SIX_HOURS:
        for step in (6, 12):
            keys = {"timeRangeIndicator": 4, "startStep": 0, "endStep": step}
            yield Message("total_precipitation", start, np.ones((7, 12)), keys=keys)


def test_a_forecast_of_rain_does_not_spoil_the_analyses_beside_it(
    dataset: xr.Dataset, tmp_path: Path
) -> None:
    messages = [
        *rain(dataset),
        *surface(dataset, "2m_temperature", "mean_sea_level_pressure"),
        *aloft(dataset, "temperature", 500, 850),
        *aloft(dataset, "geopotential", 500),
    ]
    source = write_grib(tmp_path / "era5.grib", messages)
    opened = open_sources([source])
    assert names(opened.channels) == (
        "geopotential_500", "temperature_500", "temperature_850", "mean_sea_level_pressure",
        "2m_temperature",
    )  # fmt: skip
    np.testing.assert_array_equal(opened.times, dataset.time.values)
    assert opened.remarks == (f"{source}: left out tp (WeatherMixer does not use it)",)
    states = opened.read(0, 3)
    for place, channel in enumerate(opened.channels):
        wanted = dataset[channel.variable]
        if channel.level_hpa is not None:
            wanted = wanted.sel(level=channel.level_hpa)
        np.testing.assert_allclose(states[:, place], wanted.values[:, :-1], atol=HALF_A_STEP * 50)


def test_a_variable_that_is_wanted_is_read_though_another_is_a_forecast(
    dataset: xr.Dataset, tmp_path: Path
) -> None:
    later = [
        Message(m.variable, m.time, m.values, keys={"startStep": step, "endStep": step})
        for step in (6, 12)
        for m in surface(dataset, "mean_sea_level_pressure")
    ]
    source = write_grib(tmp_path / "mixed.grib", [*surface(dataset, "2m_temperature"), *later])
    opened = open_sources([source])
    assert names(opened.channels) == ("2m_temperature",)
    (remark,) = opened.remarks
    assert "left out msl (has times along time × step, as forecasts have" in remark
    with pytest.raises(UserError, match=r"no source has mean_sea_level_pressure.*msl \(has times"):
        open_sources([source], channels=[Channel("mean_sea_level_pressure")])


@pytest.mark.parametrize("edition", [1, 2])
def test_analyses_of_one_lead_time_are_at_their_valid_times(
    dataset: xr.Dataset, tmp_path: Path, edition: int
) -> None:
    keys = {"stepRange": "6"}
    messages = surface(dataset, "mean_sea_level_pressure", **keys)
    opened = open_sources([write_grib(tmp_path / "six.grib", messages, edition=edition)])
    np.testing.assert_array_equal(opened.times, dataset.time.values + SIX_HOURS)


def test_the_geopotential_of_the_ground_is_told_by_its_kind_of_level(
    dataset: xr.Dataset, tmp_path: Path
) -> None:
    ground = np.random.default_rng(1).uniform(0, 3e4, (7, 12))
    messages = [
        *surface(dataset, "2m_temperature"),
        Message("geopotential", dataset.time.values[0], ground),
        *aloft(dataset, "geopotential", 500),
        Message("land_sea_mask", dataset.time.values[0], np.round(ground / 3e4)),
    ]
    opened = open_sources([write_grib(tmp_path / "era5.grib", messages)])
    assert opened.static_channels == ("land_sea_mask", "geopotential_at_surface")
    static = opened.read_static()
    np.testing.assert_allclose(static[1], ground[:-1], atol=1e-2)
    np.testing.assert_array_equal(static[0], np.round(ground / 3e4)[:-1])


def test_levels_that_are_no_pressures_are_left_out_with_the_reason(
    dataset: xr.Dataset, tmp_path: Path
) -> None:
    hybrid = [
        Message("temperature", m.time, m.values, 500, {"typeOfLevel": "hybrid", "level": level})
        for level in (100, 137)
        for m in aloft(dataset, "temperature", 500)
    ]  # fmt: skip
    source = write_grib(tmp_path / "model.grib", [*surface(dataset, "2m_temperature"), *hybrid])
    opened = open_sources([source])
    assert names(opened.channels) == ("2m_temperature",)
    assert "left out t (is on hybrid, not on pressure levels: interpolate it" in opened.remarks[0]


def test_members_are_chosen_and_a_single_run_serves_beside_any(
    dataset: xr.Dataset, tmp_path: Path
) -> None:
    def member(number: int) -> Iterator[Message]:
        keys = {"setLocalDefinition": 1, "localDefinitionNumber": 1, "stream": "enda",
                "number": number, "type": "an"}  # fmt: skip
        return surface(dataset + number, "2m_temperature", **keys)

    members = write_grib(tmp_path / "members.grib", [*member(3), *member(7)])
    single = write_grib(tmp_path / "run.grib", surface(dataset, "mean_sea_level_pressure"))
    opened = open_sources([members, single], member=7)
    np.testing.assert_allclose(
        opened.read(0, 3)[:, 1], dataset["2m_temperature"].values[:, :-1] + 7, atol=1e-3
    )
    with pytest.raises(UserError, match="holds 2 ensemble members, 3, 7: choose one with --member"):
        open_sources([members])
    one = write_grib(tmp_path / "three.grib", member(3))
    assert len(open_sources([one]).times) == 3
    with pytest.raises(UserError, match="no member 5, but 1 ensemble members, 3"):
        open_sources([one], member=5)


@pytest.mark.parametrize("edition", [1, 2])
def test_forecasts_in_grib_are_read_by_initial_and_lead_time(
    dataset: xr.Dataset, tmp_path: Path, edition: int
) -> None:
    def run(index: int) -> Iterator[Message]:
        for later, step in ((1, 6), (2, 12)):
            for variable, level in (("temperature", 500), ("mean_sea_level_pressure", None)):
                field = dataset[variable] if level is None else dataset[variable].sel(level=level)
                keys = {"stepRange": str(step)}
                start = dataset.time.values[index]
                yield Message(variable, start, field.values[later], level, keys)

    path = write_grib(tmp_path / "f.grib", [*run(0), *run(1)], edition=edition)
    forecast = Forecast.open(path)
    np.testing.assert_array_equal(forecast.initial_times, dataset.time.values[:2])
    assert forecast.lead_hours == (6.0, 12.0)
    fields = forecast.read(forecast.channels, np.arange(2), np.arange(2), forecast.grid)
    assert forecast.channels == ("temperature_500", "mean_sea_level_pressure")
    wanted = dataset.temperature.sel(level=500).values[1:3]
    np.testing.assert_allclose(fields[0, :, 0], wanted, atol=1e-3)
    wanted = dataset["mean_sea_level_pressure"].values[1:3]
    np.testing.assert_allclose(fields[1, :, 1], wanted, atol=1e-2)
    # A single run has no dimension of initial times.
    one = Forecast.open(write_grib(tmp_path / "one.grib", run(0), edition=edition))
    np.testing.assert_array_equal(one.initial_times, dataset.time.values[:1])
    again = one.read(one.channels, np.arange(1), np.arange(2), one.grid)
    np.testing.assert_array_equal(again[0], fields[0])


@pytest.mark.parametrize("sample", ["sh_ml_grib1", "reduced_gg_pl_32_grib1", "sh_pl_grib2"])
def test_fields_on_no_regular_grid_are_refused_with_the_reason(tmp_path: Path, sample: str) -> None:
    handle = eccodes.codes_grib_new_from_samples(sample)
    path = tmp_path / "spectral.grib"
    with path.open("wb") as file:
        eccodes.codes_write(handle, file)
    eccodes.codes_release(handle)
    with pytest.raises(UserError, match=r"holds no analysis .* t \(is on values"):
        open_sources([str(path)])
