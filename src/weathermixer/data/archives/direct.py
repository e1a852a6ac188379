"""States read from an archive as it is, such as those that WeatherBench 2 publishes.

Nothing is prepared: every read goes to the archive, is arranged and checked as ``merging.py`` does,
and decodes whatever chunks the archive happens to have. Statistics, which an archive lacks, are
estimated.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weathermixer.config import Data, Period
from weathermixer.console import Progress
from weathermixer.data.archives.analyses import ArchiveAnalysis, open_analyses
from weathermixer.data.archives.choosing import channels_in_words
from weathermixer.data.archives.merging import MergedAnalyses
from weathermixer.data.channels import (
    PREDICTED_VARIABLES,
    STATIC_VARIABLES,
    channels_of,
    names,
)
from weathermixer.data.feeding.samples import evenly_spaced, require_windows
from weathermixer.data.states import ALONE, Indices, Workers, digest, find_time
from weathermixer.data.statistics import (
    Statistics,
    cell_area_weights,
    field_moments,
    merge_moments,
)
from weathermixer.data.store.reading_cost import ReadingCost
from weathermixer.data.time_steps import to_timedelta
from weathermixer.errors import UserError

PAIRS = 128
"""How many pairs of states one step apart statistics are estimated from, at most."""


class DirectStates:
    """The states of one archive: what it has of the channels that a configuration asks for.

    They are as a store prepared from it has them: longitudes from 0, times increasing, without the
    row at the south pole where an odd number of rows reaches both. Reading is thread-safe.
    ``remarks`` are sentences for the user about what is left out.
    """

    def __init__(self, analyses: Sequence[ArchiveAnalysis], data: Data) -> None:
        """Raises UserError where states of the archive cannot be used."""
        self._analyses = analyses
        self._step_hours = data.step_hours
        self._offered = {channel for analysis in analyses for channel in analysis.channels}
        wanted = [
            channel
            for channel in channels_of(PREDICTED_VARIABLES, sorted(data.levels))
            if channel in self._offered
            and channel.variable in (*data.variables, *data.diagnostic)
            and channel.level_hpa in (None, *data.levels)
        ]
        held = {name for analysis in analyses for name in analysis.static_channels}
        static = [name for name in STATIC_VARIABLES if name in held and name in data.static]
        self._merged = MergedAnalyses(analyses, wanted, static)
        self.path = analyses[0].name
        self.channels = names(wanted)
        self.static_channels = tuple(static)
        self.times = self._merged.times
        self.latitude, self.longitude = self._merged.latitude, self._merged.longitude
        self.remarks = self._merged.remarks

    @classmethod
    def open(cls, source: str, data: Data) -> DirectStates:
        """Open the archive at a path or address; UserError where there is none that can be used."""
        analyses = open_analyses(source, None)
        return cls([each for each in analyses if isinstance(each, ArchiveAnalysis)], data)

    @property
    def is_partial(self) -> bool:
        """Whether ranks can read their parts of a state without the rest of it."""
        return all(analysis.is_partial for analysis in self._analyses)

    @property
    def grid(self) -> tuple[int, int]:
        """Numbers of latitudes and longitudes."""
        return self._merged.grid

    @property
    def step(self) -> np.timedelta64:
        """The interval over which increments are measured: the configured step."""
        return to_timedelta(self._step_hours)

    def fingerprint(self) -> str:
        """A short text that two archives share when they describe the same states."""
        return digest(self)

    def channel_indices(self, wanted: Sequence[str]) -> Indices:
        """Indices of the wanted channels in a state; UserError naming those that are lacking."""
        lacking = [name for name in wanted if name not in self.channels]
        if lacking:
            raise UserError(
                f"{self.path} lacks {', '.join(lacking)}: it offers "
                f"{channels_in_words(self._offered)}{self._merged.left_out_reasons}; "
                "choose another archive, or leave them out of data.variables and data.levels"
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
        return self._merged.read(index, index + 1, channels, longitudes)[0]

    def read_static(self, wanted: Sequence[str]) -> NDArray[np.float32]:
        """Static fields ``(static_channel, latitude, longitude)`` under the wanted names.

        Raises UserError naming those that the archive lacks.
        """
        lacking = [name for name in wanted if name not in self.static_channels]
        if lacking:
            raise UserError(
                f"{self.path} lacks the static fields {', '.join(lacking)}"
                f"{self._merged.left_out_reasons}: leave them out of data.static, or "
                "prepare a store from it and a source that has them"
            )
        places = np.array([self.static_channels.index(name) for name in wanted], dtype=np.intp)
        return self._merged.read_static()[places]

    def reading_cost(self, channels: Indices, longitudes: slice) -> ReadingCost:
        """The cost of reading a part of one state; a chunk of several times is read whole."""
        return self._merged.reading_cost(channels, longitudes)

    def statistics_over(
        self, period: Period, progress: Progress | None = None, workers: Workers = ALONE
    ) -> Statistics:
        """Statistics of a period (inclusive), from at most ``PAIRS`` pairs of its states.

        The states of a pair are one step apart, and the pairs evenly spaced over all seasons. So
        many suffice because each averages over the globe what varies: of three years of six-hourly
        states of a simulated planet, in the worst of 69 channels, means came out within 0.004
        standard deviations, standard deviations within 1.5% and those of the change over a step
        within 1% of what all states give. They scale a network's inputs and outputs, no more.

        Of the pairs each of the ``workers`` reads its part; ``progress`` counts this one's. Raises
        UserError, on all of them, where the period holds no pair, or a state that cannot be read.
        """
        windows = require_windows(self, self._step_hours, 1, period, key="data.train")
        pairs = evenly_spaced(windows, PAIRS)
        found: dict[int, NDArray[np.float64]] | UserError
        try:
            found = self._moments_of(pairs[workers.part(len(pairs))], progress)
        except UserError as error:
            found = error  # which the others, who wait for what is found here, must hear of
        moments: dict[int, NDArray[np.float64]] = {}
        for each in workers.gather(found):
            if isinstance(each, UserError):
                raise each
            # The first time of one part may be the last of another, which knows its increment too.
            known = [time for time in each if time in moments and np.isnan(each[time]).any()]
            moments |= {time: each[time] for time in each if time not in known}
        times = sorted(moments)
        return merge_moments(
            np.stack([moments[time] for time in times]), self.times[times], period, self.step
        )

    def _moments_of(
        self, pairs: NDArray[np.int64], progress: Progress | None
    ) -> dict[int, NDArray[np.float64]]:
        """The moments ``(moment, channel)`` of the states in some pairs, by their time index."""
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
        return moments
