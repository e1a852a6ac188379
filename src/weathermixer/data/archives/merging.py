"""Several analyses as one: which states there are, all of them on one grid.

Analyses may complement each other in variables, in times and in static fields. What one of them is
made of, and how it is read, is in ``analyses.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weathermixer.config import Period
from weathermixer.data.archives.analyses import (
    Analysis,
    ArchiveAnalysis,
    StoreAnalysis,
    open_analyses,
)
from weathermixer.data.archives.contents import (
    LeftOut,
    left_out_in_words,
    reasons_in_words,
)
from weathermixer.data.archives.coordinates import covers_globe, global_grid
from weathermixer.data.channels import (
    LEVELS_HPA,
    PROGNOSTIC_VARIABLES,
    STATIC_VARIABLES,
    Channel,
    implausibility,
    names,
)
from weathermixer.data.grid import Grid, Placement, find_placement
from weathermixer.data.states import Indices
from weathermixer.data.store.reading_cost import ReadingCost
from weathermixer.errors import UserError

_NOWHERE = -1


class MergedAnalyses:
    """Channels and static fields chosen from analyses, at the times that have all the channels.

    They come on one ``grid``: the wanted one, or by default that of the first analysis with
    longitudes from 0 eastward, its rows in the direction that they have, and without the row at
    the south pole where an odd number of rows reaches both poles (``dropped_row``), so that rows
    can be shared evenly. Analyses in another order are put into this one. ``remarks`` are
    sentences for the user about what is left out.
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
        self._remarks: list[str] = []
        self._grid = grid or global_grid(analyses[0].grid, analyses[0].name)
        self._is_global = covers_globe(self._grid)
        self.dropped_row = any(
            len(analysis.grid.latitude) > len(self._grid.latitude) for analysis in analyses
        )
        self._placements = [self._placement(analysis) for analysis in analyses]
        # A prepared store beside archives is there for its static fields; its times are not meant.
        lending = [isinstance(analysis, StoreAnalysis) for analysis in analyses]
        self._with_states = [
            index for index in range(len(analyses)) if not lending[index] or all(lending)
        ]
        self.channels = self._choose_channels(channels)
        self.static_channels = self._choose_static(static_channels)
        self._choose_times(period)

    @property
    def latitude(self) -> NDArray[np.float64]:
        return self._grid.latitude

    @property
    def longitude(self) -> NDArray[np.float64]:
        return self._grid.longitude

    @property
    def remarks(self) -> tuple[str, ...]:
        by_name: dict[str, tuple[LeftOut, ...]] = {
            analysis.name: analysis.left_out for analysis in self._analyses
        }
        said = (left_out_in_words(name, left_out) for name, left_out in by_name.items())
        return (*filter(None, said), *self._remarks)

    @property
    def grid(self) -> tuple[int, int]:
        return self._grid.shape

    @property
    def licences(self) -> list[str]:
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

    def read_static(self) -> NDArray[np.float32]:
        """Static fields ``(static_channel, latitude, longitude)``."""
        fields = np.empty((len(self.static_channels), *self.grid), dtype=np.float32)
        for position, variable in enumerate(self.static_channels):
            index = self._static_owner[variable]
            values = self._analyses[index].read_static(variable, self._placements[index])
            fields[position] = values
            self._check(index, Channel(variable), fields[position], "")
        return fields

    def times_per_chunk(self, channels: Sequence[Channel]) -> int:
        """How many times are read about as fast as one."""
        return max(
            self._analyses[index].times_per_chunk([channel])
            for channel in channels
            for index in np.unique(self._owner[self.channels.index(channel)]).tolist()
        )

    def reading_cost(
        self, variable: str, levels: Sequence[int | None], longitudes: slice
    ) -> ReadingCost:
        """The cost of reading this part of a variable at the first time."""
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
        """Fill in what one analysis owns of consecutive states."""
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

    def _choose_channels(self, wanted: Sequence[Channel] | None) -> tuple[Channel, ...]:
        offered = {
            channel for index in self._with_states for channel in self._analyses[index].channels
        }
        if not offered:
            raise UserError(
                f"no source has states with a time ({self._names()}){self.reasons}: add one "
                "that has"
            )
        if wanted is None:
            usual = {c for c in offered if c.level_hpa in (None, *LEVELS_HPA)} or offered
            if usual != offered:
                other = {c.level_hpa for c in offered - usual}
                self._remark(
                    f"{self._names()}: left out {len(other)} levels that are not among the usual "
                    f"{len(LEVELS_HPA)} (data.levels chooses)"
                )
            offered = usual
            order = list(PROGNOSTIC_VARIABLES)
            return tuple(sorted(offered, key=lambda c: (order.index(c.variable), c.level_hpa or 0)))
        lacking = [channel for channel in wanted if channel not in offered]
        if lacking:
            raise UserError(
                f"no source has {', '.join(names(lacking))}; {self._names()} offer "
                f"{summary(offered)}{self.reasons}: add a source, or change data.variables and "
                "data.levels"
            )
        return tuple(wanted)

    def _choose_static(self, wanted: Sequence[str] | None) -> tuple[str, ...]:
        self._static_owner: dict[str, int] = {}
        for index, analysis in enumerate(self._analyses):
            for name in analysis.static_channels:
                self._static_owner.setdefault(name, index)
        if wanted is None:
            return tuple(name for name in STATIC_VARIABLES if name in self._static_owner)
        lacking = [name for name in wanted if name not in self._static_owner]
        if lacking:
            raise UserError(
                f"no source has the static fields {', '.join(lacking)}; {self._names()} offer "
                f"{', '.join(self._static_owner) or 'none'}{self.reasons}: add a source that "
                "has them, or leave them out of data.static"
            )
        return tuple(wanted)

    def _choose_times(self, period: Period | None) -> None:
        """Set ``times``, and which analysis owns each ``(channel, time)``."""
        times = np.unique(np.concatenate([self._analyses[i].times for i in self._with_states]))
        if period is not None:
            times = times[(times >= period[0]) & (times <= period[1])]
        owner = np.full((len(self.channels), len(times)), _NOWHERE, dtype=np.int16)
        for index in self._with_states:
            analysis = self._analyses[index]
            own = [channel for channel in self.channels if channel in analysis.channels]
            held = np.isin(times, self._written(analysis, own, period))
            for place in (self.channels.index(channel) for channel in own):
                twice = held & (owner[place] != _NOWHERE)
                if twice.any():
                    first = int(np.argmax(twice))
                    raise UserError(
                        f"{self.channels[place].name} at {times[first]} is both in "
                        f"{self._analyses[owner[place, first]].name} and in {analysis.name}: "
                        "leave one of them out"
                    )
                owner[place, held] = index
        whole = (owner != _NOWHERE).all(axis=0)
        if not whole.any():
            raise UserError(
                f"no time {'in the wanted period ' if period else ''}has all of "
                f"{summary(set(self.channels))} in {self._names()}: add sources of the same "
                "times, or prepare fewer variables"
            )
        self.times = times[whole]
        self.incomplete_times = int(((owner != _NOWHERE).any(axis=0) & ~whole).sum())
        if self.incomplete_times:
            self._remark(
                f"{self._names()}: left out {self.incomplete_times} times that lack some of the "
                "channels"
            )
        self._owner = owner[:, whole]

    def _written(
        self, analysis: Analysis, channels: Sequence[Channel], period: Period | None
    ) -> NDArray[np.datetime64]:
        """The times at which an analysis may hold states, without empty ones at their ends."""
        times = analysis.times
        inside = (0, len(times))
        if period is not None:
            inside = (
                int(np.searchsorted(times, period[0])),
                int(np.searchsorted(times, period[1], side="right")),
            )
        written = analysis.written(channels, range(*inside))
        if len(written) and written.start > inside[0]:
            before = times[written.start]
            self._remark(f"{analysis.name}: times before {before} hold nothing and are left out")
        if len(written) and written.stop < inside[1]:
            after = times[written.stop - 1]
            self._remark(f"{analysis.name}: times after {after} hold nothing and are left out")
        return times[written.start : written.stop]

    def _remark(self, sentence: str) -> None:
        if sentence not in self._remarks:
            self._remarks.append(sentence)

    @property
    def reasons(self) -> str:
        """What is left out though it is known, in brackets, to be said where something lacks.

        Begins with a space; empty where nothing is.
        """
        by_name = {analysis.name: analysis.left_out for analysis in self._analyses}
        return "".join(reasons_in_words(name, left_out) for name, left_out in by_name.items())

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

    def _names(self) -> str:
        return ", ".join(dict.fromkeys(analysis.name for analysis in self._analyses))


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


def summary(channels: set[Channel]) -> str:
    """Variables with their levels, shorter than a list of channels."""
    by_levels: dict[str, list[str]] = {}
    for variable in PROGNOSTIC_VARIABLES:
        levels = sorted(c.level_hpa or 0 for c in channels if c.variable == variable)
        if levels:
            place = f" at {', '.join(map(str, levels))} hPa" if levels[0] else ""
            by_levels.setdefault(place, []).append(variable)
    return "; ".join(f"{', '.join(variables)}{place}" for place, variables in by_levels.items())
