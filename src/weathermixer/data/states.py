"""What training and forecasting ask of atmospheric states, wherever they are kept.

A prepared store (``store.py``) and an archive that is read as it is (``direct.py``) both answer;
``opening.py`` picks the one that is there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from weathermixer.config import Period
from weathermixer.console import Progress
from weathermixer.data.statistics import Statistics
from weathermixer.data.store.reading_cost import ReadingCost
from weathermixer.errors import UserError

Indices = slice | Sequence[int]
"""Which channels of a state are meant."""


@dataclass(frozen=True)
class Workers:
    """Processes that divide a task: this one is number ``index`` of ``count``.

    ``gather(value)`` gives each of them what all have, in their order; all call it together.
    """

    index: int = 0
    count: int = 1
    gather: Callable[[Any], list[Any]] = lambda value: [value]

    def part(self, length: int) -> slice:
        """The consecutive ones of ``length`` tasks that are this one's."""
        return slice(length * self.index // self.count, length * (self.index + 1) // self.count)


ALONE = Workers()


class States(Protocol):
    """States at increasing times on one grid, of which parts can be read, from any thread."""

    @property
    def path(self) -> Path | str:
        """The path or address of the states, for messages."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences for the user about what is left out of an archive."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels, in the order in which states hold them."""

    @property
    def static_channels(self) -> tuple[str, ...]:
        """Names of the static fields."""

    @property
    def times(self) -> NDArray[np.datetime64]:
        """Times ``(time,)`` of the states, UTC, to the second."""

    @property
    def latitude(self) -> NDArray[np.float64]:
        """Latitudes ``(latitude,)`` of the rows, degrees north."""

    @property
    def longitude(self) -> NDArray[np.float64]:
        """Longitudes ``(longitude,)`` of the columns, degrees east."""

    @property
    def grid(self) -> tuple[int, int]:
        """Numbers of latitudes and longitudes."""

    @property
    def step(self) -> np.timedelta64:
        """The interval over which increments are measured."""

    def fingerprint(self) -> str:
        """A short text that is equal for two of these where they hold the same states."""

    def channel_indices(self, wanted: Sequence[str]) -> Indices:
        """Indices of the wanted channels in a state; UserError naming those that are lacking."""

    def index_of(self, time: np.datetime64) -> int:
        """The index of exactly this time; UserError, naming the nearest one, where it is absent."""

    def read(
        self, index: int, channels: Indices = slice(None), longitudes: slice = slice(None)
    ) -> NDArray[np.float32]:
        """The state at a time index, ``(channel, latitude, longitude)``, or a part of it.

        Raises UserError, naming the time, where values are missing or cannot be read.
        """

    def read_static(self, wanted: Sequence[str]) -> NDArray[np.float32]:
        """Static fields ``(static_channel, latitude, longitude)`` under the wanted names.

        Raises UserError naming those that are lacking.
        """

    def reading_cost(self, channels: Indices, longitudes: slice) -> ReadingCost:
        """The cost of reading these channels and longitudes of one state."""

    def statistics_over(
        self, period: Period, progress: Progress | None = None, workers: Workers = ALONE
    ) -> Statistics:
        """Statistics of a period (inclusive) of every one of ``channels``.

        ``progress(done, total)`` is called where states must be read for them, which ``workers``
        divide: all call this together and get the same. Raises UserError, on all of them, where the
        period holds no two times that are one step apart, or a state that cannot be read.
        """


def find_time(states: States, time: np.datetime64) -> int:
    """The index of exactly ``time`` among those of states.

    Raises UserError, naming the nearest one, where it is absent.
    """
    times, moment = states.times, time.astype("datetime64[s]")
    index = int(np.searchsorted(times, moment))
    if index == len(times) or times[index] != moment:
        nearest = times[int(np.argmin(np.abs(times - moment)))]
        raise UserError(
            f"{states.path} has no state at {moment}; the nearest is {nearest}, and it spans "
            f"{times[0]} to {times[-1]}"
        )
    return index


def digest(states: States, *further: NDArray[np.float64]) -> str:
    """A short hash of the channels, grid and times of states, and of ``further`` numbers."""
    result = hashlib.blake2b(digest_size=8)
    for part in (states.channels, states.static_channels, states.grid):
        result.update(repr(part).encode())
    for values in (states.times.astype(np.int64), states.latitude, states.longitude, *further):
        result.update(np.ascontiguousarray(values).tobytes())
    return result.hexdigest()
