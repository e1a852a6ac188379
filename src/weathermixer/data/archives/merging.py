"""Several analyses as one, read on one grid.

Analyses may complement each other in variables, in times and in static fields; ``choosing.py`` says
which of them each state is from. What one of them is made of, and how it is read, is in
``analyses.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weathermixer.config import Period
from weathermixer.data.archives.analyses import Analysis, ArchiveAnalysis, open_analyses
from weathermixer.data.archives.choosing import Chooser
from weathermixer.data.archives.coordinates import covers_globe, global_grid
from weathermixer.data.archives.left_out import LeftOut, left_out_in_words
from weathermixer.data.channels import Channel, implausibility
from weathermixer.data.grid import Grid, Placement, find_placement
from weathermixer.data.states import Indices
from weathermixer.data.store.reading_cost import ReadingCost
from weathermixer.errors import UserError


class MergedAnalyses:
    """Channels and static fields chosen from analyses, at the times that have all the channels.

    They come on one ``grid``: the wanted one, or by default that of the first analysis with
    longitudes from 0 eastward, its rows in the direction that they have, and without the row at
    the south pole where an odd number of rows reaches both poles (``dropped_row``), so that rows
    can be shared evenly. Analyses in another order are put into this one.
    ``num_incomplete_times`` times are left out, since they lack some of the channels.
    """

    def __init__(
        self,
        analyses: Sequence[Analysis],
        channels: Sequence[Channel] | None = None,
        static_channels: Sequence[str] | None = None,
        period: Period | None = None,
        *,
        grid: Grid | None = None,
    ) -> None:
        """Choose from ``analyses``; None stands for all that any of them has, on the usual levels.

        Times at the ends of an analysis at which nothing was written, or nothing but NaN, are left
        out. Raises UserError where a choice is in none of them, where two have the same state,
        where grids differ, where the grid is to be global and is not, or where no time has every
        channel.
        """
        self._analyses = list(analyses)
        self._grid = grid or global_grid(analyses[0].grid, analyses[0].name)
        self._is_global = covers_globe(self._grid)
        self.dropped_row = any(
            len(analysis.grid.latitude) > len(self._grid.latitude) for analysis in analyses
        )
        self._placements = [self._placement(analysis) for analysis in analyses]
        self._chooser = Chooser(analyses)
        self.channels = self._chooser.channels(channels)
        self.static_channels = self._chooser.static_channels(static_channels)
        chosen = self._chooser.times(self.channels, period)
        self.times, self._owner = chosen.times, chosen.owner
        self.num_incomplete_times = chosen.num_incomplete

    @property
    def latitude(self) -> NDArray[np.float64]:
        """Latitudes ``(latitude,)`` of the rows, degrees north."""
        return self._grid.latitude

    @property
    def longitude(self) -> NDArray[np.float64]:
        """Longitudes ``(longitude,)`` of the columns, degrees east."""
        return self._grid.longitude

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences for the user about what is left out of the analyses."""
        by_name: dict[str, tuple[LeftOut, ...]] = {
            analysis.name: analysis.left_out for analysis in self._analyses
        }
        said = (left_out_in_words(name, left_out) for name, left_out in by_name.items())
        return (*filter(None, said), *self._chooser.remarks)

    @property
    def grid(self) -> tuple[int, int]:
        """Numbers of latitudes and longitudes."""
        return self._grid.shape

    @property
    def licences(self) -> list[str]:
        """Licences that the analyses state, each once, in alphabetical order."""
        return sorted({analysis.licence for analysis in self._analyses if analysis.licence})

    def read(
        self,
        start: int,
        stop: int,
        channels: Indices = slice(None),
        longitudes: slice = slice(None),
    ) -> NDArray[np.float32]:
        """States ``(time, channel, latitude, longitude)`` of times ``start`` to before ``stop``.

        Raises UserError, naming archive, channel and time, where values cannot be read or are not
        plausible in SI units.
        """
        wanted = np.arange(len(self.channels))[channels]
        columns = len(self.longitude[longitudes])
        states = np.empty((stop - start, len(wanted), self.grid[0], columns), dtype=np.float32)
        while start < stop:
            end = self._end_of_run(start, stop)
            part = states[-(stop - start) :][: end - start]
            for index in np.unique(self._owner[wanted, start]):
                self._read_from(int(index), start, wanted, longitudes, part)
            start = end
        return states

    @property
    def left_out_reasons(self) -> str:
        """What is left out of the analyses though it is known, to follow what is missed.

        It stands in brackets after a space; empty where there is nothing of the kind.
        """
        return self._chooser.left_out_reasons

    def read_static(self) -> NDArray[np.float32]:
        """Static fields ``(static_channel, latitude, longitude)``, all of ``static_channels``.

        Raises UserError as ``read`` does.
        """
        fields = np.empty((len(self.static_channels), *self.grid), dtype=np.float32)
        for position, variable in enumerate(self.static_channels):
            index = self._chooser.static_owner[variable]
            values = self._analyses[index].read_static(variable, self._placements[index])
            fields[position] = values
            self._check(index, Channel(variable), fields[position], "")
        return fields

    def times_per_chunk(self, channels: Sequence[Channel]) -> int:
        """How many consecutive times of some channels are read about as fast as one."""
        return max(
            self._analyses[index].times_per_chunk([channel])
            for channel in channels
            for index in np.unique(self._owner[self.channels.index(channel)]).tolist()
        )

    def reading_cost(
        self, channels: Indices = slice(None), longitudes: slice = slice(None)
    ) -> ReadingCost:
        """The cost of reading a part of the first state; a chunk of several times is read whole."""
        levels: dict[str, list[int | None]] = {}
        for place in np.arange(len(self.channels))[channels]:
            channel = self.channels[place]
            levels.setdefault(channel.variable, []).append(channel.level_hpa)
        costs = (self._variable_cost(name, levels[name], longitudes) for name in levels)
        return sum(costs, ReadingCost(0, 0))

    def _variable_cost(
        self, variable: str, levels: Sequence[int | None], longitudes: slice
    ) -> ReadingCost:
        index = self._owner[self.channels.index(Channel(variable, levels[0])), 0]
        analysis = self._analyses[index]
        assert isinstance(analysis, ArchiveAnalysis), "stores know their own cost"
        return analysis.reading_cost(variable, levels, self._placements[index], longitudes)

    def _read_from(
        self,
        index: int,
        start: int,
        wanted: NDArray[np.intp],
        longitudes: slice,
        states: NDArray[np.float32],
    ) -> None:
        """Fill in what the analysis at ``index`` owns of ``states``, the first at ``start``."""
        analysis, placement = self._analyses[index], self._placements[index]
        position = int(np.searchsorted(analysis.times, self.times[start]))
        places = np.flatnonzero(self._owner[wanted, start] == index)
        channels = [self.channels[wanted[place]] for place in places]
        stop = position + len(states)
        values = analysis.read(channels, position, stop, placement, longitudes)
        if not analysis.is_checked:
            for time, fields in enumerate(values, start=start):
                for channel, field in zip(channels, fields, strict=True):
                    self._check(index, channel, field, f" at {self.times[time]}")
        states[:, places] = values

    def _check(self, index: int, channel: Channel, field: NDArray[np.float32], when: str) -> None:
        wrong = implausibility(channel, field, is_global=self._is_global)
        if wrong is not None:
            raise UserError(f"{self._analyses[index].name}: {channel.name}{when}: {wrong}")

    def _end_of_run(self, start: int, stop: int) -> int:
        """The end of the times from ``start`` on that every archive holds side by side."""
        end = start + 1
        owners = np.unique(self._owner[:, start])
        while end < stop and np.array_equal(self._owner[:, end], self._owner[:, start]):
            last = [self._analyses[index].times for index in owners]
            position = [int(np.searchsorted(times, self.times[end - 1])) for times in last]
            if any(
                times[place + 1] != self.times[end]
                for times, place in zip(last, position, strict=True)
            ):
                break
            end += 1
        return end

    def _placement(self, analysis: Analysis) -> Placement:
        placement = find_placement(self._grid, analysis.grid)
        if placement is None:
            first = self._analyses[0]
            raise UserError(
                f"{analysis.name} is on another grid ({_grid_text(analysis)}) than {first.name} "
                f"({_grid_text(first)}): choose sources on one grid, or interpolate one of them "
                "first"
            )
        return placement


def open_sources(
    sources: Sequence[str],
    *,
    channels: Sequence[Channel] | None = None,
    static_channels: Sequence[str] | None = None,
    member: int | None = None,
    period: Period | None = None,
) -> MergedAnalyses:
    """Open paths and addresses as one; ``MergedAnalyses`` tells the choices and what they raise."""
    analyses = [analysis for source in sources for analysis in open_analyses(source, member)]
    return MergedAnalyses(analyses, channels, static_channels, period)


def _grid_text(analysis: Analysis) -> str:
    latitude, longitude = analysis.grid.latitude, analysis.grid.longitude
    return f"{len(latitude)}x{len(longitude)} from {latitude[0]:g} N, {longitude[0]:g} E"
