"""Archives of any layout become one set of states under canonical names."""

from __future__ import annotations

import builtins
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from weathermixer.data.archives.merging import open_sources
from weathermixer.data.channels import LEVELS_HPA, Channel, names
from weathermixer.data.making.synthetic import write_synthetic
from weathermixer.errors import UserError

Archive = Callable[..., xr.Dataset]
Saved = Callable[..., str]


def test_reads_weatherbench_zarr_value_for_value(archive: Archive, saved: Saved) -> None:
    dataset = archive(static=("land_sea_mask",))
    sources = open_sources([saved(dataset, "wb2.zarr")])

    assert names(sources.channels) == (
        "geopotential_500", "geopotential_850", "temperature_500", "temperature_850",
        "2m_temperature",
    )  # fmt: skip
    assert sources.static_channels == ("land_sea_mask",)
    np.testing.assert_array_equal(sources.latitude, dataset.latitude)
    np.testing.assert_array_equal(sources.times, dataset.time.values)
    states = sources.read(3, 9)
    for place, channel in enumerate(sources.channels):
        wanted = dataset[channel.variable].isel(time=slice(3, 9))
        if channel.level_hpa is not None:
            wanted = wanted.sel(level=channel.level_hpa)
        np.testing.assert_array_equal(states[:, place], wanted.values)
    np.testing.assert_array_equal(sources.read_static()[0], dataset.land_sea_mask.values)


@pytest.mark.parametrize("dimensions", [
    ("time", "level", "longitude", "latitude"),
    ("longitude", "latitude", "level", "time"),
])  # fmt: skip
@pytest.mark.parametrize("kind", ["zarr", "nc"])
def test_any_order_of_dimensions_reads_the_same(
    archive: Archive, saved: Saved, dimensions: tuple[str, ...], kind: str
) -> None:
    dataset = archive()
    plain = open_sources([saved(dataset, f"plain.{kind}")])
    turned = open_sources([saved(dataset.transpose(*dimensions), f"turned.{kind}")])
    np.testing.assert_array_equal(plain.read(0, 5), turned.read(0, 5))


def test_copernicus_names_are_understood(archive: Archive, saved: Saved) -> None:
    dataset = archive(static=("geopotential_at_surface",))
    renamed = dataset.rename(
        {
            "latitude": "lat", "longitude": "lon", "time": "valid_time",
            "level": "pressure_level", "geopotential": "z", "temperature": "t",
            "2m_temperature": "t2m", "geopotential_at_surface": "z_sfc",
        }
    )  # fmt: skip
    renamed = renamed.expand_dims(number=[0]).assign_coords(expver="0001")
    plain = open_sources([saved(dataset, "plain.nc")])
    other = open_sources([saved(renamed, "cds.nc")])
    assert other.channels == plain.channels
    np.testing.assert_array_equal(other.read(0, 3), plain.read(0, 3))
    np.testing.assert_array_equal(other.read_static(), plain.read_static())


@pytest.mark.parametrize(
    "evidence",
    [
        {"GRIB_typeOfLevel": "surface"},
        {"long_name": "Geopotential at the surface"},
        {"long_name": "Orography"},
        "scalar coordinate",
    ],
)
def test_z_that_is_said_to_be_at_the_surface_is_the_orography(
    archive: Archive, saved: Saved, evidence: Any
) -> None:
    dataset = archive(variables=("2m_temperature",), static=("geopotential_at_surface",))
    # Copernicus gives even its constant fields a time.
    orography = dataset.geopotential_at_surface.expand_dims(time=dataset.time.values[:1])
    if evidence == "scalar coordinate":
        orography = orography.assign_coords(surface=0.0)
    else:
        orography.attrs.update(evidence)
    source = saved(xr.Dataset({"z": orography}), "orography.nc")
    sources = open_sources([saved(dataset[["2m_temperature"]], "t2m.nc"), source],
                           channels=[Channel("2m_temperature")])  # fmt: skip
    np.testing.assert_array_equal(sources.read_static()[0], orography.values[0])


def test_pressure_levels_in_pascal_become_hectopascal(archive: Archive, saved: Saved) -> None:
    dataset = archive().rename(level="plev").assign_coords(plev=[50000.0, 85000.0])
    dataset["plev"].attrs["units"] = "Pa"
    sources = open_sources([saved(dataset, "cmip.nc")])
    assert Channel("temperature", 850) in sources.channels


def test_longitudes_from_minus_180_are_rolled_to_0_to_360(archive: Archive, saved: Saved) -> None:
    dataset = archive()
    shifted = dataset.roll(longitude=8, roll_coords=True)
    shifted = shifted.assign_coords(longitude=(shifted.longitude + 180) % 360 - 180)
    assert shifted.longitude[0] == -180
    sources = open_sources([saved(shifted, "west.zarr")])
    np.testing.assert_array_equal(sources.longitude, dataset.longitude)
    np.testing.assert_array_equal(sources.read(0, 2)[:, -1], dataset["2m_temperature"].values[:2])


@pytest.mark.parametrize("descending", [True, False])
def test_row_at_the_south_pole_is_dropped_from_an_odd_number(
    archive: Archive, saved: Saved, descending: bool
) -> None:
    latitude = np.linspace(90, -90, 9) if descending else np.linspace(-90, 90, 9)
    dataset = archive(latitude=latitude)
    sources = open_sources([saved(dataset, "poles.zarr")])
    assert sources.dropped_row
    kept = latitude[latitude > -90]
    np.testing.assert_array_equal(sources.latitude, kept)
    np.testing.assert_array_equal(
        sources.read(0, 1)[0, -1], dataset["2m_temperature"].sel(latitude=kept).values[0]
    )


def test_an_even_number_of_rows_keeps_both_poles(archive: Archive, saved: Saved) -> None:
    sources = open_sources([saved(archive(latitude=np.linspace(90, -90, 8)), "poles.zarr")])
    assert not sources.dropped_row
    assert sources.grid == (8, 16)


def test_unsorted_times_are_sorted(archive: Archive, saved: Saved) -> None:
    dataset = archive(times=6)
    order = [4, 0, 5, 1, 3, 2]
    sources = open_sources([saved(dataset.isel(time=order), "mixed.zarr")])
    np.testing.assert_array_equal(sources.times, dataset.time.values)
    np.testing.assert_array_equal(sources.read(0, 6)[:, -1], dataset["2m_temperature"].values)


def test_variables_periods_and_static_fields_of_several_sources_are_merged(
    archive: Archive, saved: Saved
) -> None:
    whole = archive(times=12, static=("land_sea_mask",))
    aloft = whole[["geopotential", "temperature"]]
    parts = [
        saved(aloft.isel(time=slice(0, 5)), "early.zarr"),
        saved(aloft.isel(time=slice(5, 12)), "late.nc"),
        saved(whole[["2m_temperature"]].isel(latitude=slice(None, None, -1)), "surface.zarr"),
        saved(whole[["land_sea_mask"]], "mask.nc"),
    ]
    merged = open_sources(parts)
    plain = open_sources([saved(whole, "whole.zarr")])
    assert merged.channels == plain.channels
    np.testing.assert_array_equal(merged.times, plain.times)
    np.testing.assert_array_equal(merged.read(0, 12), plain.read(0, 12))
    np.testing.assert_array_equal(merged.read(4, 6), plain.read(4, 6))
    np.testing.assert_array_equal(merged.read_static(), plain.read_static())


def test_only_times_with_every_channel_are_kept_and_the_others_counted(
    archive: Archive, saved: Saved
) -> None:
    whole = archive(times=10)
    aloft = saved(whole[["temperature"]].isel(time=slice(0, 7)), "aloft.zarr")
    surface = saved(whole[["2m_temperature"]].isel(time=[2, 3, 5, 8]), "surface.zarr")
    sources = open_sources([aloft, surface])
    np.testing.assert_array_equal(sources.times, whole.time.values[[2, 3, 5]])
    assert sources.num_incomplete_times == 5
    np.testing.assert_array_equal(sources.read(0, 3)[:, 0], whole.temperature.values[[2, 3, 5], 0])
    np.testing.assert_array_equal(sources.read(1, 3)[:, -1], whole["2m_temperature"].values[[3, 5]])


def test_prepared_store_lends_its_static_fields_but_not_its_times(
    archive: Archive, saved: Saved, tmp_path: Path
) -> None:
    store = write_synthetic(tmp_path / "store.zarr", times=3, grid=(8, 16), levels=(500,))
    snapshot = archive(times=1, latitude=store.latitude)
    sources = open_sources([saved(snapshot, "now.nc"), str(store.path)])
    np.testing.assert_array_equal(sources.times, snapshot.time.values)
    assert sources.static_channels == store.static_channels
    np.testing.assert_array_equal(sources.read_static(), store.read_static(store.static_channels))


def test_prepared_store_alone_gives_its_states(tmp_path: Path) -> None:
    store = write_synthetic(tmp_path / "store.zarr", times=3, grid=(8, 16), levels=(500,))
    sources = open_sources([str(store.path)], channels=[Channel("2m_temperature")])
    np.testing.assert_array_equal(sources.read(1, 3)[:, 0], [store.read(1)[-1], store.read(2)[-1]])


@pytest.mark.parametrize("name", ["wb2.zarr", "one.nc"])
def test_remote_sources_read_as_local_ones(
    archive: Archive, saved: Saved, served: str, name: str
) -> None:
    dataset = archive(times=3)
    local = open_sources([saved(dataset, name)])
    remote = open_sources([f"{served}/{name}"])
    assert remote.channels == local.channels
    np.testing.assert_array_equal(remote.read(0, 3), local.read(0, 3))


def test_period_keeps_only_its_times(archive: Archive, saved: Saved) -> None:
    dataset = archive(times=12)
    period = (np.datetime64("2020-01-02", "s"), np.datetime64("2020-01-02T12", "s"))
    sources = open_sources([saved(dataset, "wb2.zarr")], period=period)
    np.testing.assert_array_equal(sources.times, dataset.time.values[4:7])


# What a user may get wrong: each ends in one sentence that names the place and the remedy.


def refused(*sources: str, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        opened = open_sources(list(sources), **options)
        opened.read(0, len(opened.times))
        opened.read_static()
    return str(error.value)


@pytest.mark.parametrize(
    ("variable", "change", "units", "said"),
    [
        ("2m_temperature", lambda x: x - 273.15, "K", r"2m_temperature at 2020-01-01T00.*in K\?"),
        ("mean_sea_level_pressure", lambda x: x / 100, None, r"are they in Pa\?"),
        ("geopotential", lambda x: x / 9.80665, None, r"geopotential height\? Multiply"),
        ("temperature", lambda x: np.where(x == x.min(), np.nan, x), "K", r"are NaN or infinite"),
    ],
)
def test_wrong_units_and_nan_are_refused(
    archive: Archive, saved: Saved, variable: str, change: Any, units: str | None, said: str
) -> None:
    dataset = archive(variables=("geopotential", "temperature", "2m_temperature",
                                 "mean_sea_level_pressure"))  # fmt: skip
    dataset[variable].values[:] = change(dataset[variable].values)
    dataset[variable].attrs = {} if units is None else {"units": units}
    assert re.search(said, refused(saved(dataset, "wrong.zarr")))


def test_units_that_cannot_be_converted_are_left_out_with_the_reason(
    archive: Archive, saved: Saved
) -> None:
    dataset = archive()
    dataset["geopotential"].attrs["units"] = "m"
    source = saved(dataset, "metres.zarr")
    assert open_sources([source]).remarks == (
        f"{source}: left out geopotential (is in 'm', not in m2 s-2: convert it first)",
    )
    said = refused(source, channels=[Channel("geopotential", 500)])
    assert "no source has geopotential_500" in said
    assert "geopotential (is in 'm', not in m2 s-2: convert it first)" in said


def test_missing_variable_or_level_is_named_with_what_there_is(
    archive: Archive, saved: Saved
) -> None:
    source = saved(archive(), "wb2.zarr")
    said = refused(source, channels=[Channel("temperature", 850), Channel("temperature", 300)])
    assert "no source has temperature_300" in said
    assert "temperature at 500, 850 hPa" in said
    said = refused(source, static_channels=["soil_type"])
    assert "no source has the static fields soil_type" in said


def test_repeated_times_are_refused(archive: Archive, saved: Saved) -> None:
    dataset = archive(times=4).isel(time=[0, 1, 1, 2])
    assert "holds 2020-01-01T06:00:00 more than once" in refused(saved(dataset, "twice.zarr"))


def test_the_same_state_in_two_sources_is_refused(archive: Archive, saved: Saved) -> None:
    first = saved(archive(times=4), "a.zarr")
    second = saved(archive(times=4, start="2020-01-01T18"), "b.zarr")
    said = refused(first, second)
    assert "geopotential_500 at 2020-01-01T18:00:00 is both in" in said


def test_another_grid_is_refused(archive: Archive, saved: Saved) -> None:
    first = saved(archive(), "a.zarr")
    coarse = saved(archive(columns=8, variables=("mean_sea_level_pressure",)), "b.zarr")
    assert re.search(
        r"b.zarr is on another grid \(8x8.*than .*a.zarr \(8x16", refused(first, coarse)
    )


def test_region_is_refused(archive: Archive, saved: Saved) -> None:
    region = archive().isel(longitude=slice(3, 9))
    assert "not the whole globe" in refused(saved(region, "region.zarr"))


def test_ensemble_member_must_be_chosen_and_exist(archive: Archive, saved: Saved) -> None:
    one = archive(times=2)
    both = xr.concat([one, one + 1.0], dim="number").assign_coords(number=[4, 7])
    source = saved(both, "members.nc")
    assert "2 ensemble members, 4, 7: choose one with --member" in refused(source)
    assert "no member 5" in refused(source, member=5)
    np.testing.assert_array_equal(
        open_sources([source], member=7).read(0, 2)[:, -1], one["2m_temperature"].values + 1.0
    )


def test_forecasts_with_several_lead_times_are_refused(archive: Archive, saved: Saved) -> None:
    dataset = archive(times=3).expand_dims(step=[0, 1]).drop_vars("time")
    stamps = np.arange(6).reshape(2, 3).astype("datetime64[D]").astype("datetime64[ns]")
    dataset = dataset.assign_coords(valid_time=(("step", "time"), stamps))
    assert "choose one lead time" in refused(saved(dataset, "forecast.nc"))


def test_what_is_not_an_archive_is_refused(tmp_path: Path, archive: Archive, saved: Saved) -> None:
    assert "there is nothing at" in refused(str(tmp_path / "absent.zarr"))
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    assert "is none of Zarr, NetCDF (3 or 4) and GRIB" in refused(str(text))
    (tmp_path / "empty").mkdir()
    assert "cannot be opened as Zarr" in refused(str(tmp_path / "empty"))
    rain = archive(variables=("2m_temperature",)).rename({"2m_temperature": "tp"})
    assert "it has tp" in refused(saved(rain, "rain.nc"))


def test_unreachable_address_is_named(served: str) -> None:
    assert f"there is nothing at {served}/absent.zarr" in refused(f"{served}/absent.zarr")
    assert "correct the address" in refused("nonsense://bucket/x.zarr")


def test_cloud_storage_without_its_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(address: str) -> None:
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    assert "pip install 'weathermixer[cloud]'" in refused("gs://weatherbench2/era5.zarr")


def test_grib_without_its_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_import = builtins.__import__

    def without_cfgrib(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "cfgrib":
            raise ImportError("No module named 'cfgrib'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_cfgrib)
    file = tmp_path / "era5.grib"
    file.write_bytes(b"GRIB and more")
    assert "pip install 'weathermixer[grib]'" in refused(str(file))


@pytest.mark.parametrize("engine", ["h5netcdf", "scipy"])
def test_netcdf_cut_short_is_named(archive: Archive, saved: Saved, engine: str) -> None:
    source = saved(archive(), "short.nc", engine=engine)
    whole = Path(source).read_bytes()
    Path(source).write_bytes(whole[: len(whole) // 2])
    said = refused(source)
    assert "short.nc cannot be opened" in said
    assert "fetch it again" in said


def test_torn_chunk_of_zarr_is_named_with_its_time(archive: Archive, saved: Saved) -> None:
    source = saved(
        archive(times=4), "torn.zarr", encoding={"temperature": {"chunks": (1, 2, 8, 16)}}
    )
    chunk = Path(source) / "temperature" / "2.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:40])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = open_sources([source])
        opened.read(0, 2)
        with pytest.raises(
            UserError, match=r"torn.zarr cannot be read: temperature at 2020-01-01T12"
        ):
            opened.read(2, 3)


def test_missing_chunk_of_zarr_is_named_with_its_time(archive: Archive, saved: Saved) -> None:
    source = saved(
        archive(times=4), "holes.zarr", encoding={"temperature": {"chunks": (1, 2, 8, 16)}}
    )
    (Path(source) / "temperature" / "3.0.0.0").unlink()
    assert "temperature_500 at 2020-01-01T18:00:00 was never written" in refused(source)


# Real ERA5.


def test_real_zarr_sample_is_read_value_for_value(test_data: Path) -> None:
    path = test_data / "era5_surface_1deg.zarr"
    sources = open_sources([str(path)])
    plain = xr.open_zarr(path)
    assert sources.grid == (180, 360)
    assert sources.dropped_row
    assert len(sources.times) == 24
    states = sources.read(21, 24)
    for place, channel in enumerate(sources.channels):
        np.testing.assert_array_equal(states[:, place], plain[channel.name].values[21:24, :-1])


def test_real_netcdf_sample_is_read_value_for_value(test_data: Path) -> None:
    path = test_data / "era5_64x32_19590102T00.nc"
    sources = open_sources([str(path)])
    plain = xr.open_dataset(path)
    assert sources.grid == (32, 64)
    assert sources.times.tolist() == [np.datetime64("1959-01-02T00:00:00").item()]
    assert len(sources.channels) == 5 * len(LEVELS_HPA)
    state = sources.read(0, 1)[0]
    for place, channel in enumerate(sources.channels):
        wanted = plain[channel.variable].sel(level=channel.level_hpa).values.T
        np.testing.assert_array_equal(state[place], wanted)


def test_real_grib_sample_is_read_value_for_value_by_member(
    test_data: Path, tmp_path: Path
) -> None:
    cfgrib = pytest.importorskip("cfgrib", reason="cfgrib is an optional extra")
    path = tmp_path / "members.grib"
    shutil.copy(test_data / "era5_z_t_3deg_members.grib", path)
    sources = open_sources([str(path)], member=3)
    assert sources.grid == (60, 120)
    assert names(sources.channels) == (
        "geopotential_500", "geopotential_850", "temperature_500", "temperature_850",
    )  # fmt: skip
    plain = cfgrib.open_dataset(str(path), backend_kwargs={"indexpath": ""}).sel(number=3)
    states = sources.read(0, 4)
    for place, channel in enumerate(sources.channels):
        field = plain[{"geopotential": "z", "temperature": "t"}[channel.variable]]
        wanted = field.sel(isobaricInhPa=channel.level_hpa).values[:, :-1]
        np.testing.assert_array_equal(states[:, place], wanted)
    assert [file.name for file in tmp_path.iterdir()] == ["members.grib"]


def test_real_grib_sample_cut_short_is_refused(test_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("cfgrib", reason="cfgrib is an optional extra")
    path = tmp_path / "short.grib"
    path.write_bytes((test_data / "era5_z_t_3deg_members.grib").read_bytes()[:1_500_000])
    assert "short.grib cannot be opened as GRIB" in refused(str(path), member=0)
