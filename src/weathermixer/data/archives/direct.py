"""States read from a Zarr archive as it is, such as those that WeatherBench 2 publishes.

Nothing is prepared: every read goes to the archive, is arranged and checked as ``merging.py`` does,
and decodes whatever chunks the archive happens to have. Statistics, which an archive lacks, are
estimated.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

import numpy as np
from numpy.typing import NDArray

from weathermixer.config import Data, Period
from weathermixer.console import Progress
from weathermixer.data.archives.archive import DatasetArchive, open_archives
from weathermixer.data.archives.merging import Sources, summary
from weathermixer.data.channels import names
from weathermixer.data.feeding.samples import evenly_spaced, require_windows
from weathermixer.data.states import Indices, digest, find_time
from weathermixer.data.statistics import (
    Statistics,
    cell_area_weights,
    field_moments,
    merge_moments,
)
from weathermixer.data.store.reading_cost import ReadingCost
from weathermixer.errors import UserError

PAIRS = 128  # of states one step apart, from which statistics are estimated


class DirectStates:
    """The states of one Zarr archive: what it has of the channels that a configuration asks for.

    They are as a store prepared from it has them: longitudes from 0, times increasing, without the
    row at the south pole where an odd number of rows reaches both. Reading is thread-safe.
    """

    def __init__(self, archive: DatasetArchive, data: Data) -> None:
        """Raises UserError for an archive that is not Zarr, or is not in SI units."""
        self._archive = archive
        self._step_hours = data.step_hours
        self._channels = [
            channel
            for channel in archive.channels
            if channel.variable in data.variables and channel.level_hpa in (None, *data.levels)
        ]
        static = [name for name in archive.static_channels if name in data.static]
        self._sources = Sources([archive], self._channels, static)
        offered = archive.channels[0]
        archive.reading_cost(offered.variable, [offered.level_hpa], slice(None))  # only of Zarr
        self.path = archive.name
        self.channels = names(self._channels)
        self.static_channels = tuple(static)
        self.times = self._sources.times
        self.latitude, self.longitude = archive.latitude, archive.longitude

    @classmethod
    def open(cls, source: str, data: Data) -> DirectStates:
        """The archive at a path or address; UserError where there is none that can be used."""
        archive = open_archives(source, None)[0]
        assert isinstance(archive, DatasetArchive)
        return cls(archive, data)

    @property
    def grid(self) -> tuple[int, int]:
        return self._sources.grid

    @property
    def step(self) -> np.timedelta64:
        """The step that was configured; an archive has none of its own."""
        return np.timedelta64(round(self._step_hours * 3600), "s")

    def fingerprint(self) -> str:
        """A short text that two archives share when they describe the same states."""
        return digest(self)

    def channel_indices(self, wanted: Sequence[str]) -> Indices:
        """Where the wanted channels stand; UserError naming those that the archive lacks."""
        lacking = [name for name in wanted if name not in self.channels]
        if lacking:
            raise UserError(
                f"{self.path} lacks {', '.join(lacking)}: it offers "
                f"{summary(set(self._archive.channels))}; choose another archive, or leave them "
                "out of data.variables and data.levels"
            )
        return [self.channels.index(name) for name in wanted]

    def index_of(self, time: np.datetime64) -> int:
        """The index of exactly this time; UserError, naming the nearest one, where it is absent."""
        return find_time(self, time)

    def read(
        self, index: int, channels: Indices = slice(None), longitudes: slice = slice(None)
    ) -> NDArray[np.float32]:
        """The state at a time index, ``(channel, latitude, longitude)``, or a part of it.

        Raises UserError, naming time and channel, where values are missing, cannot be read, or are
        not plausible in SI units: nothing has checked them before.
        """
        return self._sources.read(index, index + 1, channels, longitudes)[0]

    def read_static(self, wanted: Sequence[str]) -> NDArray[np.float32]:
        """Static fields ``(static_channel, latitude, longitude)`` under the wanted names.

        Raises UserError naming those that the archive lacks.
        """
        lacking = [name for name in wanted if name not in self.static_channels]
        if lacking:
            raise UserError(
                f"{self.path} lacks the static fields {', '.join(lacking)}: leave them out of "
                "data.static, or prepare a store from it and a source that has them"
            )
        places = np.array([self.static_channels.index(name) for name in wanted], dtype=np.intp)
        return self._sources.read_static()[places]

    def reading_cost(self, channels: Indices, longitudes: slice) -> ReadingCost:
        """The cost of reading this part of one state; a chunk of several times is read whole."""
        levels: dict[str, list[int | None]] = {}
        for place in np.arange(len(self._channels))[channels]:
            channel = self._channels[place]
            levels.setdefault(channel.variable, []).append(channel.level_hpa)
        costs = (
            self._archive.reading_cost(variable, wanted, longitudes)
            for variable, wanted in levels.items()
        )
        return reduce(add, costs, ReadingCost(0, 0))

    def statistics_over(self, period: Period, progress: Progress | None = None) -> Statistics:
        """Statistics of a period (inclusive), from at most ``PAIRS`` pairs of its states.

        The states of a pair are one step apart, and the pairs evenly spaced over all seasons. So
        many suffice because each averages over the globe what varies: of three years of six-hourly
        states of a simulated planet, in the worst of 69 channels, means came out within 0.004
        standard deviations, standard deviations within 1.5% and those of the change over a step
        within 1% of what all states give. They scale a network's inputs and outputs, no more.

        Raises UserError where the period holds no pair, or a state that cannot be read.
        """
        found = require_windows(self, self._step_hours, 1, period, key="data.train")
        pairs = evenly_spaced(found, PAIRS)
        weights = cell_area_weights(self.latitude)
        moments: dict[int, NDArray[np.float64]] = {}
        held: dict[int, NDArray[np.float32]] = {}
        for done, (first, second) in enumerate(pairs.tolist()):
            if progress is not None:
                progress(done, len(pairs))
            before = held[first] if first in held else self.read(first)
            if first not in moments:
                moments[first] = field_moments(before, None, weights)
            state = self.read(second)
            moments[second] = field_moments(state, before, weights)
            held = {second: state}
        if progress is not None:
            progress(len(pairs), len(pairs))
        times = sorted(moments)
        return merge_moments(
            np.stack([moments[time] for time in times]), self.times[times], period, self.step
        )
