"""What was never written is told by the storage, whatever stands in for it when it is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pytest
import xarray as xr
import zarr
from numpy.typing import NDArray

from weathermixer.data.archives.merging import open_sources
from weathermixer.data.channels import Channel
from weathermixer.errors import UserError

Archive = Callable[..., xr.Dataset]
Saved = Callable[..., str]
ZarrFormat = Literal[2, 3]

NAMES = ("temperature", "2m_temperature", "10m_u_component_of_wind")
NEVER = "was never written: the archive holds no data for it"


@pytest.fixture
def dataset(archive: Archive) -> xr.Dataset:
    """Six states; the wind, about 0, has zeros in it."""
    states = archive(
        times=6, variables=("temperature", "2m_temperature"), static=("land_sea_mask",)
    )
    wind = np.random.default_rng(5).standard_normal((6, 8, 16)).astype(np.float32) * 9
    wind[:, 2, 3:7] = 0.0
    states["10m_u_component_of_wind"] = (("time", "latitude", "longitude"), wind, {"units": "m/s"})
    states["land_sea_mask"].values[:] = states.land_sea_mask > 0.5
    return states


def write_zarr(
    dataset: xr.Dataset,
    path: Path,
    *,
    zarr_format: ZarrFormat,
    fill: Any,
    sharded: bool = False,
    holes: tuple[tuple[str, int], ...] = (),
    dtype: str = "f4",
    together: int = 1,
) -> str:
    """Write a data set as other libraries than xarray do: by chunks, with fill values of their own.

    ``holes`` are variables and times that are left out. Integers are packed with scale and offset.
    """
    group = zarr.create_group(path, zarr_format=zarr_format)
    hours = (dataset.time.values - dataset.time.values[0]) / np.timedelta64(1, "h")
    coordinates = {name: dataset[name].values for name in ("latitude", "longitude", "level")}
    coordinates["time"] = hours.astype("i8")

    def create(name: str, shape: Any, chunks: Any, kind: Any, dims: Any, **options: Any) -> Any:
        if zarr_format == 3:
            options["dimension_names"] = dims
        else:
            options["attributes"] = options.get("attributes", {}) | {
                "_ARRAY_DIMENSIONS": list(dims)
            }
        return group.create_array(name, shape=shape, chunks=chunks, dtype=kind, **options)

    for name, values in coordinates.items():
        create(name, values.shape, values.shape, values.dtype, [name])[...] = values
    group["time"].attrs["units"] = "hours since 2020-01-01"
    for variable, array in dataset.data_vars.items():
        name = str(variable)
        values, attributes = array.values, dict(array.attrs)
        if np.dtype(dtype).kind == "i":
            scale = float(np.ptp(values)) / 60000.0
            offset = float(values.min() + values.max()) / 2.0
            values = np.round((values - offset) / scale).astype(dtype)
            attributes |= {"scale_factor": scale, "add_offset": offset}
        is_static = array.dims[0] != "time"
        chunks = values.shape if is_static else (together, *values.shape[1:])
        options: dict[str, Any] = {"fill_value": fill, "attributes": attributes}
        if sharded and not is_static:
            options["shards"] = (6, *values.shape[1:])
        written = create(name, values.shape, chunks, dtype, array.dims, **options)
        if is_static:
            written[...] = values
            continue
        for start in range(0, 6, together):
            if (name, start) not in holes:
                written[start : start + together] = values[start : start + together]
    return str(path)


def content(group: zarr.Group, name: str) -> tuple[NDArray[Any], dict[str, Any]]:
    """Values and attributes of an array."""
    array = group[name]
    assert isinstance(array, zarr.Array)
    return np.asarray(array[...]), dict(array.attrs)


def refusal(source: str) -> str:
    with pytest.raises(UserError) as error:
        opened = open_sources([source])
        opened.read(0, len(opened.times))
    return str(error.value)


def same_as(dataset: xr.Dataset, source: str, *, rtol: float = 0.0) -> None:
    """Every value of an archive, zeros too, is the data set's."""
    opened = open_sources([source])
    assert len(opened.times) == 6
    states = opened.read(0, 6)
    for place, channel in enumerate(opened.channels):
        wanted = dataset[channel.variable]
        wanted = wanted if channel.level_hpa is None else wanted.sel(level=channel.level_hpa)
        np.testing.assert_allclose(states[:, place], wanted, rtol=rtol, atol=100 * rtol)
    np.testing.assert_array_equal(opened.read_static()[0] > 0.5, dataset.land_sea_mask > 0.5)


FORMATS = [
    pytest.param({"zarr_format": 2, "fill": 0}, id="Zarr 2, 0"),
    pytest.param({"zarr_format": 2, "fill": np.nan}, id="Zarr 2, NaN"),
    pytest.param({"zarr_format": 2, "fill": None}, id="Zarr 2, null"),
    pytest.param({"zarr_format": 3, "fill": 0}, id="Zarr 3, 0"),
    pytest.param({"zarr_format": 3, "fill": np.nan}, id="Zarr 3, NaN"),
    pytest.param({"zarr_format": 3, "fill": 0, "sharded": True}, id="Zarr 3 in shards, 0"),
    pytest.param({"zarr_format": 3, "fill": 285.0, "sharded": True}, id="Zarr 3 in shards, 285"),
    pytest.param({"zarr_format": 2, "fill": 0, "dtype": "i2"}, id="Zarr 2, packed, 0"),
    pytest.param({"zarr_format": 3, "fill": 0, "dtype": "i2"}, id="Zarr 3, packed, 0"),
    pytest.param({"zarr_format": 3, "fill": -7, "dtype": "i2", "sharded": True}, id="shards, -7"),
    pytest.param({"zarr_format": 3, "fill": 0, "together": 2}, id="two times in a chunk"),
]  # fmt: skip


# xarray itself takes a packed fill value of Zarr 2 for the mark of a missing value.
UNMARKED = [each for each in FORMATS if each.id != "Zarr 2, packed, 0"]


@pytest.mark.parametrize("options", UNMARKED)
def test_what_was_written_is_read_though_it_equals_the_fill_value(
    dataset: xr.Dataset, tmp_path: Path, options: dict[str, Any]
) -> None:
    source = write_zarr(dataset, tmp_path / "a.zarr", **options)
    same_as(dataset, source, rtol=1e-3 if options.get("dtype") else 0.0)


@pytest.mark.parametrize("options", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_a_hole_is_named_with_variable_and_time(
    dataset: xr.Dataset, tmp_path: Path, options: dict[str, Any], name: str
) -> None:
    source = write_zarr(dataset, tmp_path / "a.zarr", holes=((name, 2),), **options)
    channel = "temperature_500" if name == "temperature" else name
    assert f"a.zarr: {channel} at 2020-01-01T12:00:00 {NEVER}" in refusal(source)


@pytest.mark.parametrize("options", FORMATS)
def test_times_at_the_ends_at_which_nothing_was_written_are_left_out_and_said(
    dataset: xr.Dataset, tmp_path: Path, options: dict[str, Any]
) -> None:
    last = 4 if options.get("together") == 2 else 5
    holes = tuple((name, time) for name in NAMES for time in (0, last))
    source = write_zarr(dataset, tmp_path / "a.zarr", holes=holes, **options)
    opened = open_sources([source])
    together = options.get("together", 1)
    np.testing.assert_array_equal(opened.times, dataset.time.values[together:last])
    before, after = opened.remarks
    assert f"times before {opened.times[0]} hold nothing and are left out" in before
    assert f"times after {opened.times[-1]} hold nothing and are left out" in after
    if options.get("dtype") is None:
        np.testing.assert_array_equal(
            opened.read(0, 1)[0, -1], dataset["2m_temperature"].values[together]
        )


@pytest.mark.parametrize("options", FORMATS[:1] + FORMATS[3:4] + FORMATS[5:6])
def test_the_end_of_one_variable_alone_is_a_hole(
    dataset: xr.Dataset, tmp_path: Path, options: dict[str, Any]
) -> None:
    holes = (("10m_u_component_of_wind", 5),)
    source = write_zarr(dataset, tmp_path / "a.zarr", holes=holes, **options)
    said = refusal(source)
    assert f"10m_u_component_of_wind at 2020-01-02T06:00:00 {NEVER}" in said
    # Where that variable is not wanted, nothing is missing.
    opened = open_sources([source], channels=[Channel("2m_temperature")])
    assert len(opened.times) == 6
    assert opened.remarks == ()


@pytest.mark.parametrize("consolidated", [True, False])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_holes_are_found_over_http(
    dataset: xr.Dataset, tmp_path: Path, served: str, zarr_format: ZarrFormat, consolidated: bool
) -> None:
    holes = (("2m_temperature", 2), *((name, 5) for name in NAMES))
    write_zarr(dataset, tmp_path / "a.zarr", zarr_format=zarr_format, fill=0, holes=holes)
    if consolidated:
        zarr.consolidate_metadata(tmp_path / "a.zarr")
    address = f"{served}/a.zarr"
    opened = open_sources([address])
    np.testing.assert_array_equal(opened.times, dataset.time.values[:5])
    assert f"2m_temperature at 2020-01-01T12:00:00 {NEVER}" in refusal(address)


def test_a_stored_nan_is_no_hole(dataset: xr.Dataset, tmp_path: Path) -> None:
    dataset["2m_temperature"].values[3, 1, 1] = np.nan
    source = write_zarr(dataset, tmp_path / "a.zarr", zarr_format=3, fill=np.nan)
    assert "2m_temperature at 2020-01-01T18:00:00: 1 of 128 values are NaN" in refusal(source)


def test_chunks_of_sea_may_be_left_out_of_a_mask(dataset: xr.Dataset, tmp_path: Path) -> None:
    """Zarr's writers leave out chunks that hold the fill value alone."""
    source = Path(write_zarr(dataset, tmp_path / "a.zarr", zarr_format=3, fill=0))
    group = zarr.open_group(source, mode="r+")
    mask = dataset.land_sea_mask.values.copy()
    mask[:, 8:] = 0.0
    group.create_array(
        "land_sea_mask", shape=mask.shape, chunks=(8, 8), dtype="i1", fill_value=0,
        dimension_names=("latitude", "longitude"), overwrite=True,
    )[...] = mask  # fmt: skip
    assert not (source / "land_sea_mask" / "c" / "0" / "1").exists()
    np.testing.assert_array_equal(open_sources([str(source)]).read_static()[0], mask)
    (source / "land_sea_mask" / "c" / "0" / "0").unlink()
    with pytest.raises(UserError, match=f"land_sea_mask {NEVER}"):
        open_sources([str(source)]).read_static()


def test_zeros_of_zarr_2_are_values_in_coordinates_too(dataset: xr.Dataset, tmp_path: Path) -> None:
    """xarray takes the fill value of Zarr 2, zero by default, for the mark of a missing value."""
    dataset = dataset.isel(latitude=slice(0, 7)).assign_coords(latitude=np.linspace(-75, 75, 7))
    source = write_zarr(dataset, tmp_path / "a.zarr", zarr_format=2, fill=0)
    group = zarr.open_group(source, mode="r+", zarr_format=2)
    for name in ("time", "latitude", "longitude"):
        values, attributes = content(group, name)
        array = group.create_array(
            name, shape=values.shape, dtype=values.dtype, fill_value=0, overwrite=True,
            attributes=attributes,
        )  # fmt: skip
        array[...] = values
    raw = xr.open_zarr(source, consolidated=False)
    assert np.isnat(raw.time.values).any()
    assert np.isnan(raw.longitude.values).any()
    opened = open_sources([source])
    np.testing.assert_array_equal(opened.times, dataset.time.values)
    np.testing.assert_array_equal(opened.latitude, dataset.latitude)
    np.testing.assert_array_equal(opened.longitude, dataset.longitude)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("time", "has values of time that are repeated .* never written: fetch it again"),
        ("latitude", "has values of latitude that are repeated .* never written: fetch it again"),
        ("level", "has levels 500, 0, not all of which are pressures"),
    ],
)
def test_coordinates_that_were_never_written_are_named(
    dataset: xr.Dataset, tmp_path: Path, zarr_format: ZarrFormat, name: str, said: str
) -> None:
    source = write_zarr(dataset, tmp_path / "a.zarr", zarr_format=zarr_format, fill=np.nan)
    group = zarr.open_group(source, mode="r+", zarr_format=zarr_format)
    values, attributes = content(group, name)
    array = group.create_array(
        name, shape=values.shape, chunks=(1,), dtype=values.dtype, fill_value=0, overwrite=True,
        attributes=attributes, dimension_names=[name] if zarr_format == 3 else None,
    )  # fmt: skip
    array[...] = values
    # Its first hour, zero, is the fill value: its chunk was left out, and is right.
    same_as(dataset, source)
    last = len(values) - 1
    chunk = Path(source) / name / (f"c/{last}" if zarr_format == 3 else str(last))
    chunk.unlink()
    with pytest.raises(UserError, match=said):
        open_sources([source], channels=[Channel("temperature", 500)])


# --- NetCDF 4


def write_netcdf(
    dataset: xr.Dataset, path: Path, *, fill: float, holes: tuple[tuple[str, int], ...]
) -> str:
    """Write a data set as h5py does: a chunk that is not written is not there."""
    template = dataset.copy()
    for name in NAMES:
        template[name].encoding = {"chunksizes": (1, *dataset[name].shape[1:])}
    template.to_netcdf(path, engine="h5netcdf")
    with h5py.File(path, "r+") as file:
        for name in NAMES:
            old = file[name]
            scales = [old.dims[axis][0] for axis in range(old.ndim)]
            values, attributes = old[...], {"units": old.attrs["units"]}
            del file[name]
            new = file.create_dataset(
                name, values.shape, "f4", chunks=(1, *values.shape[1:]), fillvalue=fill
            )
            new.attrs.update(attributes)
            for axis, scale in enumerate(scales):
                new.dims[axis].attach_scale(scale)
            for time in range(6):
                if (name, time) not in holes:
                    new[time] = values[time]
    return str(path)


@pytest.mark.parametrize("fill", [0.0, np.nan, 9.96921e36])
@pytest.mark.parametrize("name", NAMES)
def test_chunks_of_netcdf_that_were_never_allocated_are_holes(
    dataset: xr.Dataset, tmp_path: Path, fill: float, name: str
) -> None:
    whole = write_netcdf(dataset, tmp_path / "whole.nc", fill=fill, holes=())
    same_as(dataset, whole)
    source = write_netcdf(dataset, tmp_path / "a.nc", fill=fill, holes=((name, 2),))
    channel = "temperature_500" if name == "temperature" else name
    assert f"a.nc: {channel} at 2020-01-01T12:00:00 {NEVER}" in refusal(source)


def test_the_end_of_a_netcdf_that_was_never_allocated_is_left_out_and_said(
    dataset: xr.Dataset, tmp_path: Path
) -> None:
    holes = tuple((name, time) for name in NAMES for time in (4, 5))
    source = write_netcdf(dataset, tmp_path / "a.nc", fill=0.0, holes=holes)
    opened = open_sources([source])
    np.testing.assert_array_equal(opened.times, dataset.time.values[:4])
    assert opened.remarks == (
        f"{source}: times after 2020-01-01T18:00:00 hold nothing and are left out",
    )


def test_a_variable_of_netcdf_that_was_never_written_is_named(
    dataset: xr.Dataset, saved: Saved
) -> None:
    source = saved(dataset, "a.nc", engine="h5netcdf")
    with h5py.File(source, "r+") as file:
        old = file["2m_temperature"]
        scales = [old.dims[axis][0] for axis in range(3)]
        del file["2m_temperature"]
        new = file.create_dataset("2m_temperature", (6, 8, 16), "f4", fillvalue=285.0)
        for axis, scale in enumerate(scales):
            new.dims[axis].attach_scale(scale)
    assert f"2m_temperature at 2020-01-01T00:00:00 {NEVER}" in refusal(source)
