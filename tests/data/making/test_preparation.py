"""Preparing a store: exact values and statistics, what is left out, users' slips."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from oracles.store_statistics import area_weights, increments, mean_and_std
from support.disk import contents
from weathermixer.config import Config
from weathermixer.data.making.preparation import prepare
from weathermixer.data.making.synthetic import write_synthetic
from weathermixer.data.partial_files import partial_path
from weathermixer.data.store.store import Store
from weathermixer.errors import UserError
from weathermixer.worker_processes import default_processes

Archive = Callable[..., xr.Dataset]
Saved = Callable[..., str]


def config(**data: Any) -> Config:
    return Config.model_validate({"data": {"store": "unused.zarr", **data}})


def assert_statistics_agree(store: Store, channels: dict[str, Any], times: list[datetime]) -> None:
    """Against the oracle, from fields ``(time, latitude, longitude)`` of the training period."""
    step_hours = store.step / np.timedelta64(1, "h")
    for index, name in enumerate(store.channels):
        fields = channels[name].astype(np.float64)
        mean, std = mean_and_std(fields, store.latitude)
        _, step_std = mean_and_std(increments(fields, times, step_hours), store.latitude)
        assert store.statistics.mean[index] == pytest.approx(mean, rel=1e-6, abs=1e-6 * std)
        assert store.statistics.std[index] == pytest.approx(std, rel=1e-6)
        assert store.statistics.step_std[index] == pytest.approx(step_std, rel=1e-6)


def test_states_and_statistics_are_those_of_the_source(
    archive: Archive, saved: Saved, tmp_path: Path
) -> None:
    dataset = archive(times=40, static=("land_sea_mask",))
    store = prepare(tmp_path / "store.zarr", [saved(dataset, "wb2.zarr")])

    np.testing.assert_array_equal(store.times, dataset.time.values)
    for index in (0, 17, 39):
        state = store.read(index)
        np.testing.assert_array_equal(state[0], dataset.geopotential.values[index, 0])
        np.testing.assert_array_equal(state[-1], dataset["2m_temperature"].values[index])
    np.testing.assert_array_equal(
        store.read_static(["land_sea_mask"])[0], dataset.land_sea_mask.values
    )
    train = slice(0, 32)  # the first four fifths
    fields = {
        f"{name}_{level}": dataset[name].sel(level=level).values[train]
        for name in ("geopotential", "temperature")
        for level in (500, 850)
    } | {"2m_temperature": dataset["2m_temperature"].values[train]}
    assert_statistics_agree(store, fields, store.times[train].tolist())


def test_plain_xarray_opens_the_store_without_a_warning(
    archive: Archive, saved: Saved, tmp_path: Path
) -> None:
    dataset = archive(times=4)
    prepare(tmp_path / "store.zarr", [saved(dataset, "wb2.zarr")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = xr.open_zarr(tmp_path / "store.zarr")
        assert {"climatology", "mean", "moments", "state", "static"} <= set(opened)
    np.testing.assert_array_equal(opened.time.values, dataset.time.values)
    field = opened.state.sel(time="2020-01-01T12", channel="2m_temperature")
    np.testing.assert_array_equal(field.values, dataset["2m_temperature"].values[2])


@pytest.mark.exhaustive
def test_processes_change_nothing_in_the_store(
    archive: Archive, saved: Saved, tmp_path: Path
) -> None:
    source = saved(archive(times=40), "wb2.zarr")
    reported: list[tuple[int, int]] = []
    prepare(tmp_path / "one.zarr", [source], processes=1)
    prepare(
        tmp_path / "two.zarr", [source], processes=2, climatology=False,
        progress=lambda done, total: reported.append((done, total)),
    )  # fmt: skip
    one, two = contents(tmp_path / "one.zarr"), contents(tmp_path / "two.zarr")
    # The group's own file also tells which arrays there are.
    whole, without = (json.loads(files.pop("zarr.json")) for files in (one, two))
    assert whole["attributes"] == without["attributes"]
    for name in two:
        assert one[name] == two[name], name
    assert reported[-1] == (40, 40)


def test_configuration_chooses_channels_step_and_training_period(
    archive: Archive, saved: Saved, tmp_path: Path
) -> None:
    dataset = archive(times=24)
    chosen = config(
        variables=["2m_temperature", "temperature"], levels=[850], static=[], step_hours=12,
        train="2020-01-02/2020-01-03",
    )  # fmt: skip
    store = prepare(tmp_path / "store.zarr", [saved(dataset, "wb2.zarr")], config=chosen)
    assert store.channels == ("2m_temperature", "temperature_850")
    train = slice(4, 12)
    fields = {
        "2m_temperature": dataset["2m_temperature"].values[train],
        "temperature_850": dataset.temperature.values[train, 1],
    }
    assert_statistics_agree(store, fields, store.times[train].tolist())


def test_uneven_times_are_paired_only_where_the_step_is_exact(
    archive: Archive, saved: Saved, tmp_path: Path
) -> None:
    kept = [0, 1, 2, 4, 5, 9, 10, 11, 12, 20]
    dataset = archive(times=24, variables=("2m_temperature",)).isel(time=kept)
    store = prepare(tmp_path / "store.zarr", [saved(dataset, "gaps.zarr")])
    train = slice(0, 8)
    times = store.times[train].tolist()
    fields = {"2m_temperature": dataset["2m_temperature"].values[train]}
    assert len(increments(fields["2m_temperature"], times, 6)) == 5
    assert_statistics_agree(store, fields, times)


def test_single_time_is_prepared_without_statistics(
    archive: Archive, saved: Saved, tmp_path: Path
) -> None:
    store = prepare(tmp_path / "now.zarr", [saved(archive(times=1), "now.nc")])
    assert not store.has_statistics
    assert not store.has_climatology
    assert np.isfinite(store.read(0)).all()
    with pytest.raises(UserError, match="has no statistics, being of a single time"):
        _ = store.statistics


def test_times_without_an_exact_pair_name_the_usual_spacing(
    archive: Archive, saved: Saved, tmp_path: Path
) -> None:
    source = saved(archive(times=5, spacing_hours=12), "twelve.zarr")
    with pytest.raises(UserError, match=r"exactly 6 h apart.*try 12 h \(--step-hours"):
        prepare(tmp_path / "store.zarr", [source])
    assert not partial_path(tmp_path / "store.zarr").exists()
    store = prepare(tmp_path / "store.zarr", [source], step_hours=12)
    assert store.step == np.timedelta64(12, "h")


def test_training_period_without_times_is_refused_before_anything_is_written(
    archive: Archive, saved: Saved, tmp_path: Path
) -> None:
    chosen = config(variables=["2m_temperature"], static=[], train="1979-01-01/1979-12-31")
    with pytest.raises(UserError, match="no two of the 0 times from 1979-01-01"):
        prepare(tmp_path / "store.zarr", [saved(archive(), "wb2.zarr")], config=chosen)
    assert not partial_path(tmp_path / "store.zarr").exists()


def test_existing_store_is_not_overwritten(archive: Archive, saved: Saved, tmp_path: Path) -> None:
    source = saved(archive(times=3), "wb2.zarr")
    prepare(tmp_path / "store.zarr", [source])
    with pytest.raises(UserError, match="exists already"):
        prepare(tmp_path / "store.zarr", [source])


def test_implausible_state_is_named_and_leaves_no_store(
    archive: Archive, saved: Saved, tmp_path: Path
) -> None:
    dataset = archive(times=40)
    dataset["2m_temperature"].values[37, 3, 3] = np.nan
    with pytest.raises(UserError, match=r"2m_temperature at 2020-01-10T06:00:00: 1 of 128 values"):
        prepare(tmp_path / "store.zarr", [saved(dataset, "nan.zarr")])
    with pytest.raises(UserError, match="only half prepared"):
        Store.open(tmp_path / "store.zarr")


def test_unfinished_store_of_other_sources_is_not_continued(
    archive: Archive, saved: Saved, tmp_path: Path
) -> None:
    first, second = saved(archive(times=3), "a.zarr"), saved(archive(times=4), "b.zarr")

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "store.zarr", [first], progress=interrupt)
    with pytest.raises(UserError, match="unfinished store of other sources"):
        prepare(tmp_path / "store.zarr", [second])
    with pytest.raises(UserError, match="unfinished store of other sources or settings"):
        prepare(tmp_path / "store.zarr", [first], ways=3)


def test_processes_by_default_fit_into_memory() -> None:
    assert default_processes(2**60) == 1
    assert default_processes(1) >= 1


def test_sources_are_recorded(archive: Archive, saved: Saved, tmp_path: Path) -> None:
    dataset = archive(times=3, latitude=np.linspace(90, -90, 9))
    dataset.attrs["licence"] = "CC-BY 4.0"
    source = saved(dataset, "poles.zarr")
    store = prepare(tmp_path / "store.zarr", [source])
    assert store.attributes["sources"] == [source]
    assert store.attributes["dropped_row"] == "latitude -90"
    assert store.attributes["source_licences"] == ["CC-BY 4.0"]


def test_remote_sources_are_prepared_as_local_ones(
    archive: Archive, saved: Saved, served: str, tmp_path: Path
) -> None:
    dataset = archive(times=20)
    saved(dataset[["geopotential", "temperature"]], "aloft.zarr")
    saved(dataset[["2m_temperature"]], "surface.nc", engine="h5netcdf")
    sources = [f"{served}/aloft.zarr", f"{served}/surface.nc"]
    store = prepare(tmp_path / "store.zarr", sources)
    np.testing.assert_array_equal(store.read(18)[-1], dataset["2m_temperature"].values[18])
    np.testing.assert_array_equal(store.read(3)[0], dataset.geopotential.values[3, 0])


# Archives whose data end before their axis of times does, or begin after it.


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["zarr", "nc"])
@pytest.mark.parametrize("processes", [1, 2])
def test_times_that_hold_nothing_but_nan_at_the_ends_are_left_out_and_said(
    archive: Archive, saved: Saved, tmp_path: Path, kind: str, processes: int,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    dataset = archive(times=40)
    for name in dataset.data_vars:
        dataset[name].values[:2] = np.nan
        dataset[name].values[35:] = np.nan
    encoding = {} if kind == "nc" else {name: {"chunks": dataset[name].shape} for name in dataset}
    source = saved(dataset, f"late.{kind}", encoding=encoding)
    store = prepare(tmp_path / "store.zarr", [source], processes=processes)
    np.testing.assert_array_equal(store.times, dataset.time.values[2:35])
    said = capfd.readouterr().err
    assert f"{source}: times before {store.times[0]} hold nothing and are left out" in said
    assert f"{source}: times after {store.times[-1]} hold nothing and are left out" in said
    np.testing.assert_array_equal(store.read(32)[-1], dataset["2m_temperature"].values[34])


@pytest.mark.exhaustive
def test_a_source_that_ends_in_nan_is_continued_by_another(
    archive: Archive, saved: Saved, tmp_path: Path
) -> None:
    dataset = archive(times=40)
    early = dataset.isel(time=slice(0, 24)).copy(deep=True)
    for name in early.data_vars:
        early[name].values[20:] = np.nan
    sources = [
        saved(early, "early.nc"),
        saved(dataset.isel(time=slice(20, 40)), "late.zarr"),
    ]
    for processes in (1, 2):
        store = prepare(tmp_path / f"{processes}.zarr", sources, processes=processes)
        np.testing.assert_array_equal(store.times, dataset.time.values)
        for index in (19, 20, 23):
            np.testing.assert_array_equal(
                store.read(index)[-1], dataset["2m_temperature"].values[index]
            )


def test_nan_at_the_end_of_one_variable_or_in_the_middle_is_an_error(
    archive: Archive, saved: Saved, tmp_path: Path
) -> None:
    dataset = archive(times=10)
    for name, index in (("2m_temperature", 9), ("temperature", 4)):
        damaged = dataset.copy(deep=True)
        damaged[name].values[index] = np.nan
        source = saved(damaged, f"{name}.nc")
        said = rf"{name}\S* at {dataset.time.values[index].astype('datetime64[s]')}: 128 of 128"
        with pytest.raises(UserError, match=said):
            prepare(tmp_path / f"{name}.zarr", [source])


# Real ERA5.


def test_real_zarr_sample_has_statistics_of_its_exact_pairs(
    test_data: Path, tmp_path: Path
) -> None:
    path = test_data / "era5_surface_1deg.zarr"
    store = prepare(tmp_path / "store.zarr", [str(path)], step_hours=7)
    plain = xr.open_zarr(path)
    times = store.times[:20].tolist()
    fields = {name: plain[name].values[:20, :-1] for name in store.channels}
    assert_statistics_agree(store, fields, times)


def test_real_netcdf_sample_is_prepared_and_another_grid_is_refused(
    test_data: Path, tmp_path: Path
) -> None:
    path = test_data / "era5_64x32_19590102T00.nc"
    plain = xr.open_dataset(path)
    lender = write_synthetic(tmp_path / "lender.zarr", times=2, grid=(32, 64), levels=(500,))
    with pytest.raises(UserError, match="is on another grid"):
        prepare(tmp_path / "store.zarr", [str(path), str(lender.path)])
    store = prepare(tmp_path / "store.zarr", [str(path)])
    np.testing.assert_allclose(store.latitude, plain.latitude)
    np.testing.assert_array_equal(
        store.read(0)[store.channels.index("specific_humidity_850")],
        plain.specific_humidity.sel(level=850).values.T,
    )


def test_real_grib_sample_is_prepared_by_member(test_data: Path, tmp_path: Path) -> None:
    cfgrib = pytest.importorskip("cfgrib", reason="cfgrib is an optional extra")
    path = test_data / "era5_z_t_3deg_members.grib"
    store = prepare(tmp_path / "store.zarr", [str(path)], member=7, step_hours=12)
    plain = cfgrib.open_dataset(str(path), backend_kwargs={"indexpath": ""}).sel(number=7)
    fields = {
        f"{name}_{level}": plain[short].sel(isobaricInhPa=level).values[:, :-1]
        for name, short in (("geopotential", "z"), ("temperature", "t"))
        for level in (500, 850)
    }
    assert store.attributes["member"] == 7
    assert_statistics_agree(store, fields, store.times.tolist())
    assert area_weights(store.latitude).sum() == pytest.approx(1.0)
