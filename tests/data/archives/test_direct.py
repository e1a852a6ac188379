"""An archive read as it is gives what a store prepared from it gives."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.store_statistics import area_weights
from support.selection import exhaustive
from support.weatherbench import LAYOUTS, as_dataset, write_archive
from weathermixer.config import Data, parse_period
from weathermixer.data.archives import direct
from weathermixer.data.archives.direct import DirectStates
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.making.preparation import prepare
from weathermixer.data.making.synthetic import write_synthetic
from weathermixer.data.opening import open_states
from weathermixer.data.states import Workers
from weathermixer.data.statistics import Statistics
from weathermixer.data.store.store import Store
from weathermixer.errors import UserError

TIMES = 20
LEVELS = (500, 850)
VARIABLES = ["temperature", "geopotential", "2m_temperature"]
DATA = {
    "variables": VARIABLES,
    "levels": [850, 500],
    "static": ["land_sea_mask", "geopotential_at_surface"],
}
WANTED = (
    "temperature_850", "temperature_500", "geopotential_850", "geopotential_500", "2m_temperature",
)  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    """Waves on nine rows, of which the last is the south pole, and 16 longitudes."""
    store = write_synthetic(
        tmp_path_factory.mktemp("synthetic") / "store.zarr",
        times=TIMES,
        grid=(9, 16),
        levels=LEVELS,
        static=("land_sea_mask", "geopotential_at_surface"),
    )
    return as_dataset(store)


def opened(source: str | Path, **changes: Any) -> DirectStates:
    states = open_states(source, Data(store=source, **{**DATA, **changes}))
    assert isinstance(states, DirectStates)
    return states


def at_coordinates(dataset: xr.Dataset, states: DirectStates, time: int) -> np.ndarray:
    """The wanted channels as xarray finds them by the coordinates of ``states``."""
    there = dataset.sel(
        time=states.times[time], latitude=states.latitude, longitude=states.longitude
    )
    upper = [there[name].sel(level=level) for name in VARIABLES[:2] for level in (850, 500)]
    return np.stack([*upper, there["2m_temperature"]])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_states_of_any_layout_are_those_at_the_same_coordinates(
    dataset: xr.Dataset, tmp_path: Path, layout: str
) -> None:
    states = opened(write_archive(dataset, tmp_path / "a.zarr", LAYOUTS[layout], time=3))
    assert states.grid == (8, 16)
    assert states.longitude[0] == 0.0
    assert -90.0 not in states.latitude
    assert states.step == np.timedelta64(6, "h")
    np.testing.assert_array_equal(states.times, dataset.time.values)
    wanted = states.channel_indices(WANTED)
    for time in range(TIMES):
        expected = at_coordinates(dataset, states, time)
        np.testing.assert_array_equal(states.read(time, wanted), expected)
    names = ["geopotential_at_surface", "land_sea_mask"]
    there = dataset[names].sel(latitude=states.latitude, longitude=states.longitude)
    expected = np.stack([there[name] for name in names])
    np.testing.assert_array_equal(states.read_static(names), expected)
    assert states.read_static([]).shape == (0, 8, 16)


Pair = tuple[DirectStates, Store]


@pytest.fixture(scope="module", params=["southward", "from 180 W", "northward"])
def pair(
    request: pytest.FixtureRequest, dataset: xr.Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Pair:
    """An archive, and the store that is prepared from it."""
    folder = tmp_path_factory.mktemp("pair")
    layout = LAYOUTS[request.param]
    source = write_archive(dataset, folder / "a.zarr", layout, time=4, level=1, longitude=5)
    return opened(source), prepare(folder / "s.zarr", [source], climatology=False)


@given(
    index=st.integers(0, TIMES - 1),
    channels=st.lists(st.sampled_from(WANTED), min_size=1, max_size=5, unique=True),
    longitudes=st.integers(0, 15).flatmap(
        lambda start: st.integers(start + 1, 16).map(lambda stop: slice(start, stop))
    ),
)
@settings(max_examples=40)
def test_any_part_is_the_same_part_of_the_prepared_store(
    pair: Pair, index: int, channels: list[str], longitudes: slice
) -> None:
    states, store = pair
    found = states.read(index, states.channel_indices(channels), longitudes)
    expected = store.read(index, store.channel_indices(channels), longitudes)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_grids_and_times_are_those_of_the_prepared_store(pair: Pair) -> None:
    states, store = pair
    np.testing.assert_array_equal(states.latitude, store.latitude)
    np.testing.assert_array_equal(states.longitude, store.longitude)
    np.testing.assert_array_equal(states.times, store.times)
    np.testing.assert_array_equal(
        states.read_static(store.static_channels), store.read_static(store.static_channels)
    )
    for time in store.times[[0, 7]]:
        assert states.index_of(time) == store.index_of(time)


def test_threads_read_the_same_states(pair: Pair) -> None:
    states, _ = pair
    alone = [states.read(index) for index in range(TIMES)]
    order = [index for _ in range(4) for index in range(TIMES)]
    with ThreadPoolExecutor(8) as pool:
        for index, state in zip(order, pool.map(states.read, order), strict=True):
            np.testing.assert_array_equal(state, alone[index])


# --- only what is wanted is read


def test_chunks_of_other_channels_and_longitudes_are_not_touched(
    dataset: xr.Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "a.zarr"
    source = write_archive(dataset, path, LAYOUTS["from 180 W"], time=1, level=1, longitude=4)
    states = opened(source)
    whole = states.read(3)
    # Of longitudes from -180 in chunks of four, the last two are those from 0 to 180.
    for chunk in (path / "temperature").glob("3.*"):
        _, level, _, column = map(int, chunk.name.split("."))
        if (level, column) != (1, 2):
            chunk.unlink()
    channels = states.channel_indices(["temperature_850"])
    np.testing.assert_array_equal(states.read(3, channels, slice(0, 4)), whole[channels][..., :4])
    for damaged in ((channels, slice(0, 5)), (slice(None), slice(0, 4))):
        with pytest.raises(
            UserError, match=r"temperature_\d+ at 2000-01-01T18:00:00 was never written"
        ):
            states.read(3, *damaged)


@pytest.mark.parametrize(
    ("chunks", "channels", "longitudes", "touched"),
    [
        ({"time": 1}, ["temperature_500"], slice(None), 2.0),
        ({"time": 1, "level": 1}, ["temperature_500"], slice(None), 1.0),
        ({"time": 5, "level": 1}, ["temperature_500"], slice(None), 5.0),
        ({"time": 5}, ["2m_temperature"], slice(0, 8), 10.0),
        ({"time": 1, "longitude": 4}, ["2m_temperature"], slice(0, 8), 1.0),
        ({"time": 1, "longitude": 4}, ["2m_temperature"], slice(2, 6), 2.0),
        ({"time": 1}, ["temperature_500", "temperature_850", "2m_temperature"], slice(0, 4), 4.0),
    ],
)
@pytest.mark.parametrize(
    "layout", ["longitude before latitude", *exhaustive("southward", "short names")]
)
def test_reading_costs_the_whole_of_every_chunk(
    dataset: xr.Dataset,
    tmp_path: Path,
    chunks: dict[str, int],
    channels: list[str],
    longitudes: slice,
    touched: float,
    layout: str,
) -> None:
    even = dataset.isel(time=slice(0, 5), latitude=slice(1, 8))  # neither pole
    states = opened(write_archive(even, tmp_path / "a.zarr", LAYOUTS[layout], **chunks))
    cost = states.reading_cost(states.channel_indices(channels), longitudes)
    width = len(range(16)[longitudes])
    assert cost.wanted_bytes == 4 * len(channels) * states.grid[0] * width
    assert cost.amplification == touched


# --- statistics


def test_statistics_of_all_pairs_are_those_of_the_prepared_store(pair: Pair) -> None:
    states, store = pair
    seen: list[tuple[int, int]] = []
    for period in (store.training_period, (store.times[3], store.times[11])):
        found = states.statistics_over(period, lambda *done: seen.append(done))
        expected = store.statistics_over(period)
        order = store.channel_indices(states.channels)
        for name in ("mean", "std", "step_std"):
            np.testing.assert_allclose(
                getattr(found, name), getattr(expected, name)[order], rtol=1e-12
            )
    assert seen[0] == (0, 15)
    assert seen[-1] == (8, 8)


def test_statistics_of_some_pairs_are_those_of_their_states(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, _ = pair
    monkeypatch.setattr(direct, "PAIRS", 3)
    found = states.statistics_over((states.times[0], states.times[-1]))
    first = np.array([0, 9, 18])  # of nineteen pairs
    every = np.stack([states.read(index) for index in range(TIMES)]).astype(np.float64)
    weights = area_weights(states.latitude)[:, None] / 16.0

    def mean(fields: np.ndarray) -> np.ndarray:
        return (fields * weights).sum(axis=(-1, -2)).mean(axis=0)

    used = every[np.concatenate([first, first + 1])]
    np.testing.assert_allclose(found.mean, mean(used), rtol=1e-12)
    spread = np.sqrt(mean(np.square(used - mean(used)[:, None, None])))
    np.testing.assert_allclose(found.std, spread, rtol=1e-9)
    change = every[first + 1] - every[first]
    spread = np.sqrt(mean(np.square(change - mean(change)[:, None, None])))
    np.testing.assert_allclose(found.step_std, spread, rtol=1e-9)


def together(count: int, work: Callable[[Workers], object]) -> list[object]:
    """What ``work(workers)`` returns or raises in each of several threads that gather objects."""
    barrier, gathered = threading.Barrier(count), dict[int, object]()

    def run(index: int) -> object:
        def gather(value: object) -> list[object]:
            gathered[index] = value
            barrier.wait(10)
            return [gathered[each] for each in range(count)]

        try:
            return work(Workers(index, count, gather))
        except UserError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


@pytest.mark.parametrize("count", [2, 20, *exhaustive(3)])  # 20 are more than there are pairs
def test_statistics_are_the_same_whatever_number_of_workers_read_for_them(
    pair: Pair, count: int
) -> None:
    states, store = pair
    alone = states.statistics_over(store.training_period)
    for found in together(
        count, lambda w: states.statistics_over(store.training_period, workers=w)
    ):
        assert isinstance(found, Statistics)
        for name in ("mean", "std", "step_std"):
            assert np.array_equal(getattr(found, name), getattr(alone, name))


def test_what_one_worker_cannot_read_all_of_them_hear_of(
    dataset: xr.Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "a.zarr"
    write_archive(dataset, path, time=1)
    states = opened(str(path))
    (path / "2m_temperature" / "3.0.0").write_bytes(b"torn")
    period = (states.times[0], states.times[-1])
    errors = together(2, lambda workers: states.statistics_over(period, workers=workers))
    assert len(set(map(str, errors))) == 1 and str(states.times[3]) in str(errors[0])


def test_a_step_may_span_several_times_of_the_archive(dataset: xr.Dataset, tmp_path: Path) -> None:
    source = write_archive(dataset, tmp_path / "a.zarr")
    store = prepare(tmp_path / "s.zarr", [source], climatology=False, step_hours=12.0)
    found = opened(source, step_hours=12.0).statistics_over(store.training_period)
    order = store.channel_indices(opened(source).channels)
    np.testing.assert_allclose(found.step_std, store.statistics.step_std[order], rtol=1e-12)


def test_a_normalisation_is_that_of_the_prepared_store(pair: Pair) -> None:
    period = pair[1].training_period
    ours, theirs = (
        Normalisation.from_store(states, WANTED, ("land_sea_mask",), period) for states in pair
    )
    ours.check_grid(pair[1])
    np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-12)
    np.testing.assert_allclose(ours.increment_scale, theirs.increment_scale, rtol=1e-12)
    np.testing.assert_array_equal(ours.static, theirs.static)


def test_a_fingerprint_needs_no_states(dataset: xr.Dataset, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    found = opened(write_archive(dataset, path)).fingerprint()
    assert (
        found != opened(write_archive(dataset.isel(time=slice(1, 9)), tmp_path / "b")).fingerprint()
    )
    for chunk in (path / "temperature").glob("*.*"):
        chunk.unlink()
    assert opened(path).fingerprint() == found


# --- what a user may get wrong


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(UserError) as error:
        act()
    return str(error.value)


def test_what_an_archive_lacks_is_named_with_what_it_offers(
    dataset: xr.Dataset, tmp_path: Path
) -> None:
    source = write_archive(dataset.drop_vars("land_sea_mask"), tmp_path / "a.zarr")
    states = opened(source, levels=[500, 300], static=["land_sea_mask"])
    said = refusal(lambda: states.channel_indices(["temperature_300", "temperature_500"]))
    assert "a.zarr lacks temperature_300: it offers" in said
    assert "v_component_of_wind at 500, 850 hPa" in said
    assert "lacks the static fields land_sea_mask" in refusal(
        lambda: states.read_static(["land_sea_mask"])
    )
    assert "no state at 2050-01-01T00:00:00" in refusal(
        lambda: states.index_of(np.datetime64("2050-01-01"))
    )
    period = parse_period("1990-01-01/1990-02-01")
    assert "data.train" in refusal(lambda: states.statistics_over(period))


def test_units_are_converted_or_refused_of_what_is_used(
    dataset: xr.Dataset, tmp_path: Path
) -> None:
    celsius = dataset.copy()
    celsius["2m_temperature"] = celsius["2m_temperature"] - 273.15
    celsius["2m_temperature"].attrs["units"] = "degC"
    states = opened(write_archive(celsius, tmp_path / "a.zarr"))
    kelvin = opened(write_archive(dataset, tmp_path / "kelvin.zarr"))
    np.testing.assert_allclose(states.read(2), kelvin.read(2), rtol=1e-6)
    celsius["2m_temperature"].attrs["units"] = "furlong"
    states = opened(write_archive(celsius, tmp_path / "c.zarr"))
    said = refusal(lambda: states.channel_indices(["2m_temperature"]))
    assert "2m_temperature (is in 'furlong', not in K: convert it first)" in said
    assert opened(states.path, variables=["temperature"]).read(0).shape == (2, 8, 16)
    del celsius["2m_temperature"].attrs["units"]
    states = opened(write_archive(celsius, tmp_path / "b.zarr"))
    said = refusal(lambda: states.read(2))
    assert re.search(r"b\.zarr: 2m_temperature at 2000-01-01T12:00:00: .* are they in K\?", said)


def test_a_torn_chunk_is_named_with_its_time(dataset: xr.Dataset, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    states = opened(write_archive(dataset, path, time=1))
    chunk = path / "2m_temperature" / "5.0.0"
    chunk.write_bytes(chunk.read_bytes()[:40])
    said = refusal(lambda: states.read(5))
    assert re.search(r"a\.zarr cannot be read: 2m_temperature at 2000-01-02T06:00:00", said)
    assert "\n" not in said
    assert states.read(4).shape == (5, 8, 16)


def test_only_zarr_is_read_as_it_is(dataset: xr.Dataset, tmp_path: Path) -> None:
    file = tmp_path / "a.nc"
    dataset.to_netcdf(file)
    for variables in (["temperature"], ["specific_humidity"]):  # there, and not
        said = refusal(partial(opened, file, variables=variables))
        assert "a.nc is not Zarr" in said
        assert "weathermixer data prepare" in said
