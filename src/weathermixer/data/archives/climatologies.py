"""The state that is expected at a time of the year and of the day, of archives and of stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from weathermixer.data.addresses import local_path
from weathermixer.data.annual_cycle import last_hour, nearest_day
from weathermixer.data.archives.analyses import is_store
from weathermixer.data.archives.contents import CLIMATOLOGY, read_contents
from weathermixer.data.archives.fields import FieldGroup, slice_if_consecutive
from weathermixer.data.archives.left_out import LeftOut
from weathermixer.data.archives.names import DAY_OF_YEAR, HOUR
from weathermixer.data.channels import Channel, names, parse_channel
from weathermixer.data.grid import Grid, find_placement
from weathermixer.data.store.store import Store
from weathermixer.errors import UserError


class Climatology(Protocol):
    """The states that are expected at times of the year and of the day, on one grid."""

    @property
    def name(self) -> str:
        """The path or address, for messages."""

    @property
    def grid(self) -> Grid:
        """The grid of the expected states."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels that are there."""

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """Variables of the same archive that are not used, with the reasons."""

    def at(self, time: np.datetime64, channels: Sequence[str], grid: Grid) -> NDArray[np.float32]:
        """The expected state ``(channel, latitude, longitude)`` at a time, in SI units.

        ``grid`` differs from the climatology's in its order alone. Of the hours kept, the last at
        or before the time counts; of the days, the nearest in the year. Raises UserError where
        values cannot be read, or are NaN or infinite.
        """


@dataclass(frozen=True)
class StoreClimatology:
    """The climatology of a prepared ``store``, which must have one; nothing is ``left_out``."""

    store: Store
    left_out: tuple[LeftOut, ...] = ()

    @property
    def name(self) -> str:
        """The path or address, for messages."""
        return str(self.store.path)

    @property
    def grid(self) -> Grid:
        """The grid of the expected states."""
        return Grid(self.store.latitude, self.store.longitude)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels that are there."""
        return self.store.channels

    def at(self, time: np.datetime64, channels: Sequence[str], grid: Grid) -> NDArray[np.float32]:
        """The expected state ``(channel, latitude, longitude)`` at a time, in SI units."""
        placement = find_placement(grid, self.grid)
        assert placement is not None
        return placement(self.store.climatology_at(time, self.store.channel_indices(channels)))


@dataclass(frozen=True)
class ArchivedClimatology:
    """A climatology as WeatherBench 2 publishes it, by ``hour`` and ``dayofyear``.

    ``group`` holds its fields; ``left_out`` are variables of the same archive that are not used,
    with the reasons.
    """

    group: FieldGroup
    left_out: tuple[LeftOut, ...]

    @property
    def name(self) -> str:
        """The path or address, for messages."""
        return self.group.source

    @property
    def grid(self) -> Grid:
        """The grid of the expected states."""
        return self.group.grid

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels that are there."""
        return names(self.group.channels)

    def at(self, time: np.datetime64, channels: Sequence[str], grid: Grid) -> NDArray[np.float32]:
        """The expected state ``(channel, latitude, longitude)`` at a time, in SI units."""
        placement = find_placement(grid, self.grid)
        assert placement is not None
        coordinates = self.group.coordinates
        index = {
            HOUR: slice_if_consecutive([last_hour(coordinates[HOUR], time)]),
            DAY_OF_YEAR: slice_if_consecutive([nearest_day(coordinates[DAY_OF_YEAR], time)]),
        }
        parsed: list[Channel] = [parse_channel(channel) for channel in channels]
        state = self.group.read_channels(parsed, index, placement)[0, 0]
        if not np.isfinite(state.sum(dtype=np.float64)):
            bad = int(np.argwhere(~np.isfinite(state).all(axis=(1, 2)))[0, 0])
            raise UserError(
                f"{self.name}: the climatology {self.group.describe(index)} has NaN or infinite "
                f"values, first in {channels[bad]}: copy or make it again, or leave that channel "
                "out"
            )
        return state


def open_climatology(source: str) -> Climatology:
    """Open the climatology at a path or address; UserError where there is none that can be used."""
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
