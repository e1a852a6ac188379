"""A store as WeatherBench 2 keeps analyses: the same values, whole or not there."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from support.waves import write_waves
from weathermixer.config import Data, parse_period
from weathermixer.data.making.weatherbench import export_store
from weathermixer.data.opening import open_states
from weathermixer.data.store.dataset import store_dataset
from weathermixer.data.store.store_description import StoreDescription
from weathermixer.data.store.store_writer import StoreWriter
from weathermixer.errors import UserError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_waves(tmp_path_factory.mktemp("store") / "waves.zarr", levels=(500, 850))


def opened(path: Path) -> xr.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return xr.open_dataset(path, engine="zarr", chunks={})


def test_it_holds_what_the_store_does_and_opens_without_a_warning(
    store: Path, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    export_store(store, tmp_path / "out.zarr", progress=lambda *at: seen.append(at))
    made = opened(tmp_path / "out.zarr")
    assert made["temperature"].dims == ("time", "level", "latitude", "longitude")
    assert made["2m_temperature"].dims == ("time", "latitude", "longitude")
    assert made["temperature"].attrs["units"] == "K"
    stored = xr.open_zarr(store)
    channels = list(stored["channel"].values)
    for level in (500, 850):
        place = channels.index(f"temperature_{level}")
        np.testing.assert_array_equal(
            made["temperature"].sel(level=level), stored["state"].isel(channel=place)
        )
    surface = stored["state"].isel(channel=channels.index("2m_temperature"))
    np.testing.assert_array_equal(made["2m_temperature"], surface)
    np.testing.assert_array_equal(made["land_sea_mask"], stored["static"][0])
    xr.testing.assert_equal(made, store_dataset(store))
    assert seen[-1] == (60, 60)
    assert not list(tmp_path.glob("*.partial")) and not (tmp_path / "out.zarr/.progress").exists()


def test_it_is_an_archive_that_states_are_read_from(store: Path, tmp_path: Path) -> None:
    export_store(store, tmp_path / "out.zarr")
    data = Data.model_validate({"store": "x", "variables": ["temperature"], "levels": [500, 850]})
    states = open_states(tmp_path / "out.zarr", data)
    assert states.channels == ("temperature_500", "temperature_850")
    theirs = open_states(store, data)
    channels = theirs.channel_indices(states.channels)
    np.testing.assert_array_equal(states.read(7), theirs.read(7, channels))


def test_a_period_is_copied_alone(store: Path, tmp_path: Path) -> None:
    export_store(store, tmp_path / "out.zarr", period=parse_period("2001-01-03/2001-01-04"))
    times = opened(tmp_path / "out.zarr").time.values
    assert [str(times[0])[:13], str(times[-1])[:13], len(times)] == [
        "2001-01-03T00",
        "2001-01-04T18",
        8,
    ]


def test_a_variable_without_a_level_that_another_has_holds_nan_there(tmp_path: Path) -> None:
    channels = ("geopotential_500", "temperature_500", "temperature_850")
    times = np.array(["2001-01-01T00", "2001-01-01T06"], "datetime64[s]")
    latitude, longitude = np.array([45.0, 0.0, -45.0, -80.0]), np.linspace(0.0, 270.0, 4)
    static = np.empty((0, 4, 4), np.float32)
    path = tmp_path / "uneven.zarr"
    writer = StoreWriter.create(
        path, StoreDescription(channels, times, latitude, longitude, 6.0, (), static)
    )
    fields = np.full((3, 4, 4), 250.0, np.float32)
    fields[0] = 5e4
    for block in writer.missing_blocks():
        for _ in writer.write_block(block, lambda _: fields):
            pass
    writer.finish(parse_period("2001-01-01/2001-01-01"))
    export_store(path, tmp_path / "out.zarr")
    made = opened(tmp_path / "out.zarr")
    assert list(made.level.values) == [500, 850]
    assert np.isnan(made["geopotential"].sel(level=850)).all()
    assert (made["geopotential"].sel(level=500) == 5e4).all()
    assert (made["temperature"] == 250.0).all()
    xr.testing.assert_equal(made, store_dataset(path))


def test_interrupted_it_goes_on(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"

    def interrupt(done: int, total: int) -> None:
        if done == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_store(store, out, progress=interrupt)
    assert not out.exists()
    with pytest.raises(UserError, match=r"out\.zarr\.partial is of other states: remove it"):
        export_store(store, out, period=parse_period("2001-01-03/2001-01-04"))
    seen: list[int] = []
    export_store(store, out, progress=lambda done, total: seen.append(done))
    assert seen[0] == 33, "of the 40 that were copied, 32 were noted"
    xr.testing.assert_equal(opened(out), store_dataset(store))


def test_what_cannot_be_is_refused(store: Path, tmp_path: Path) -> None:
    (tmp_path / "there.zarr").mkdir()
    with pytest.raises(UserError, match=r"there\.zarr exists: remove it, or choose another"):
        export_store(store, tmp_path / "there.zarr")
    with pytest.raises(UserError, match=r"has no state from 1999.* it spans 2001"):
        export_store(store, tmp_path / "out.zarr", period=parse_period("1999-01-01/1999-12-31"))
    with pytest.raises(UserError, match="there is no store at"):
        export_store(tmp_path / "nothing.zarr", tmp_path / "out.zarr")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        export_store(store, tmp_path / "file" / "out.zarr")
