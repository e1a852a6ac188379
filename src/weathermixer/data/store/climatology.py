"""The average year of the training period, against which forecasts are scored.

For each hour of the day and day of the year, the mean of the states around it, weighted by a window
of 61 days that falls linearly to both sides, as WeatherBench 2 computes its own (its function
``create_window_weights``; Rasp et al. 2024, https://doi.org/10.1029/2023MS004019). So wide a window
needs no more than every fifth day, on a circle of 365: the 366th day counts as the 365th.

Every fifth day is also what makes it cheap. The window's corners lie on the days kept, so between
two of those its weight is linear in time, and each state needs to be added to the two days around
it alone, in proportion; the window is then applied to these sums, exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from weathermixer.config import Period
from weathermixer.console import Progress
from weathermixer.data.annual_cycle import DAYS_IN_YEAR, day_of_year, hour_of_day
from weathermixer.data.partial_files import write_error
from weathermixer.data.store.arrays import write_array
from weathermixer.data.store.store_writer import StoreWriter
from weathermixer.jigsaw.layout import shard
from weathermixer.worker_processes import Tick, for_each

HALF_WINDOW_DAYS = 30
DAY_SPACING = 5

_MOST_HOURS = 4
_LEAST_SHARE = 0.1
_SUMS_BYTES = 512 * 1024**2


@dataclass(frozen=True)
class Tile:
    """The part of a climatology that one task computes: whole chunks of the states' array.

    ``hour`` is an index of the climatology's hours; ``channels`` and ``longitudes`` are slices.
    """

    hour: int
    channels: slice
    longitudes: slice


def write_climatology(
    path: Path,
    period: Period,
    *,
    hours: Sequence[int] | None = None,
    processes: int = 1,
    progress: Progress | None = None,
) -> None:
    """Add the climatology of a period (inclusive) to the store being written at ``path``.

    ``hours`` are the parts of the day kept, each until the next: by default those that occur, where
    they are few and equally frequent, else the whole day as one. Where the period leaves out a
    season, one mean stands for all days. What an interrupted call has written is not redone.
    ``progress(done, total)`` counts states. Raises UserError where it cannot be written.
    """
    writer = StoreWriter(path)
    assert not writer.missing_blocks(), "a climatology is made of a complete set of states"
    store = writer.partial_store()
    times = store.times[(store.times >= period[0]) & (store.times <= period[1])]
    hours = default_hours(times) if hours is None else tuple(hours)
    days = days_kept(times, hours)
    try:
        array = _create(store.group, period, hours, days)
    except OSError as error:
        raise write_error(writer.partial, error) from error
    tiles = [tile for tile in _tiles(array, processes) if not _is_written(array, tile)]
    for_each(
        partial(_write_tile, path, period),
        tiles,
        processes=processes,
        ticks=sum(_count(times, hours, tile.hour) for tile in tiles),
        progress=progress,
    )


def default_hours(times: NDArray[np.datetime64]) -> tuple[int, ...]:
    """The hours of the day to keep: those that occur, where these are few and alike; else 0."""
    hours, counts = np.unique(hour_of_day(times), return_counts=True)
    whole = np.all(hours == np.floor(hours))
    if len(hours) <= _MOST_HOURS and whole and counts.min() >= counts.max() / 2:
        return tuple(int(hour) for hour in hours)
    return (0,)


def days_kept(times: NDArray[np.datetime64], hours: Sequence[int]) -> tuple[int, ...]:
    """Days of the year to keep: every fifth, or the first alone where a window is nearly empty."""
    days = tuple(range(1, DAYS_IN_YEAR + 1, DAY_SPACING))
    for hour in range(len(hours)):
        part = times[_hour_parts(times, hours) == hour]
        sums = np.bincount(_bins(part).ravel(), _shares(part).ravel(), minlength=len(days))
        weight = _window(len(days)) @ sums
        if weight.min() < _LEAST_SHARE * weight.mean() or not weight.mean():
            return (1,)
    return days


def _write_tile(path: Path, period: Period, tile: Tile, tick: Tick) -> None:
    writer = StoreWriter(path)
    store = writer.partial_store()
    states: Any = store.group["state"]
    array: Any = store.group["climatology"]
    hours: Any = store.group["hour"]
    num_days, num_rows = array.shape[1], array.shape[3]
    inside = (store.times >= period[0]) & (store.times <= period[1])
    inside &= _hour_parts(store.times, hours[:]) == tile.hour
    indices = np.flatnonzero(inside)
    times = store.times[indices]
    bins, shares = _bins(times), _shares(times)
    if num_days == 1:
        bins, shares = np.zeros((len(times), 1), dtype=np.int64), np.ones((len(times), 1))

    shape = (_length(tile.channels), num_rows, _length(tile.longitudes))
    sums, weights = np.zeros((num_days, *shape)), np.zeros(num_days)
    for position, index in enumerate(indices):
        state = states[int(index), tile.channels, :, tile.longitudes]
        for day, share in zip(bins[position], shares[position], strict=True):
            if share:
                sums[day] += share * state
                weights[day] += share
        tick()

    window = _window(num_days)
    window /= (window @ weights)[:, None]
    try:
        for channel in range(shape[0]):
            sums[:, channel] = np.tensordot(window, sums[:, channel], axes=1)
        # The last day is written last, and so records that the tile is done.
        for day, field in enumerate(sums):
            array[tile.hour, day, tile.channels, :, tile.longitudes] = field.astype(np.float32)
    except OSError as error:
        raise write_error(writer.partial, error) from error


def _window(num_days: int) -> NDArray[np.float64]:
    """Weight ``(day, day)`` of the sums at one kept day in the mean at another."""
    apart = np.abs(np.subtract.outer(np.arange(num_days), np.arange(num_days)))
    apart = DAY_SPACING * np.minimum(apart, num_days - apart)
    return np.maximum(0.0, 1.0 - apart / HALF_WINDOW_DAYS)


def _bins(times: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """The kept days before and after each time, ``(time, 2)``."""
    before = _days_of_year(times) // DAY_SPACING
    return np.stack([before, (before + 1) % (DAYS_IN_YEAR // DAY_SPACING)], axis=1)


def _shares(times: NDArray[np.datetime64]) -> NDArray[np.float64]:
    """Weights of each time in the kept days before and after it, ``(time, 2)``."""
    after = (_days_of_year(times) % DAY_SPACING) / DAY_SPACING
    return np.stack([1.0 - after, after], axis=1)


def _days_of_year(times: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """Days since the first of January, from 0 to 364."""
    return np.minimum(day_of_year(times), DAYS_IN_YEAR) - 1


def _hour_parts(times: NDArray[np.datetime64], hours: Any) -> NDArray[np.int64]:
    """The index of the last of ``hours`` at or before each time, round the clock."""
    since = np.subtract.outer(hour_of_day(times), np.asarray(hours)) % 24
    return np.argmin(since, axis=1)


def _count(times: NDArray[np.datetime64], hours: Sequence[int], hour: int) -> int:
    return int((_hour_parts(times, hours) == hour).sum())


def _create(group: zarr.Group, period: Period, hours: Sequence[int], days: Sequence[int]) -> Any:
    """The empty array with its coordinates, or the one that an equal call left unfinished."""
    made_of: Any = {"period": [str(edge) for edge in period], "hours": [*hours], "days": [*days]}
    if "climatology" in group and group["climatology"].attrs.get("made_of") == made_of:
        return group["climatology"]
    write_array(group, "hour", np.array(hours, dtype=np.int32), ("hour",))
    write_array(group, "dayofyear", np.array(days, dtype=np.int32), ("dayofyear",))
    state: Any = group["state"]
    return group.create_array(
        "climatology",
        shape=(len(hours), len(days), *state.shape[1:]),
        dtype="float32",
        chunks=(1, 1, *state.chunks[1:]),
        compressors=state.compressors,
        fill_value=np.nan,
        dimension_names=("hour", "dayofyear", "channel", "latitude", "longitude"),
        attributes={"made_of": made_of},
        overwrite=True,
    )


def _tiles(array: Any, processes: int) -> list[Tile]:
    """Whole chunks, together, until sums fit in memory and every process has a tile."""
    num_hours, num_days, num_channels, rows, columns = array.shape
    chunk_channels, chunk_columns = array.chunks[2], array.chunks[4]
    most_channels, most_columns = -(-num_channels // chunk_channels), -(-columns // chunk_columns)
    size = 8 * num_days * num_channels * rows * columns
    cuts = [
        (over_channels, over_columns)
        for over_columns in range(1, most_columns + 1)
        for over_channels in range(1, most_channels + 1)
    ]
    fitting = [
        (a, b) for a, b in cuts if size <= a * b * _SUMS_BYTES and num_hours * a * b >= processes
    ]
    over_channels, over_columns = min(
        fitting, key=lambda cut: cut[0] * cut[1], default=(most_channels, most_columns)
    )
    return [
        Tile(hour, channels, longitudes)
        for hour in range(num_hours)
        for channels in _cut(num_channels, chunk_channels, over_channels)
        for longitudes in _cut(columns, chunk_columns, over_columns)
    ]


def _cut(size: int, chunk: int, parts: int) -> Iterator[slice]:
    for part in range(parts):
        chunks = shard(-(-size // chunk), parts, part)
        yield slice(chunks.start * chunk, min(chunks.stop * chunk, size))


def _length(part: slice) -> int:
    return int(part.stop - part.start)


def _is_written(array: Any, tile: Tile) -> bool:
    last = array[tile.hour, -1, tile.channels, 0, tile.longitudes]
    return not np.isnan(last).any()
