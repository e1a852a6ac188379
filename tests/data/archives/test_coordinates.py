"""Coordinates as files keep them become whole seconds, whole hectopascals and degrees."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from weathermixer.data.archives.coordinates import (
    covers_globe,
    exact_lead_times,
    exact_times,
    global_grid,
    grid_of,
    levels_of,
    refuse_repeated,
    whole_seconds,
)
from weathermixer.data.archives.formats import open_datasets
from weathermixer.data.archives.names import Unusable
from weathermixer.data.grid import Grid
from weathermixer.errors import UserError

HOURLY = np.datetime64("2020-01-01", "s") + np.arange(48) * np.timedelta64(1, "h")


def kept_as(path: Path, values: Any, units: str, **attributes: str) -> xr.DataArray:
    """A coordinate of times as it is read from a file that keeps these numbers."""
    time = ("time", values, {"units": units, **attributes})
    xr.Dataset({"x": (("time",), np.zeros(len(values)))}, {"time": time}).to_netcdf(
        path, engine="h5netcdf"
    )
    (opened,) = open_datasets(str(path))
    return opened.dataset["time"]


def since(origin: str, unit: Literal["h", "m", "s"]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return (HOURLY - np.datetime64(origin, "s")) / np.timedelta64(1, unit)


def refusal(function: Any, *arguments: Any) -> str:
    with pytest.raises((UserError, Unusable)) as error:
        function(*arguments)
    return str(error.value)


# --- times


@pytest.mark.parametrize(
    ("values", "units"),
    [
        # In the standard calendar, year 1 began two days before the Gregorian one.
        (since("0000-12-30", "h") / 24, "days since 1-1-1 00:00:0.0"),
        (since("1900-01-01", "h"), "hours since 1900-01-01 00:00:00.0"),
        (since("1900-01-01", "h").astype(np.float32), "hours since 1900-01-01"),
        (since("1900-01-01", "h").astype(np.int32), "hours since 1900-01-01"),
        (since("2020-01-01", "h") / 24, "days since 2020-01-01"),
        (since("1970-01-01", "s").astype(np.int64), "seconds since 1970-01-01"),
        (since("1970-01-01", "m"), "minutes since 1970-01-01T00:00:00Z"),
    ],
)
def test_times_are_exact_however_they_are_kept(tmp_path: Path, values: Any, units: str) -> None:
    times = exact_times(kept_as(tmp_path / "t.nc", values, units), "t.nc")
    assert times.dtype == "datetime64[s]"
    np.testing.assert_array_equal(times, HOURLY)


def test_times_kept_in_32_bits_are_those_that_rounding_leaves_certain(tmp_path: Path) -> None:
    # Near 737,000 days, 32 bits tell an hour and a half apart: six hours are exact, one is not.
    days = since("0000-12-30", "h") / 24
    sixth = days[::6].astype(np.float32)
    times = exact_times(kept_as(tmp_path / "six.nc", sixth, "days since 1-1-1"), "six.nc")
    np.testing.assert_array_equal(times, HOURLY[::6])
    hourly = kept_as(tmp_path / "one.nc", days.astype(np.float32), "days since 1-1-1")
    assert "keeps times in 32 bits" in refusal(exact_times, hourly, "one.nc")


@given(st.integers(-200_000, 200_000), st.sampled_from([1, 60, 3600, 86400]))
def test_fractions_that_are_microseconds_off_are_rounded(offset: int, unit: int) -> None:
    exact = np.datetime64("2000-01-01", "s") + np.timedelta64(offset * unit, "s")
    for error in (-3, 0, 3):
        near = exact.astype("datetime64[us]") + np.timedelta64(error, "us")
        assert whole_seconds(np.array([near]))[0] == exact


@pytest.mark.parametrize(
    ("values", "attributes"),
    [
        (np.arange(3.0), {"units": "days since 2000-02-28", "calendar": "noleap"}),
        (np.arange(3.0), {"units": "days since 2000-02-28", "calendar": "360_day"}),
        (np.array([20200101.0, 20200101.25, 20200101.5]), {"units": "day as %Y%m%d.%f"}),
        (np.array([0.0, np.nan, 12.0]), {"units": "hours since 2000-01-01"}),
        (np.arange(3), {"units": "1"}),
    ],
)
def test_times_that_are_no_dates_are_refused(
    tmp_path: Path, values: Any, attributes: dict[str, str]
) -> None:
    coordinate = kept_as(tmp_path / "t.nc", values, **attributes)
    assert "missing or not of the usual calendar" in refusal(exact_times, coordinate, "t.nc")


def test_repeated_times_and_lead_times_are_named() -> None:
    assert "t.nc holds 2020-01-01T00:00:00 more than once (and 1 other" in refusal(
        refuse_repeated, HOURLY[[0, 1, 0, 1, 2]], "t.nc"
    )
    leads = np.array([6, 12, 6], "timedelta64[h]").astype("timedelta64[s]")
    assert "holds lead time 6 h more than once" in refusal(refuse_repeated, leads, "t.nc")


# --- lead times

LEADS = np.array([6, 12, 240], "timedelta64[h]").astype("timedelta64[s]")


@pytest.mark.parametrize(
    ("values", "units"),
    [
        (np.array([6.0, 12.0, 240.0]), "hours"),
        (np.array([6, 12, 240]), "hours"),
        (np.array([6, 12, 240], np.float32), "h"),
        (np.array([0.25, 0.5, 10.0]), "days"),
        (np.array([6, 12, 240]) * 3600, "seconds"),
        (np.array([6, 12, 240]) * 3600 * 10**9, "nanoseconds"),
        (LEADS.astype("timedelta64[ns]"), None),
        (LEADS.astype("timedelta64[h]"), None),
    ],
)
def test_lead_times_are_exact_however_they_are_kept(values: Any, units: str | None) -> None:
    coordinate = xr.DataArray(
        values, dims="step", name="step", attrs={"units": units} if units else {}
    )
    np.testing.assert_array_equal(exact_lead_times(coordinate, "f.nc"), LEADS)


@pytest.mark.parametrize(
    ("values", "units", "said"),
    [
        ([6, 12], None, "is not a duration: give it units"),
        ([6, 12], "months", "is not a duration"),
        (["6h", "12h"], None, "is not a duration"),
        ([6.0, np.nan], "hours", "has missing values"),
    ],
)
def test_lead_times_without_a_unit_are_refused(values: Any, units: str | None, said: str) -> None:
    coordinate = xr.DataArray(
        values, dims="step", name="step", attrs={"units": units} if units else {}
    )
    assert said in refusal(exact_lead_times, coordinate, "f.nc")


# --- levels


def level(values: Any, name: str = "level", **attributes: str) -> xr.DataArray:
    return xr.DataArray(values, dims=name, name=name, attrs=attributes)


@pytest.mark.parametrize(
    "coordinate",
    [
        level([500, 850, 1000]),
        level(np.array([500, 850, 1000], np.float32)),
        level([500, 850, 1000], units="hPa"),
        level([500, 850, 1000], units="millibars"),
        level([500.0, 850.0, 1000.0], units="mb"),
        level([50000.0, 85000.0, 100000.0], "plev", units="Pa"),
        level(np.array([50000, 85000, 100000], np.float32), "plev", units="Pa"),
        level([50, 85, 100], units="kPa"),
        level([50000, 85000, 100000], "plev"),
        level([500, 850, 1000], "isobaricInhPa"),
        level([50000, 85000, 100000], "isobaricInPa"),
    ],
)
def test_levels_are_whole_hectopascals(coordinate: xr.DataArray) -> None:
    assert levels_of(coordinate) == (500, 850, 1000)


def test_levels_keep_their_order_and_those_between_whole_ones_are_of_no_channel() -> None:
    assert levels_of(level([1000, 925, 850])) == (1000, 925, 850)
    assert levels_of(level([100000.0, 0.4, 92550.0], units="Pa")) == (1000, None, None)


@pytest.mark.parametrize(
    ("coordinate", "said"),
    [
        (level(np.arange(1, 138)), "1 to 137 without units, not all of which are usual"),
        (level([10, 20, 30], long_name="hybrid level"), "called 'hybrid level'"),
        (level([500, 850], units="hPa", long_name="hybrid level at midpoints"), "hybrid"),
        (level([10, 100], GRIB_typeOfLevel="heightAboveGround"), "heightaboveground"),
        (level([300, 350], units="K"), "levels in 'K', not in hPa"),
        (level([1, 2], units="level"), "levels in 'level'"),
        (level([0.5, 0.85], units="1"), "levels in '1'"),
        (level([0.5, 0.85]), "without units"),
        (level(["500 hPa", "850 hPa"]), "levels 500 hPa, 850 hPa, not all of which are pressures"),
        (level([500, 0]), "levels 500, 0, not all of which are pressures"),
        (level([500.0, np.nan], units="hPa"), "levels 500.0, nan, not all of which are pressures"),
        (level([500, 850, 500]), "a level more than once"),
    ],
)
def test_levels_that_are_no_pressures_are_refused(coordinate: xr.DataArray, said: str) -> None:
    assert said in refusal(levels_of, coordinate)


# --- latitude and longitude

ROWS, COLUMNS = 90.0 - 22.5 * (np.arange(8) + 0.5), 22.5 * np.arange(16)


def axis(values: Any, name: str, **attributes: str) -> xr.DataArray:
    values = np.asarray(values)
    dims = name if values.ndim < 2 else ("y", "x")
    return xr.DataArray(values, dims=dims if values.ndim else (), name=name, attrs=attributes)


@given(
    start=st.integers(0, 15),
    southward=st.booleans(),
    westward=st.booleans(),
    lowest=st.sampled_from([-180.0, 0.0, 180.0, -360.0]),
)
@settings(max_examples=60)
def test_any_order_of_rows_and_columns_is_a_grid(
    start: int, southward: bool, westward: bool, lowest: float
) -> None:
    columns = np.roll(COLUMNS, start)
    columns = (columns - lowest) % 360.0 + lowest
    columns = columns[::-1] if westward else columns
    rows = ROWS if southward else ROWS[::-1]
    grid = grid_of(axis(rows, "lat"), axis(columns, "lon"), "a.nc")
    np.testing.assert_array_equal(grid.latitude, rows)
    np.testing.assert_array_equal(grid.longitude, columns)
    assert covers_globe(grid)
    np.testing.assert_allclose(global_grid(grid, "a.nc").longitude, COLUMNS)


@pytest.mark.parametrize(
    ("latitude", "longitude", "said"),
    [
        (90.0 - ROWS, COLUMNS, "beyond the poles"),
        (np.deg2rad(ROWS), np.deg2rad(COLUMNS), "are they radians?"),
        (ROWS, axis(COLUMNS, "lon", units="radian"), "in radians"),
        (ROWS, np.append(COLUMNS, 360.0), "drop longitude 360 where 0 is there too"),
        (ROWS[[0, 2, 1]], COLUMNS, "repeated or out of order"),
        (ROWS[[0, 0, 1]], COLUMNS, "repeated or out of order"),
        (ROWS, COLUMNS[[0, 2, 1, 3]], "repeated or out of order"),
        (np.append(ROWS[:-1], np.nan), COLUMNS, "no sequence of degrees"),
        (np.tile(ROWS, (2, 1)), np.tile(ROWS, (2, 1)), "no sequence of degrees"),
        (ROWS.astype(str), COLUMNS, "no sequence of degrees"),
        (ROWS, COLUMNS * 1000.0, "give them in degrees east"),
    ],
)
def test_coordinates_that_are_no_degrees_are_refused(
    latitude: Any, longitude: Any, said: str
) -> None:
    longitude = longitude if isinstance(longitude, xr.DataArray) else axis(longitude, "lon")
    assert said in refusal(grid_of, axis(latitude, "lat"), longitude, "a.nc")


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (ROWS, COLUMNS[:8]),
        (ROWS[:4], COLUMNS),
        (ROWS[:1], COLUMNS),
        (ROWS, COLUMNS[::3]),
        (np.linspace(75, 15, 7), np.linspace(0, 45, 7)),
    ],
)
def test_a_part_of_the_globe_is_none(rows: Any, columns: Any) -> None:
    assert not covers_globe(Grid(rows, columns))
    assert re.search(
        r"a\.nc spans .*, not the whole globe", refusal(global_grid, Grid(rows, columns), "a.nc")
    )
