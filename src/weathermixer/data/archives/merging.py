"""Several archives as one: which states there are, and every one of them on one grid.

Archives may complement each other in variables, in times and in static fields. What one archive is
made of, and how it is read, is in ``archive.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weathermixer.config import Period
from weathermixer.data.archives.archive import Archive, StoreArchive, open_archives
from weathermixer.data.channels import (
    LEVELS_HPA,
    PROGNOSTIC_VARIABLES,
    STATIC_VARIABLES,
    Channel,
    implausibility,
    names,
)
from weathermixer.data.states import Indices
from weathermixer.errors import UserError

_SAME_COORDINATE_DEGREES = 1e-3
_NOWHERE = -1


class Sources:
    """Channels and static fields chosen from archives, at the times that have all the channels.

    ``latitude`` and ``longitude`` are the first archive's, rows in its direction. An archive whose
    rows run the other way is turned.
    """

    def __init__(
        self,
        archives: Sequence[Archive],
        channels: Sequence[Channel] | None = None,
        static_channels: Sequence[str] | None = None,
        period: Period | None = None,
    ) -> None:
        """Choose from ``archives``; None stands for all that any of them has, on the usual levels.

        Raises UserError where a choice is in none of them, where two have the same state, where
        grids differ, or where no time has every channel.
        """
        self._archives = list(archives)
        self.latitude, self.longitude = archives[0].latitude, archives[0].longitude
        self.dropped_row = any(archive.dropped_row for archive in archives)
        self._turned = [_is_turned(archives[0], archive) for archive in archives]
        # A prepared store beside archives is there for its static fields; its times are not meant.
        lending = [isinstance(archive, StoreArchive) for archive in archives]
        self._with_states = [
            index for index in range(len(archives)) if not lending[index] or all(lending)
        ]
        self.channels = self._choose_channels(channels)
        self.static_channels = self._choose_static(static_channels)
        for index, variable in self._used_variables():
            self._archives[index].check_units(variable)
        self._choose_times(period)

    @property
    def grid(self) -> tuple[int, int]:
        return len(self.latitude), len(self.longitude)

    @property
    def licences(self) -> list[str]:
        return sorted({archive.licence for archive in self._archives if archive.licence})

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
            values = self._archives[index].read_static(variable)
            fields[position] = values[::-1] if self._turned[index] else values
            self._check(index, Channel(variable), fields[position], "")
        return fields

    def _read_from(
        self,
        index: int,
        start: int,
        wanted: NDArray[np.intp],
        longitudes: slice,
        states: NDArray[np.float32],
    ) -> None:
        """Fill in what one archive owns of consecutive states, variable by variable."""
        archive = self._archives[index]
        position = int(np.searchsorted(archive.times, self.times[start]))
        channels = [self.channels[channel] for channel in wanted]
        owned = np.flatnonzero(self._owner[wanted, start] == index)
        for variable in dict.fromkeys(channels[place].variable for place in owned):
            places = [place for place in owned if channels[place].variable == variable]
            levels = [channels[place].level_hpa for place in places]
            stop = position + len(states)
            values = archive.read(variable, levels, position, stop, longitudes)
            if self._turned[index]:
                values = values[:, :, ::-1]
            for time, fields in enumerate(values, start=start):
                for place, field in zip(places, fields, strict=True):
                    self._check(index, channels[place], field, f" at {self.times[time]}")
            states[:, places] = values

    def _check(self, index: int, channel: Channel, field: NDArray[np.float32], when: str) -> None:
        wrong = implausibility(channel, field)
        if wrong is not None:
            raise UserError(f"{self._archives[index].name}: {channel.name}{when}: {wrong}")

    def _end_of_run(self, start: int, stop: int) -> int:
        """The end of the times from ``start`` on that every archive holds side by side."""
        end = start + 1
        owners = np.unique(self._owner[:, start])
        while end < stop and np.array_equal(self._owner[:, end], self._owner[:, start]):
            last = [self._archives[index].times for index in owners]
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
            channel for index in self._with_states for channel in self._archives[index].channels
        }
        if not offered:
            raise UserError(f"no source has states with a time ({self._names()}): add one that has")
        if wanted is None:
            offered = {c for c in offered if c.level_hpa in (None, *LEVELS_HPA)} or offered
            order = list(PROGNOSTIC_VARIABLES)
            return tuple(sorted(offered, key=lambda c: (order.index(c.variable), c.level_hpa or 0)))
        lacking = [channel for channel in wanted if channel not in offered]
        if lacking:
            raise UserError(
                f"no source has {', '.join(names(lacking))}; {self._names()} offer "
                f"{summary(offered)}: add a source, or change data.variables and data.levels"
            )
        return tuple(wanted)

    def _choose_static(self, wanted: Sequence[str] | None) -> tuple[str, ...]:
        self._static_owner: dict[str, int] = {}
        for index, archive in enumerate(self._archives):
            for name in archive.static_channels:
                self._static_owner.setdefault(name, index)
        if wanted is None:
            return tuple(name for name in STATIC_VARIABLES if name in self._static_owner)
        lacking = [name for name in wanted if name not in self._static_owner]
        if lacking:
            raise UserError(
                f"no source has the static fields {', '.join(lacking)}; {self._names()} offer "
                f"{', '.join(self._static_owner) or 'none'}: add a source that has them, or leave "
                "them out of data.static"
            )
        return tuple(wanted)

    def _used_variables(self) -> list[tuple[int, str]]:
        used = [(index, name) for name, index in self._static_owner.items()]
        used = [(index, name) for index, name in used if name in self.static_channels]
        for index in self._with_states:
            has = {channel.variable for channel in self._archives[index].channels}
            used += [(index, name) for name in {c.variable for c in self.channels} if name in has]
        return used

    def _choose_times(self, period: Period | None) -> None:
        """Set ``times``, and which archive owns each ``(channel, time)``."""
        every = np.unique(np.concatenate([self._archives[i].times for i in self._with_states]))
        if period is not None:
            every = every[(every >= period[0]) & (every <= period[1])]
        owner = np.full((len(self.channels), len(every)), _NOWHERE, dtype=np.int16)
        for index in self._with_states:
            archive = self._archives[index]
            held = np.isin(every, archive.times)
            for place, channel in enumerate(self.channels):
                if channel not in archive.channels:
                    continue
                twice = held & (owner[place] != _NOWHERE)
                if twice.any():
                    first = int(np.argmax(twice))
                    raise UserError(
                        f"{channel.name} at {every[first]} is both in "
                        f"{self._archives[owner[place, first]].name} and in {archive.name}: "
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
        self.times = every[whole]
        self.incomplete_times = int((~whole).sum())
        self._owner = owner[:, whole]

    def _names(self) -> str:
        return ", ".join(dict.fromkeys(archive.name for archive in self._archives))


def open_sources(
    sources: Sequence[str],
    *,
    channels: Sequence[Channel] | None = None,
    static_channels: Sequence[str] | None = None,
    member: int | None = None,
    period: Period | None = None,
) -> Sources:
    """Open paths and addresses as one; see ``Sources`` for the choices and what they raise."""
    archives = [archive for source in sources for archive in open_archives(source, member)]
    return Sources(archives, channels, static_channels, period)


def _is_turned(first: Archive, other: Archive) -> bool:
    """Whether the other's rows run against the first's; UserError where the grids differ."""
    if len(first.latitude) == len(other.latitude) and len(first.longitude) == len(other.longitude):
        apart = np.abs(first.longitude - other.longitude).max()
        for turned, rows in ((False, other.latitude), (True, other.latitude[::-1])):
            if max(apart, np.abs(first.latitude - rows).max()) <= _SAME_COORDINATE_DEGREES:
                return turned
    raise UserError(
        f"{other.name} is on another grid ({_grid_text(other)}) than {first.name} "
        f"({_grid_text(first)}): choose sources on one grid, or interpolate one of them first"
    )


def _grid_text(archive: Archive) -> str:
    return (
        f"{len(archive.latitude)}x{len(archive.longitude)} from {archive.latitude[0]:g} N, "
        f"{archive.longitude[0]:g} E"
    )


def summary(channels: set[Channel]) -> str:
    """Variables with their levels, shorter than a list of channels."""
    parts = []
    for variable in PROGNOSTIC_VARIABLES:
        levels = sorted(c.level_hpa or 0 for c in channels if c.variable == variable)
        if levels and levels[0]:
            parts.append(f"{variable} at {', '.join(map(str, levels))} hPa")
        elif levels:
            parts.append(variable)
    return "; ".join(parts)
