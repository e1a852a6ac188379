"""States that come from a formula, for measurements where there is no store."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from weathermixer.config import Data, Period
from weathermixer.console import Progress
from weathermixer.data.channels import names, predicted_channels
from weathermixer.data.states import ALONE, Indices, Workers, digest, find_time
from weathermixer.data.statistics import Statistics
from weathermixer.data.store.reading_cost import ReadingCost
from weathermixer.data.time_steps import to_timedelta

_EPOCH = np.datetime64("2000-01-01T00", "s")
_NUM_TIMES = 4096
_NUM_SHAPES = 2  # of waves, which alternate: each is made once and then copied


class GeneratedStates:
    """Waves of order one in the channels that ``data`` asks for, on any grid.

    It is all that training asks of states (``data.states.States``). Reading a part that was read
    before takes no more than a copy, so that a measurement is not one of their making.
    """

    remarks: tuple[str, ...] = ()

    def __init__(self, data: Data, grid: tuple[int, int]) -> None:
        self.path: Path | str = "the generated states"
        self.channels = names(predicted_channels(data))
        self.static_channels = tuple(data.static)
        self.step = to_timedelta(data.step_hours)
        self.times = _EPOCH + np.arange(_NUM_TIMES) * self.step
        rows, columns = grid
        self.latitude = 90.0 - 180.0 * (np.arange(rows) + 0.5) / rows
        self.longitude = 360.0 * np.arange(columns) / columns
        self._waves = lru_cache(maxsize=2 * _NUM_SHAPES)(self._make_waves)

    @property
    def grid(self) -> tuple[int, int]:
        """Numbers of latitudes and longitudes."""
        return len(self.latitude), len(self.longitude)

    def fingerprint(self) -> str:
        """A text that is equal for equal channels, grids and times."""
        return digest(self)

    def channel_indices(self, wanted: Sequence[str]) -> Indices:
        """Indices of the wanted channels."""
        return [self.channels.index(name) for name in wanted]

    def index_of(self, time: np.datetime64) -> int:
        """The index of exactly this time."""
        return find_time(self, time)

    def read(
        self, index: int, channels: Indices = slice(None), longitudes: slice = slice(None)
    ) -> NDArray[np.float32]:
        """The state at a time index, ``(channel, latitude, longitude)``, or a part of it."""
        places = tuple(int(place) for place in np.arange(len(self.channels))[channels])
        start, stop, _ = longitudes.indices(len(self.longitude))
        return self._waves(index % _NUM_SHAPES, places, start, stop)

    def read_static(self, wanted: Sequence[str]) -> NDArray[np.float32]:
        """Static fields ``(static_channel, latitude, longitude)``."""
        places = tuple(self.static_channels.index(name) for name in wanted)
        return self._make_waves(0, places, 0, len(self.longitude))

    def reading_cost(self, channels: Indices, longitudes: slice) -> ReadingCost:
        """What is wanted, and no more."""
        num_bytes = self.read(0, channels, longitudes).nbytes
        return ReadingCost(num_bytes, num_bytes)

    def statistics_over(
        self, period: Period, progress: Progress | None = None, workers: Workers = ALONE
    ) -> Statistics:
        """Statistics that leave the values as they are, of order one."""
        ones = np.ones(len(self.channels))
        return Statistics(mean=0.0 * ones, std=ones, step_std=ones)

    def _make_waves(
        self, shape: int, places: tuple[int, ...], start: int, stop: int
    ) -> NDArray[np.float32]:
        number = 1 + np.array(places, dtype=np.float64)[:, None, None]
        longitude = np.deg2rad(self.longitude[start:stop])
        latitude = np.deg2rad(self.latitude)[:, None]
        # Products of the few sines of each channel: one pass over the state.
        along = np.sin((number % 7 + 1) * longitude + number + 0.3 * shape).astype(np.float32)
        waves: NDArray[np.float32] = along * np.cos(latitude).astype(np.float32)
        return waves
