"""States in the order of another grid: rows the other way, longitudes from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weathermixer.config import Period
from weathermixer.console import Progress
from weathermixer.data.archives.fields import slice_if_consecutive
from weathermixer.data.grid import Grid, Placement, find_placement
from weathermixer.data.states import ALONE, Indices, States, Workers
from weathermixer.data.statistics import Statistics
from weathermixer.data.store.reading_cost import ReadingCost
from weathermixer.errors import UserError


class ArrangedStates:
    """States of a store or an archive, put into the order of a wanted grid.

    ``longitudes`` of a read are those of the wanted grid; only theirs are read.
    """

    def __init__(self, states: States, grid: Grid, placement: Placement) -> None:
        self._states, self._placement = states, placement
        self._rows = slice_if_consecutive(placement.rows)
        self.path, self.remarks = states.path, states.remarks
        self.channels, self.static_channels = states.channels, states.static_channels
        self.times, self.step = states.times, states.step
        self.latitude, self.longitude = grid.latitude, grid.longitude
        self.grid = grid.shape

    @classmethod
    def on(cls, grid: Grid, states: States) -> States:
        """Put states on a wanted grid; the states themselves, where they are on it already.

        Raises UserError where they are on another grid in more than its order.
        """
        own = Grid(states.latitude, states.longitude)
        placement = find_placement(grid, own)
        if placement is None:
            raise UserError(
                f"{states.path} is on another grid ({own}) than the network was trained on "
                f"({grid}): interpolate it first, or train on its grid"
            )
        if all(
            np.array_equal(places, np.arange(size))
            for places, size in zip((placement.rows, placement.columns), own.shape, strict=True)
        ):
            return states
        return cls(states, grid, placement)

    def fingerprint(self) -> str:
        """A short text that is equal for two of these where they hold the same states."""
        return self._states.fingerprint()

    def channel_indices(self, wanted: Sequence[str]) -> Indices:
        """Indices of the wanted channels in a state; UserError naming those that are lacking."""
        return self._states.channel_indices(wanted)

    def index_of(self, time: np.datetime64) -> int:
        """The index of exactly this time; UserError, naming the nearest one, where it is absent."""
        return self._states.index_of(time)

    def read(
        self, index: int, channels: Indices = slice(None), longitudes: slice = slice(None)
    ) -> NDArray[np.float32]:
        """The state at a time index, ``(channel, latitude, longitude)``, or a part of it."""
        columns = self._placement.columns[longitudes]
        parts = [
            self._states.read(index, channels, slice(int(run[0]), int(run[-1]) + 1))
            for run in _runs(np.sort(columns))
        ]
        values = np.concatenate(parts, axis=-1)[..., self._rows, :]
        return values[..., np.argsort(np.argsort(columns))]

    def read_static(self, wanted: Sequence[str]) -> NDArray[np.float32]:
        """Static fields ``(static_channel, latitude, longitude)`` under the wanted names."""
        return self._placement(self._states.read_static(wanted))

    def reading_cost(self, channels: Indices, longitudes: slice) -> ReadingCost:
        """The cost of reading these channels and longitudes of one state."""
        runs = _runs(np.sort(self._placement.columns[longitudes]))
        costs = (
            self._states.reading_cost(channels, slice(int(run[0]), int(run[-1]) + 1))
            for run in runs
        )
        return sum(costs, ReadingCost(0, 0))

    def statistics_over(
        self, period: Period, progress: Progress | None = None, workers: Workers = ALONE
    ) -> Statistics:
        """Statistics of a period (inclusive) of every one of ``channels``."""
        return self._states.statistics_over(period, progress, workers)


def _runs(indices: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Increasing indices in pieces that follow each other without gaps."""
    return np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
