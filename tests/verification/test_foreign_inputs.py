"""Forecasts, truths and climatologies in any format and layout give the scores of their values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from support.gribs import Message, write_grib
from support.selection import exhaustive
from weathermixer.data.archives.climatologies import open_climatology
from weathermixer.data.grid import Grid
from weathermixer.errors import UserError
from weathermixer.verification.verify import verify

ROWS, COLUMNS = np.linspace(90.0, -90.0, 7), 30.0 * np.arange(12.0)
START, SIX_HOURS = np.datetime64("2020-12-30T00", "ns"), np.timedelta64(6, "h")
LEADS = np.array([6, 12]) * np.timedelta64(1, "h").astype("timedelta64[ns]")
INITS = START + np.arange(3) * SIX_HOURS
WEIGHTS = np.diff(np.sin(np.deg2rad(np.r_[-90, (ROWS[1:] + ROWS[:-1])[::-1] / 2, 90])))[::-1]


def random_states(times: int, seed: int) -> np.ndarray[Any, Any]:
    return (280 + 8 * np.random.default_rng(seed).standard_normal((times, 7, 12))).astype("f4")


@pytest.fixture
def truth() -> xr.Dataset:
    dims = ("time", "latitude", "longitude")
    coordinates = {"time": START + np.arange(6) * SIX_HOURS, "latitude": ROWS, "longitude": COLUMNS}
    return xr.Dataset({"2m_temperature": (dims, random_states(6, 1), {"units": "K"})}, coordinates)


@pytest.fixture
def forecast() -> xr.Dataset:
    dims = ("time", "prediction_timedelta", "latitude", "longitude")
    values = np.stack([random_states(3, 2), random_states(3, 3)], axis=1)
    coordinates = {
        "time": INITS,
        "prediction_timedelta": LEADS,
        "latitude": ROWS,
        "longitude": COLUMNS,
    }
    return xr.Dataset({"2m_temperature": (dims, values, {"units": "K"})}, coordinates)


@pytest.fixture
def expected(truth: xr.Dataset, forecast: xr.Dataset) -> list[float]:
    """The root mean square error by lead time, worked out here."""
    weights = (WEIGHTS / WEIGHTS.mean())[:, None]
    result = []
    for lead in range(2):
        error = forecast["2m_temperature"].values[:, lead].astype("f8")
        error = error - truth["2m_temperature"].values[1 + lead : 4 + lead]
        result.append(float(np.sqrt((weights * error**2).mean())))
    return result


def scores(forecast: Path | str, truth: Path | str) -> list[float]:
    by_lead = verify(forecast, truth, processes=1).to_json()["scores"]["rmse"]["2m_temperature"]
    return list(by_lead.values())


def save(dataset: xr.Dataset, path: Path) -> Path:
    if path.suffix == ".zarr":
        dataset.drop_encoding().to_zarr(path, zarr_format=2)
    else:
        dataset.drop_encoding().to_netcdf(path, engine="h5netcdf")
    return path


FORECASTS: dict[str, Callable[[xr.Dataset], xr.Dataset]] = {
    "as it is": lambda d: d,
    "initial and lead time": lambda d: d.rename(time="init_time", prediction_timedelta="lead_time"),
    "steps in hours": lambda d: d.rename(prediction_timedelta="step").assign_coords(
        step=("step", [6, 12], {"units": "hours"})
    ),
    "one member": lambda d: d.expand_dims(number=[0], axis=2),
    "Celsius": lambda d: (d - 273.15).assign({
        "2m_temperature": (d["2m_temperature"] - 273.15).assign_attrs(units="degC")
    }),
    "short names, turned": lambda d: d.rename({"2m_temperature": "2t", "latitude": "lat"}).isel(
        lat=slice(None, None, -1)
    ),
    "Copernicus": lambda d: d.rename(
        {"2m_temperature": "t2m", "time": "forecast_reference_time",
         "prediction_timedelta": "forecast_period"}
    ).assign_coords(valid_time=(("forecast_reference_time", "forecast_period"),
                                d.time.values[:, None] + LEADS)),
}  # fmt: skip


@pytest.mark.parametrize("layout", FORECASTS)
@pytest.mark.parametrize("suffix", [".nc", *exhaustive(".zarr")])
def test_forecasts_in_any_layout_have_the_same_scores(
    truth: xr.Dataset, forecast: xr.Dataset, expected: list[float], tmp_path: Path, layout: str,
    suffix: str,
) -> None:  # fmt: skip
    path = save(FORECASTS[layout](forecast), tmp_path / f"f{suffix}")
    against = save(truth.isel(longitude=slice(None, None, -1)), tmp_path / "truth.nc")
    assert scores(path, against) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("edition", [1, 2])
def test_forecasts_and_truth_in_grib_have_the_same_scores(
    truth: xr.Dataset, forecast: xr.Dataset, expected: list[float], tmp_path: Path, edition: int
) -> None:
    pytest.importorskip("cfgrib", reason="cfgrib is an optional extra")
    runs = [
        Message("2m_temperature", init, fields[lead], keys={"stepRange": hours})
        for init, fields in zip(INITS, forecast["2m_temperature"].values, strict=True)
        for lead, hours in enumerate(("6", "12"))
    ]  # fmt: skip
    analyses = [Message("2m_temperature", t.time.values, t.values) for t in truth["2m_temperature"]]
    path = write_grib(tmp_path / "f.grib", runs, edition=edition)
    against = write_grib(tmp_path / "truth.grib", analyses, edition=edition)
    assert scores(path, against) == pytest.approx(expected, rel=1e-5)


def test_the_scores_of_a_forecast_beside_another_are_its_own(
    truth: xr.Dataset, forecast: xr.Dataset, expected: list[float], tmp_path: Path
) -> None:
    path = save(forecast, tmp_path / "f.zarr")
    other = save(FORECASTS["Copernicus"](forecast), tmp_path / "other.nc")
    against = str(save(truth, tmp_path / "truth.zarr"))
    result = verify(path, against, beside=[str(other)], processes=1).to_json()
    for by_channel in (result["scores"], result["beside"]["other.nc"]):
        assert list(by_channel["rmse"]["2m_temperature"].values()) == pytest.approx(
            expected, rel=1e-6
        )


@pytest.mark.parametrize("days", [365, 366])
@pytest.mark.parametrize("in_celsius", [False, True])
def test_the_climatology_of_the_last_days_of_a_year_is_theirs(
    tmp_path: Path, days: int, in_celsius: bool
) -> None:
    values = np.arange(4 * days, dtype="f4").reshape(4, days, 1, 1) / 100 + 270
    values = np.broadcast_to(values, (4, days, 7, 12)) - (273.15 if in_celsius else 0)
    dims = ("hour", "dayofyear", "latitude", "longitude")
    units = {"units": "degC" if in_celsius else "K"}
    normals = xr.Dataset(
        {"2m_temperature": (dims, values.astype("f4"), units)},
        {"hour": [0, 6, 12, 18], "dayofyear": 1 + np.arange(days), "latitude": ROWS,
         "longitude": COLUMNS},
    )  # fmt: skip
    climatology = open_climatology(str(save(normals, tmp_path / "normals.zarr")))
    last = 366 if days == 366 else 365
    for time, hour, day in [
        ("2020-01-01T00", 0, 1), ("2020-02-29T06", 1, 60), ("2020-03-01T06", 1, 61),
        ("2020-12-31T18", 3, last), ("2019-12-31T18", 3, 365), ("2019-03-01T23", 3, 60),
    ]:  # fmt: skip
        moment = np.datetime64(time, "s")
        state = climatology.at(moment, ["2m_temperature"], Grid(ROWS, COLUMNS))
        assert state[0, 0, 0] == pytest.approx((hour * days + day - 1) / 100 + 270, rel=1e-6)


def test_a_hole_in_the_forecast_is_named_with_its_time_and_lead_time(
    truth: xr.Dataset, forecast: xr.Dataset, tmp_path: Path
) -> None:
    against = save(truth, tmp_path / "truth.zarr")
    path = save(forecast.chunk(time=1, prediction_timedelta=1), tmp_path / "f.zarr")
    (path / "2m_temperature" / "1.1.0.0").unlink()
    with pytest.raises(
        UserError, match=r"2m_temperature from 2020-12-30T06.* at lead 12 h was nev"
    ):
        verify(path, against, processes=1)


def test_forecasts_in_unstated_units_are_refused(
    truth: xr.Dataset, forecast: xr.Dataset, tmp_path: Path
) -> None:
    against = save(truth, tmp_path / "truth.zarr")
    celsius = save((forecast - 273.15).drop_attrs(), tmp_path / "celsius.nc")
    with pytest.raises(UserError, match="does not say in which units 2m_temperature is, and its"):
        verify(celsius, against)


def test_parts_of_a_forecast_on_two_grids_are_refused(
    truth: xr.Dataset, forecast: xr.Dataset, tmp_path: Path
) -> None:
    other = forecast.isel(latitude=slice(1, 6)).rename({"latitude": "lat", "2m_temperature": "msl"})
    other["msl"] = (other["msl"] * 360).assign_attrs(units="Pa")
    path = save(forecast.merge(other), tmp_path / "two.nc")
    with pytest.raises(UserError, match=r"holds .* on another grid .* make a file of each"):
        verify(path, save(truth, tmp_path / "truth.zarr"))
