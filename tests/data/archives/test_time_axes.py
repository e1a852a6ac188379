"""Valid times are initial times plus lead times, in whichever two of the three a file says it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr

from weathermixer.data.archives.forecasts import Forecast
from weathermixer.data.archives.merging import open_sources
from weathermixer.errors import UserError

Archive = Callable[..., xr.Dataset]
Saved = Callable[..., str]
Layout = Callable[[xr.Dataset], xr.Dataset]

SIX_HOURS = np.timedelta64(6 * 3600, "s")
HOURS = {"units": "hours"}
INITIAL = {"standard_name": "forecast_reference_time"}
VALID = {"standard_name": "time"}


def valid_along_time(dataset: xr.Dataset) -> tuple[str, Any]:
    return ("time", dataset.time.values + np.timedelta64(6, "h"))


# Analyses at ``time`` + 6 h, each with one lead time.
SIX_HOURS_LATER: dict[str, Layout] = {
    "step as a single value": lambda d: d.assign_coords(step=((), 6.0, HOURS)),
    "step as a dimension": lambda d: d.expand_dims(step=1).assign_coords(
        step=("step", [6], HOURS)
    ),
    "lead time as a duration": lambda d: d.assign_coords(lead_time=np.timedelta64(6, "h")),
    "lead times in seconds": lambda d: d.expand_dims(prediction_timedelta=1).assign_coords(
        prediction_timedelta=("prediction_timedelta", [21600], {"units": "seconds"})
    ),
    "valid_time beside time": lambda d: d.assign_coords(valid_time=valid_along_time(d)),
    "all three, as cfgrib has them": lambda d: d.assign_coords(
        time=("time", d.time.values, INITIAL),
        step=((), 6.0, HOURS),
        valid_time=(*valid_along_time(d), VALID),
    ),
    "initial time by its name": lambda d: d.rename(time="init_time").assign_coords(
        lead_time=np.timedelta64(6, "h")
    ),
    "valid time alone": lambda d: d.assign_coords(time=valid_along_time(d)).rename(
        time="valid_time"
    ),
    "valid time beside a reference time": lambda d: d.assign_coords(
        time=(*valid_along_time(d), VALID), forecast_reference_time=d.time.values[0]
    ),
    "reference time before valid time": lambda d: d.assign_coords(
        forecast_reference_time=("time", d.time.values),
        forecast_period=((), 6.0, HOURS),
        time=(*valid_along_time(d), VALID),
    ),
    "time as CF names it, whatever it is called": lambda d: d.assign_coords(
        time=(*valid_along_time(d), VALID)
    ).rename(time="t1"),
}  # fmt: skip


@pytest.mark.parametrize("layout", SIX_HOURS_LATER)
@pytest.mark.parametrize("kind", ["nc", "zarr"])
def test_an_analysis_is_valid_at_initial_time_plus_lead_time(
    archive: Archive, saved: Saved, layout: str, kind: str
) -> None:
    dataset = archive(times=4)
    sources = open_sources([saved(SIX_HOURS_LATER[layout](dataset), f"a.{kind}")])
    np.testing.assert_array_equal(sources.times, dataset.time.values + SIX_HOURS)
    np.testing.assert_array_equal(sources.read(1, 3)[:, -1], dataset["2m_temperature"].values[1:3])


def test_the_steps_of_a_single_run_are_times_of_their_own(archive: Archive, saved: Saved) -> None:
    dataset = archive(times=4)
    run = dataset.rename(time="step").assign_coords(
        step=("step", [0.0, 6.0, 12.0, 18.0], HOURS), time=dataset.time.values[0]
    )
    sources = open_sources([saved(run, "run.nc")])
    np.testing.assert_array_equal(sources.times, dataset.time.values)


def test_variables_with_and_without_a_lead_time_keep_their_own_times(
    archive: Archive, saved: Saved
) -> None:
    dataset = archive(times=4, variables=("temperature", "2m_temperature"))
    later = dataset["2m_temperature"].expand_dims(step=[6])
    mixed = dataset.assign({"2m_temperature": later})
    mixed = mixed.assign_coords(step=("step", [6], HOURS))
    sources = open_sources([saved(mixed, "mixed.nc")])
    np.testing.assert_array_equal(sources.times, dataset.time.values[1:])
    np.testing.assert_array_equal(sources.read(0, 1)[0, 0], dataset.temperature.values[1, 0])
    np.testing.assert_array_equal(sources.read(0, 1)[0, -1], dataset["2m_temperature"].values[0])


def refused(*sources: str) -> str:
    with pytest.raises(UserError) as error:
        open_sources(list(sources))
    return str(error.value)


def test_times_that_may_be_initial_or_valid_are_refused(archive: Archive, saved: Saved) -> None:
    dataset = archive(times=4)
    unclear = dataset.assign_coords(time=("time", dataset.time.values, VALID))
    six, none = (unclear.assign_coords(step=((), hours, HOURS)) for hours in (6.0, 0.0))
    assert "name the valid ones 'valid_time'" in refused(saved(six, "six.nc"))
    np.testing.assert_array_equal(open_sources([saved(none, "none.nc")]).times, dataset.time.values)


def test_times_by_initial_and_lead_time_are_refused_as_an_analysis(
    archive: Archive, saved: Saved
) -> None:
    forecast = archive(times=4).expand_dims(step=[6, 12])
    forecast = forecast.assign_coords(step=("step", [6, 12], HOURS))
    assert "along time × step, as forecasts have" in refused(saved(forecast, "forecast.nc"))


def test_a_dimension_of_times_without_values_is_named(archive: Archive, saved: Saved) -> None:
    bare = archive(times=4).drop_vars("time")
    assert "has time without values: give it a coordinate" in refused(saved(bare, "bare.nc"))
    scalar = bare.assign_coords(valid_time=np.datetime64("2020-01-01", "ns"))
    assert "has time without values" in refused(saved(scalar, "scalar.nc"))


# --- forecasts

LEADS = np.array([6, 12], "timedelta64[h]").astype("timedelta64[s]")


def forecast_of(dataset: xr.Dataset, inits: int) -> xr.Dataset:
    """By initial and lead time: the analyses at the valid times."""
    parts = [
        dataset.isel(time=slice(lead, lead + inits)).assign_coords(time=dataset.time.values[:inits])
        for lead in (1, 2)
    ]
    joined = xr.concat(parts, dim="prediction_timedelta")
    return joined.assign_coords(prediction_timedelta=LEADS.astype("timedelta64[ns]"))


# One initial time, two lead times.
ONE_RUN: dict[str, Layout] = {
    "initial time as a dimension": lambda d: d,
    "initial time as a single value": lambda d: d.squeeze("time"),
    "valid times and a reference time": lambda d: (
        d.squeeze("time")
        .rename(time="forecast_reference_time", prediction_timedelta="time")
        .assign_coords(time=("time", d.time.values[0] + LEADS, VALID))
    ),
    "valid times beside a scalar time": lambda d: (
        d.squeeze("time")
        .rename(prediction_timedelta="valid_time")
        .assign_coords(valid_time=d.time.values[0] + LEADS)
    ),
    "valid times, lead times along them": lambda d: (
        d.squeeze("time")
        .rename(time="init_time", prediction_timedelta="time")
        .assign_coords(time=d.time.values[0] + LEADS, forecast_period=("time", [6.0, 12.0], HOURS))
    ),
    "as cfgrib has it": lambda d: (
        d.squeeze("time")
        .rename(prediction_timedelta="step")
        .assign_coords(
            valid_time=("step", d.time.values[0] + LEADS, VALID),
            step=("step", [6.0, 12.0], HOURS),
            time=((), d.time.values[0], INITIAL),
        )
    ),
}


@pytest.mark.parametrize("layout", ONE_RUN)
@pytest.mark.parametrize("kind", ["nc", "zarr"])
def test_one_run_is_a_forecast_in_any_layout(
    archive: Archive, saved: Saved, layout: str, kind: str
) -> None:
    dataset = archive(times=4)
    path = saved(ONE_RUN[layout](forecast_of(dataset, 1)), f"f.{kind}")
    forecast = Forecast.open(path)
    np.testing.assert_array_equal(forecast.initial_times, dataset.time.values[:1])
    np.testing.assert_array_equal(forecast.lead_times, LEADS)
    fields = forecast.read(["temperature_850"], np.array([0]), np.array([0, 1]), forecast.grid)
    np.testing.assert_array_equal(fields[0, :, 0], dataset.temperature.values[1:3, 1])


def test_a_single_lead_time_may_be_a_single_value(archive: Archive, saved: Saved) -> None:
    dataset = archive(times=4)
    one = forecast_of(dataset, 2).isel(prediction_timedelta=0)
    initial = Forecast.open(saved(one, "initial.nc"))
    dated = one.assign_coords(valid_time=("time", one.time.values + LEADS[0])).drop_vars("time")
    valid = Forecast.open(saved(dated.swap_dims(time="valid_time"), "valid.nc"))
    for forecast in (initial, valid):
        np.testing.assert_array_equal(forecast.initial_times, dataset.time.values[:2])
        np.testing.assert_array_equal(forecast.lead_times, LEADS[:1])


def test_forecasts_by_valid_time_and_lead_time_are_refused(archive: Archive, saved: Saved) -> None:
    dataset = archive(times=4)
    by_valid = forecast_of(dataset, 2).rename(time="valid_time")
    with pytest.raises(UserError, match=r"has times along valid_time × prediction_timedelta"):
        Forecast.open(saved(by_valid, "f.nc"))
    along_one = dataset.assign_coords(
        init_time=("time", dataset.time.values - SIX_HOURS), step=("time", [6.0, 6, 6, 6], HOURS)
    )
    with pytest.raises(UserError, match="initial times and lead times along time alone"):
        Forecast.open(saved(along_one, "one.nc"))


def test_an_analysis_is_no_forecast(archive: Archive, saved: Saved) -> None:
    with pytest.raises(UserError, match="lacks the coordinate prediction_timedelta"):
        Forecast.open(saved(archive(times=4), "analysis.nc"))
