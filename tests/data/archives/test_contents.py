"""Archives under other people's names and layouts: read, or left out with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr

from support.selection import exhaustive
from weathermixer.data.archives.merging import open_sources
from weathermixer.data.channels import GRAVITY, Channel, names
from weathermixer.errors import UserError

Archive = Callable[..., xr.Dataset]
Saved = Callable[..., str]
Layout = Callable[[xr.Dataset], xr.Dataset]

VARIABLES = ("geopotential", "temperature", "2m_temperature", "mean_sea_level_pressure")


@pytest.fixture
def dataset(archive: Archive) -> xr.Dataset:
    return archive(
        times=4, variables=VARIABLES, static=("land_sea_mask", "geopotential_at_surface")
    )


def with_attributes(dataset: xr.Dataset, name: str, **attributes: Any) -> xr.Dataset:
    changed = dataset.copy()
    changed[name] = changed[name].assign_attrs(attributes)
    return changed


def in_units(name: str, units: str, change: Callable[[xr.DataArray], xr.DataArray]) -> Layout:
    def layout(dataset: xr.Dataset) -> xr.Dataset:
        changed = change(dataset[name].astype(np.float64)).astype(np.float32)
        return dataset.assign({name: changed.assign_attrs(units=units)})

    return layout


def new_copernicus(dataset: xr.Dataset) -> xr.Dataset:
    """Return a data set as the Climate Data Store converts GRIB since 2024."""
    renamed = dataset.rename(
        {
            "time": "valid_time", "level": "pressure_level", "geopotential": "z",
            "temperature": "t", "2m_temperature": "t2m", "mean_sea_level_pressure": "msl",
            "land_sea_mask": "lsm",
        }
    )  # fmt: skip
    expver = ("valid_time", np.array(["0001", "0001", "0005", "0005"]))
    renamed = renamed.assign_coords(number=0, expver=expver)
    renamed["valid_time"].attrs = {"standard_name": "time", "long_name": "time"}
    renamed["pressure_level"].attrs = {"units": "hPa", "standard_name": "air_pressure"}
    return renamed.isel(pressure_level=slice(None, None, -1))


def old_copernicus(dataset: xr.Dataset) -> xr.Dataset:
    """Return a data set as the Climate Data Store had it until 2024, packed into 16 bits."""
    renamed = new_copernicus(dataset).drop_vars(["number", "expver"])
    return renamed.rename(valid_time="time", pressure_level="level").assign_coords(
        level=("level", [850, 500], {"units": "millibars", "long_name": "pressure_level"})
    )


def cmip(dataset: xr.Dataset) -> xr.Dataset:
    renamed = dataset.rename(
        {
            "level": "plev", "geopotential": "zg", "temperature": "ta", "2m_temperature": "tas",
            "mean_sea_level_pressure": "psl", "latitude": "lat", "longitude": "lon",
        }
    )  # fmt: skip
    renamed = renamed.assign_coords(
        plev=("plev", [50000.0, 85000.0], {"units": "Pa", "positive": "down"}), height=2.0
    )
    height = (renamed.zg.astype(np.float64) / GRAVITY).astype(np.float32)
    renamed["zg"] = height.assign_attrs(units="m", standard_name="geopotential_height")
    renamed["lat"].attrs = {"units": "degrees_north", "bounds": "lat_bnds"}
    renamed["lat_bnds"] = (("lat", "bnds"), np.stack([renamed.lat - 11, renamed.lat + 11], axis=1))
    return renamed.isel(plev=slice(None, None, -1))


def open_data(dataset: xr.Dataset) -> xr.Dataset:
    """Return a data set as cfgrib converts ECMWF's open data."""
    heights = (dataset.geopotential.astype(np.float64) / GRAVITY).astype(np.float32)
    renamed = dataset.assign(geopotential=heights.assign_attrs(units="gpm")).rename(
        {"level": "isobaricInhPa", "geopotential": "gh", "temperature": "t",
         "2m_temperature": "t2m", "mean_sea_level_pressure": "msl"}
    )  # fmt: skip
    time = ("time", dataset.time.values, {"standard_name": "forecast_reference_time"})
    return renamed.assign_coords(
        time=time, step=((), 0.0, {"units": "hours"}), heightAboveGround=2.0,
        valid_time=("time", dataset.time.values, {"standard_name": "time"}),
    )  # fmt: skip


LAYOUTS: dict[str, Layout] = {
    "ECMWF's short names": lambda d: d.rename(
        {"2m_temperature": "2t", "mean_sea_level_pressure": "msl", "geopotential": "z",
         "temperature": "t", "land_sea_mask": "lsm"}
    ),
    "names in capitals": lambda d: d.rename(
        {"2m_temperature": "VAR_2T", "mean_sea_level_pressure": "MSL", "geopotential": "Z",
         "temperature": "T", "land_sea_mask": "LSM", "latitude": "Latitude"}
    ),
    "Copernicus, new": new_copernicus,
    "Copernicus, old": old_copernicus,
    "CMIP": cmip,
    "ECMWF's open data": open_data,
    "axes named by their attributes": lambda d: d.rename(latitude="y", longitude="x").assign_coords(
        y=("y", d.latitude.values, {"units": "degrees_north"}),
        x=("x", d.longitude.values, {"standard_name": "longitude"}),
    ),
    "a height of one element": lambda d: d.assign(
        {"2m_temperature": d["2m_temperature"].expand_dims(height=[2.0], axis=1)}
    ),
    "members of one": lambda d: d.expand_dims(number=[0], axis=1),
    "Celsius": in_units("2m_temperature", "degC", lambda x: x - 273.15),
    "hectopascal": in_units("mean_sea_level_pressure", "hPa", lambda x: x / 100),
    "percent of land": in_units("land_sea_mask", "%", lambda x: x * 100),
    "height of the ground": lambda d: in_units(
        "geopotential_at_surface", "m", lambda x: x / GRAVITY
    )(d).rename(geopotential_at_surface="orog"),
    "longitudes westward": lambda d: d.isel(longitude=slice(None, None, -1)),
    "longitudes 180 to 540": lambda d: d.roll(longitude=8, roll_coords=True).assign_coords(
        longitude=180.0 + d.longitude.values
    ),
    "latitude last": lambda d: d.transpose(..., "longitude", "time", "latitude"),
    "static fields at every time": lambda d: d.assign(
        land_sea_mask=d.land_sea_mask.expand_dims(time=d.time.values)
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["nc", *exhaustive("zarr")])
def test_any_layout_has_the_same_states_at_the_same_coordinates(
    dataset: xr.Dataset, saved: Saved, layout: str, kind: str
) -> None:
    encoding = {}
    changed = LAYOUTS[layout](dataset).drop_encoding()
    if layout == "Copernicus, old":
        for name in ("z", "t", "t2m", "msl"):
            low, high = float(changed[name].min()), float(changed[name].max())
            encoding[name] = {
                "dtype": "i2", "scale_factor": (high - low) / 65000, "_FillValue": -32767,
                "add_offset": (high + low) / 2,
            }  # fmt: skip
    opened = open_sources([saved(changed, f"a.{kind}", encoding=encoding)])
    assert names(opened.channels) == (
        "geopotential_500", "geopotential_850", "temperature_500", "temperature_850",
        "mean_sea_level_pressure", "2m_temperature",
    )  # fmt: skip
    assert opened.static_channels == ("land_sea_mask", "geopotential_at_surface")
    assert opened.remarks == ()
    np.testing.assert_array_equal(opened.times, dataset.time.values)
    there = dataset.sel(latitude=opened.latitude, longitude=opened.longitude)
    states = opened.read(0, 4)
    for place, channel in enumerate(opened.channels):
        wanted = there[channel.variable]
        wanted = wanted if channel.level_hpa is None else wanted.sel(level=channel.level_hpa)
        tolerance = 1e-4 if encoding else 3e-7
        np.testing.assert_allclose(states[:, place], wanted.values, rtol=tolerance)
    mask, ground = opened.read_static()
    np.testing.assert_allclose(mask, there.land_sea_mask.values, rtol=3e-7)
    np.testing.assert_allclose(ground, there.geopotential_at_surface.values, rtol=3e-7)


def curvilinear(dataset: xr.Dataset) -> xr.DataArray:
    field = dataset["2m_temperature"].rename(latitude="y", longitude="x").drop_vars(["y", "x"])
    return field.assign_coords(lat=(("y", "x"), np.zeros((8, 16))))


# How the 2 m temperature becomes something that cannot be used, and what is said of it.
UNUSABLE: dict[str, tuple[Callable[[xr.Dataset], xr.DataArray], str]] = {
    "several heights": (
        lambda d: d["2m_temperature"].expand_dims(height=[2.0, 10.0]),
        "is on height × time × latitude × longitude: it must be on a grid of latitude × longitude",
    ),
    "final and preliminary": (
        lambda d: d["2m_temperature"].expand_dims(expver=[1, 5]),
        "holds final and preliminary data side by side, along expver: merge them first",
    ),
    "curvilinear": (curvilinear, "is on time × y × x: it must be on a grid"),
    "stations": (
        lambda d: d["2m_temperature"].isel(longitude=0),
        "is on time × latitude, without longitudes",
    ),
    "unknown units": (
        lambda d: d["2m_temperature"].assign_attrs(units="degR"),
        "is in 'degR', not in K: convert it first",
    ),
    "rotated": (
        lambda d: d["2m_temperature"].assign_coords(
            latitude=("latitude", d.latitude.values, {"standard_name": "grid_latitude"})
        ),
        "it must be on a grid of latitude × longitude",
    ),
    "colatitude": (
        lambda d: d["2m_temperature"].assign_coords(latitude=90.0 - d.latitude.values),
        "beyond the poles: give them in degrees north, from -90 to 90",
    ),
    "no values of longitude": (
        lambda d: d["2m_temperature"].drop_vars("longitude"),
        "has longitude without values: give it a coordinate",
    ),
    "repeated times": (
        lambda d: d["2m_temperature"].isel(time=[0, 1, 1]),
        "holds 2020-01-01T06:00:00 more than once",
    ),
    "no time": (
        lambda d: d["2m_temperature"].isel(time=0, drop=True),
        "has no times: give it a coordinate 'time'",
    ),
}


@pytest.mark.parametrize("fault", UNUSABLE)
def test_what_cannot_be_used_is_refused_with_the_reason_and_left_out_of_others(
    dataset: xr.Dataset, saved: Saved, fault: str
) -> None:
    change, reason = UNUSABLE[fault]
    wrong = change(dataset).to_dataset(name="2m_temperature")
    source = saved(wrong, "wrong.nc")
    with pytest.raises(UserError) as error:
        open_sources([source])
    assert str(error.value).startswith(source)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    # Beside what can be used, it is left out, and asked for, it is missed with the same reason.
    good = saved(dataset[["mean_sea_level_pressure"]], "good.nc")
    if fault in ("several heights", "final and preliminary", "unknown units"):
        both = saved(wrong.merge(dataset[["mean_sea_level_pressure"]]), "both.nc")
        opened = open_sources([both])
        assert names(opened.channels) == ("mean_sea_level_pressure",)
        (remark,) = opened.remarks
        assert remark.startswith(f"{both}: left out 2m_temperature ({reason}")
        with pytest.raises(UserError, match=r"no source has 2m_temperature.*both\.nc: left out"):
            open_sources([both], channels=[Channel("2m_temperature")])
    with pytest.raises(UserError, match=r"wrong\.nc"):
        open_sources([good, source])


def test_geopotential_without_a_level_is_neither_of_the_ground_nor_of_a_level(
    dataset: xr.Dataset, saved: Saved
) -> None:
    unsaid = dataset.geopotential.sel(level=500, drop=True).rename("z")
    source = saved(xr.merge([dataset[["2m_temperature"]], unsaid]), "unsaid.nc")
    opened = open_sources([source])
    assert names(opened.channels) == ("2m_temperature",)
    assert opened.static_channels == ()
    assert "left out z (has no level, so it may be of a pressure level" in opened.remarks[0]
    said = dataset.geopotential.sel(level=500).rename("z")
    opened = open_sources([saved(xr.merge([dataset[["2m_temperature"]], said]), "said.nc")])
    assert names(opened.channels) == ("geopotential_500", "2m_temperature")
    np.testing.assert_array_equal(opened.read(0, 4)[:, 0], unsaid.values)


def test_two_spellings_of_one_variable_are_read_once_and_said(
    dataset: xr.Dataset, saved: Saved
) -> None:
    twice = dataset[["2m_temperature"]].assign(t2m=dataset["2m_temperature"] + 1.0)
    source = saved(twice, "twice.nc")
    opened = open_sources([source])
    np.testing.assert_array_equal(opened.read(0, 4)[:, 0], dataset["2m_temperature"].values)
    assert opened.remarks == (
        f"{source}: left out t2m (is 2m_temperature once more, which is read from 2m_temperature)",
    )


def test_what_is_left_out_is_said_in_one_line_and_grouped_by_reason(
    dataset: xr.Dataset, saved: Saved
) -> None:
    rain = dataset["2m_temperature"]
    more = dataset.assign(dict.fromkeys(("tp", "sp", "tcc", "skt", "sst", "cape", "blh"), rain))
    more["t2m"] = more["2m_temperature"].assign_attrs(units="degR")
    source = saved(more.drop_vars("2m_temperature"), "more.nc")
    (remark,) = open_sources([source]).remarks
    assert remark == (
        f"{source}: left out tp, sp, tcc, skt, sst and 2 more (WeatherMixer does not use it); "
        "t2m (is in 'degR', not in K: convert it first)"
    )


def test_levels_of_a_single_element_may_be_a_single_value(
    dataset: xr.Dataset, saved: Saved
) -> None:
    one = dataset[["temperature"]].sel(level=850)
    opened = open_sources([saved(one, "one.nc")])
    assert names(opened.channels) == ("temperature_850",)
    np.testing.assert_array_equal(opened.read(0, 4)[:, 0], one.temperature.values)


def test_model_levels_are_left_out_with_the_reason(dataset: xr.Dataset, saved: Saved) -> None:
    model = dataset.assign_coords(level=("level", [100, 137]))
    source = saved(model, "model.nc")
    (remark,) = open_sources([source]).remarks
    assert "left out geopotential, temperature (has levels 100 to 137 without units" in remark
    hybrid = dataset.rename(level="hybrid")
    (remark,) = open_sources([saved(hybrid, "hybrid.nc")]).remarks
    assert "(is on hybrid, not on pressure levels: interpolate it first)" in remark


def test_an_empty_axis_of_times_is_refused(dataset: xr.Dataset, saved: Saved) -> None:
    empty = saved(dataset.isel(time=slice(0, 0)), "empty.nc")
    with pytest.raises(UserError, match="holds no times: time is empty"):
        open_sources([empty])
