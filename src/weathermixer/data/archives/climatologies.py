"""The state that is expected at a time of the year and of the day, of archives and of stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from weathermixer.data.annual_cycle import last_hour, nearest_day
from weathermixer.data.archives.analyses import is_store
from weathermixer.data.archives.contents import CLIMATOLOGY, LeftOut, read_contents
from weathermixer.data.archives.fields import FieldGroup, consecutive
from weathermixer.data.archives.formats import local_path
from weathermixer.data.archives.names import DAY_OF_YEAR, HOUR
from weathermixer.data.channels import Channel, names, parse_channel
from weathermixer.data.grid import Grid, find_placement
from weathermixer.data.store.store import Store
from weathermixer.errors import UserError


class Climatology(Protocol):
    """Expected states on one ``grid``; ``channels`` are names.

    ``left_out`` are variables of the same archive that are not used, with the reasons.
    """

    @property
    def name(self) -> str: ...

    @property
    def grid(self) -> Grid: ...

    @property
    def channels(self) -> tuple[str, ...]: ...

    @property
    def left_out(self) -> tuple[LeftOut, ...]: ...

    def at(self, time: np.datetime64, channels: Sequence[str], grid: Grid) -> NDArray[np.float32]:
        """``(channel, latitude, longitude)`` on a grid that differs in its order alone.

        Of the hours kept, the last at or before the time; of the days, the nearest in the year.
        """


@dataclass(frozen=True)
class StoreClimatology:
    """The climatology of a prepared store."""

    store: Store
    left_out: tuple[LeftOut, ...] = ()

    @property
    def name(self) -> str:
        return str(self.store.path)

    @property
    def grid(self) -> Grid:
        return Grid(self.store.latitude, self.store.longitude)

    @property
    def channels(self) -> tuple[str, ...]:
        return self.store.channels

    def at(self, time: np.datetime64, channels: Sequence[str], grid: Grid) -> NDArray[np.float32]:
        placement = find_placement(grid, self.grid)
        assert placement is not None
        return placement(self.store.climatology_at(time, self.store.channel_indices(channels)))


@dataclass(frozen=True)
class ArchivedClimatology:
    """A climatology as WeatherBench 2 publishes it, by ``hour`` and ``dayofyear``."""

    group: FieldGroup
    left_out: tuple[LeftOut, ...]

    @property
    def name(self) -> str:
        return self.group.source

    @property
    def grid(self) -> Grid:
        return self.group.grid

    @property
    def channels(self) -> tuple[str, ...]:
        return names(self.group.channels)

    def at(self, time: np.datetime64, channels: Sequence[str], grid: Grid) -> NDArray[np.float32]:
        placement = find_placement(grid, self.grid)
        assert placement is not None
        coordinates = self.group.coordinates
        index = {
            HOUR: consecutive([last_hour(coordinates[HOUR], time)]),
            DAY_OF_YEAR: consecutive([nearest_day(coordinates[DAY_OF_YEAR], time)]),
        }
        parsed: list[Channel] = [parse_channel(channel) for channel in channels]
        state = self.group.read_channels(parsed, index, placement)[0, 0]
        if not np.isfinite(state.sum(dtype=np.float64)):
            bad = int(np.argwhere(~np.isfinite(state).all(axis=(1, 2)))[0, 0])
            raise UserError(
                f"{self.name}: the climatology {self.group.where(index)} has NaN or infinite "
                f"values, first in {channels[bad]}: copy or make it again, or leave that channel "
                "out"
            )
        return state


def open_climatology(source: str) -> Climatology:
    """The climatology at a path or address; UserError where there is none that can be used."""
    if is_store(source):
        store = Store.open(local_path(source))
        if not store.has_climatology:
            raise UserError(
                f"{source} has no climatology: prepare it again, without --no-climatology"
            )
        return StoreClimatology(store)
    contents = read_contents(source, CLIMATOLOGY)
    if len(contents.groups) != 1:
        raise UserError(
            f"{source} holds {len(contents.groups)} climatologies on different coordinates: choose "
            "one"
        )
    (group,) = contents.groups
    group.check_unstated_units()
    return ArchivedClimatology(group, contents.left_out)
