"""A forecast: states by initial time and lead time, from this project or from others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from weathermixer.data.archives.analyses import is_store
from weathermixer.data.archives.contents import FORECAST, read_contents
from weathermixer.data.archives.fields import FieldGroup, slice_if_consecutive
from weathermixer.data.archives.left_out import left_out_in_words
from weathermixer.data.archives.names import LEAD, MEMBER, TIME
from weathermixer.data.channels import in_canonical_order, names, parse_channel
from weathermixer.data.grid import Grid, Index, find_placement
from weathermixer.data.time_steps import to_hours
from weathermixer.errors import UserError


@dataclass(frozen=True)
class Forecast:
    """An open forecast: ``initial_times (time,)``, ``lead_times (lead,)``, and its fields.

    ``path`` may be an address. Where a file holds several data sets, each is one of ``groups``, and
    all of them are of these times, and of the same members where it is an ensemble. ``remark`` is a
    line about what is left out, where anything is.
    """

    path: str
    groups: tuple[FieldGroup, ...]
    initial_times: NDArray[np.datetime64]
    lead_times: NDArray[np.timedelta64]
    remark: str | None

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open a forecast; UserError where there is none, an unfinished one, or something else."""
        if is_store(str(path)):
            raise UserError(f"{path} is a prepared store, not a forecast: choose a forecast")
        contents = read_contents(str(path), FORECAST)
        first, *others = contents.groups
        for other in others:
            if not all(
                np.array_equal(first.coordinates[name], other.coordinates[name])
                for name in FORECAST
            ):
                raise UserError(
                    f"{path} holds {', '.join(other.variables)} at other times than "
                    f"{', '.join(first.variables)}: make a file of each"
                )
            members, others_members = (each.coordinates.get(MEMBER, ()) for each in (first, other))
            if not np.array_equal(members, others_members):
                raise UserError(
                    f"{path} holds {', '.join(other.variables)} of other members than "
                    f"{', '.join(first.variables)}: make a file of each"
                )
            if find_placement(first.grid, other.grid) is None:
                raise UserError(
                    f"{path} holds {', '.join(other.variables)} on another grid ({other.grid}) "
                    f"than {', '.join(first.variables)} ({first.grid}): make a file of each"
                )
        for group in contents.groups:
            group.check_unstated_units()
        return cls(
            str(path),
            contents.groups,
            first.coordinates[TIME],
            first.coordinates[LEAD],
            left_out_in_words(str(path), contents.left_out),
        )

    @property
    def grid(self) -> Grid:
        """The grid of the first data set, in the forecast's order."""
        return self.groups[0].grid

    @property
    def members(self) -> int | None:
        """How many members an ensemble has; None of a single forecast."""
        members = self.groups[0].coordinates.get(MEMBER)
        return None if members is None else len(members)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of all channels, in canonical order, by increasing level."""
        held = {channel for group in self.groups for channel in group.channels}
        return names(in_canonical_order(held))

    @property
    def lead_hours(self) -> tuple[float, ...]:
        """The lead times in hours."""
        return tuple(to_hours(self.lead_times).tolist())

    def chunk_length(self, dimension: str, channels: Sequence[str]) -> int:
        """The longest chunk, in initial times or lead times, in any of some channels.

        ``dimension`` is ``time`` or ``prediction_timedelta``.
        """
        return max(
            group.chunk_length(dimension, own)
            for group, places in self._owners(channels)
            if (own := [parse_channel(channels[place]) for place in places])
        )

    def read(
        self,
        channels: Sequence[str],
        times: NDArray[np.intp],
        leads: NDArray[np.intp],
        grid: Grid,
        longitudes: Index = slice(None),
    ) -> NDArray[np.float32]:
        """Read fields ``(time, lead, channel, latitude, longitude)`` in SI units, on ``grid``.

        Those of an ensemble are ``(time, lead, member, channel, latitude, longitude)``. ``times``
        and ``leads`` are indices, ``longitudes`` are some of the grid's columns; ``grid`` differs
        from the forecast's in its order alone. Raises UserError, naming what, where values are NaN
        or infinite, were never written, or cannot be read.
        """
        index: dict[str, Any] = {
            TIME: slice_if_consecutive(times),
            LEAD: slice_if_consecutive(leads),
            MEMBER: slice(0, self.members),
        }
        sizes = [len(times), len(leads), self.members or 1][: len(self.groups[0].leading)]
        shape = len(grid.latitude), len(grid.longitude[longitudes])
        fields = np.empty((*sizes, len(channels), *shape), np.float32)
        for group, places in self._owners(channels):
            if places:
                own = [parse_channel(channels[place]) for place in places]
                placement = find_placement(grid, group.grid)
                assert placement is not None
                fields[..., places, :, :] = group.read_channels(own, index, placement, longitudes)
        self._check_finite(fields, channels, index)
        return fields

    def _owners(self, channels: Sequence[str]) -> list[tuple[FieldGroup, list[int]]]:
        """For each group, the indices of its channels among the wanted ones."""
        return [
            (
                group,
                [n for n, name in enumerate(channels) if parse_channel(name) in group.channels],
            )
            for group in self.groups
        ]

    def _check_finite(
        self, fields: NDArray[np.float32], channels: Sequence[str], index: dict[str, Any]
    ) -> None:
        # One addition per value finds NaN and infinity more cheaply than a mask.
        if np.isfinite(fields.sum(dtype=np.float64)):
            return
        *position, channel = np.argwhere(~np.isfinite(fields).all(axis=(-2, -1)))[0]
        raise UserError(
            f"{self.path}: the state {self.groups[0].describe(index, position)} has NaN or "
            f"infinite values, first in {channels[channel]}: copy or make it again, or leave that "
            "time or channel out"
        )
