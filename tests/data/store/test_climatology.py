"""The average year agrees with its definition, and is found again at any time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracles.store_statistics import climatology as oracle
from weathermixer.data.store import climatology as module
from weathermixer.data.store.climatology import days_kept, default_hours, write_climatology
from weathermixer.data.store.store import Store
from weathermixer.data.store.store_description import StoreDescription
from weathermixer.data.store.store_writer import StoreWriter
from weathermixer.errors import UserError

CHANNELS = ("2m_temperature", "temperature_850", "temperature_500")
SHAPE = (3, 4, 8)


def make(
    path: Path, times: np.ndarray, *, hours: Sequence[int] | None = None, processes: int = 1
) -> tuple[Store, np.ndarray]:
    """A store with a yearly and a daily cycle, with the climatology of all but its end."""
    random = np.random.default_rng(0)
    day = (times - times.astype("datetime64[Y]")) / np.timedelta64(1, "D")
    hour = (times - times.astype("datetime64[D]")) / np.timedelta64(1, "h")
    cycle = 20 * np.sin(2 * np.pi * day / 365) + 5 * np.cos(2 * np.pi * hour / 24)
    states = 280 + cycle[:, None, None, None] + random.standard_normal((len(times), *SHAPE))
    states = states.astype(np.float32)
    latitude, longitude = np.linspace(60, -60, SHAPE[1]), np.arange(float(SHAPE[2])) * 45.0
    writer = StoreWriter.create(path, StoreDescription(CHANNELS, times, latitude, longitude, 60.0))
    for block in writer.missing_blocks():
        for _ in writer.write_block(block, lambda index: states[index]):
            pass
    period = training(times)
    write_climatology(path, period, hours=hours, processes=processes)
    writer.finish(period)
    return Store.open(path), states[times <= period[1]]


def training(times: np.ndarray) -> Any:
    return times[0], times[-len(times) // 10]


def moments(times: np.ndarray) -> list[datetime]:
    return [datetime.fromtimestamp(int(t), UTC) for t in times.astype(np.int64)]


def sparse(days: int, start: str = "2019-03-01") -> np.ndarray:
    """Every 60 hours, so by turns at 0 and at 12 h."""
    return np.datetime64(start, "s") + np.arange(days * 2 // 5) * np.timedelta64(60, "h")


@pytest.fixture(scope="module")
def long_year(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, np.ndarray]:
    """Over the turn of a leap year."""
    times = sparse(450, "2019-12-01")
    return make(tmp_path_factory.mktemp("store") / "store.zarr", times)


@pytest.mark.parametrize("day", [1, 6, 31, 181, 336, 361])
@pytest.mark.parametrize("hour", [0, 12])
def test_is_the_windowed_mean_of_its_definition(
    long_year: tuple[Store, np.ndarray], day: int, hour: int
) -> None:
    store, states = long_year
    times = moments(store.times[: len(states)])
    wanted = oracle(states.astype(np.float64), times, day, range(hour, hour + 12))
    time = np.datetime64("2023-01-01", "s") + np.timedelta64((day - 1) * 24 + hour, "h")
    np.testing.assert_allclose(store.climatology_at(time), wanted, rtol=1e-6)


def test_channels_may_be_chosen(long_year: tuple[Store, np.ndarray]) -> None:
    store, _ = long_year
    time = np.datetime64("2023-05-05T13", "s")
    whole = store.climatology_at(time)
    np.testing.assert_array_equal(store.climatology_at(time, [2, 0]), whole[[2, 0]])
    np.testing.assert_array_equal(store.climatology_at(time, slice(1, 2)), whole[1:2])


@pytest.mark.parametrize(
    ("time", "day", "hour"),
    [
        ("2021-01-01T00", 1, 0),
        ("2021-01-03T00", 1, 0),
        ("2021-01-04T12", 6, 12),
        ("2021-01-04T11:59", 6, 0),
        ("2021-12-30T23", 1, 12),  # nearest round the turn of the year
        ("2021-12-29T00", 361, 0),
        ("2020-12-31T00", 1, 0),  # the 366th day
    ],
)
def test_nearest_day_and_last_hour_apply(
    long_year: tuple[Store, np.ndarray], time: str, day: int, hour: int
) -> None:
    store, _ = long_year
    listed = list(store.array("dayofyear")).index(day), list(store.array("hour")).index(hour)
    kept: Any = store.group["climatology"]
    found = store.climatology_at(np.datetime64(time, "s"))
    np.testing.assert_array_equal(found, kept[listed[1], listed[0]])


def test_plain_xarray_finds_its_coordinates(long_year: tuple[Store, np.ndarray]) -> None:
    import xarray as xr

    opened = xr.open_zarr(long_year[0].path, consolidated=False).climatology
    assert opened.dims == ("hour", "dayofyear", "channel", "latitude", "longitude")
    assert opened.dayofyear.values[:3].tolist() == [1, 6, 11]
    assert opened.hour.values.tolist() == [0, 12]


def test_short_training_period_has_the_plain_mean_on_every_day(tmp_path: Path) -> None:
    store, states = make(tmp_path / "store.zarr", sparse(60), hours=(0,))
    assert store.array("dayofyear").tolist() == [1]
    for time in ("2020-02-02", "2021-08-08T13"):
        np.testing.assert_allclose(
            store.climatology_at(np.datetime64(time, "s")),
            states.mean(axis=0, dtype=np.float64),
            rtol=1e-6,
        )


def test_processes_and_tiles_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = sparse(60)
    one, _ = make(tmp_path / "one.zarr", times, hours=(0, 12))
    two, _ = make(tmp_path / "two.zarr", times, hours=(0, 12), processes=2)
    monkeypatch.setattr(module, "_SUMS_BYTES", 1)  # tiles of single chunks
    three, _ = make(tmp_path / "three.zarr", times, hours=(0, 12))
    for other in (two, three):
        np.testing.assert_array_equal(one.array("climatology"), other.array("climatology"))


def test_interrupted_call_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = sparse(60)
    whole, _ = make(tmp_path / "whole.zarr", times)
    write_tile, calls = module._write_tile, 0

    def interrupt(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise KeyboardInterrupt
        write_tile(*args)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module, "_write_tile", interrupt)
        make(tmp_path / "store.zarr", times)
    ticks: list[int] = []
    path, period = tmp_path / "store.zarr", training(times)
    write_climatology(path, period, progress=lambda done, total: ticks.append(total))
    assert ticks[0] < len(times[times <= period[1]]), "finished tiles are not computed again"
    StoreWriter(path).finish(period)
    np.testing.assert_array_equal(Store.open(path).array("climatology"), whole.array("climatology"))


def test_changed_period_is_not_continued_but_begun_anew(tmp_path: Path) -> None:
    times = sparse(60)
    path = tmp_path / "store.zarr"
    writer_period = training(times)
    store, states = make(tmp_path / "reference.zarr", times, hours=(0,))
    writer = StoreWriter.create(
        path, StoreDescription(CHANNELS, times, store.latitude, store.longitude, 60.0)
    )
    for block in writer.missing_blocks():
        for _ in writer.write_block(block, store.read):
            pass
    write_climatology(path, (times[0], times[9]))
    write_climatology(path, writer_period, hours=(0,))
    writer.finish(writer_period)
    np.testing.assert_array_equal(Store.open(path).array("climatology"), store.array("climatology"))
    assert len(states)


def test_store_without_climatology_says_so(tmp_path: Path) -> None:
    times = sparse(10)
    writer = StoreWriter.create(
        tmp_path / "store.zarr",
        StoreDescription(
            ("2m_temperature",), times, np.array([45.0, -45.0]), np.arange(2.0) * 180.0, 60.0
        ),
    )
    field = np.full((1, 2, 2), 280.0, dtype=np.float32)
    for block in writer.missing_blocks():
        for _ in writer.write_block(block, lambda _: field):
            pass
    writer.finish((times[0], times[-1]))
    store = Store.open(tmp_path / "store.zarr")
    assert not store.has_climatology
    with pytest.raises(UserError, match="has no climatology: prepare it again"):
        store.climatology_at(times[0])


@pytest.mark.parametrize(
    ("spacing_hours", "hours"),
    [(24, (0,)), (12, (0, 12)), (6, (0, 6, 12, 18)), (3, (0,)), (7, (0,)), (0.5, (0,))],
)
def test_hours_are_kept_where_they_are_few(spacing_hours: float, hours: tuple[int, ...]) -> None:
    step = np.timedelta64(round(spacing_hours * 3600), "s")
    times = np.datetime64("2020-01-01", "s") + np.arange(200) * step
    assert default_hours(times) == hours


def test_hours_that_are_rare_are_not_kept_apart() -> None:
    midnights = np.datetime64("2020-01-01", "s") + np.arange(200) * np.timedelta64(1, "D")
    times = np.sort(np.append(midnights, midnights[:3] + np.timedelta64(12, "h")))
    assert default_hours(times) == (0,)


def test_days_are_kept_only_where_no_season_is_missing() -> None:
    assert len(days_kept(sparse(365), (0,))) == 73
    assert len(days_kept(sparse(330), (0, 12))) == 73
    assert days_kept(sparse(300), (0,)) == (1,)
    summers = np.concatenate([sparse(90, f"{year}-06-01") for year in range(2000, 2010)])
    assert days_kept(summers, (0,)) == (1,)


@given(st.integers(1, 365), st.integers(0, 72))
def test_two_neighbouring_days_and_the_window_weigh_as_the_definition(
    day_of_year: int, kept: int
) -> None:
    time = np.array([np.datetime64("2021-01-01", "s") + np.timedelta64(day_of_year - 1, "D")])
    window = module._window(73)
    weight = window[kept, module._bins(time)[0]] @ module._shares(time)[0]
    apart = abs(day_of_year - (1 + 5 * kept))
    assert weight == pytest.approx(max(0.0, 1 - min(apart, 365 - apart) / 30), abs=1e-12)
