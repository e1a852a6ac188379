"""Fields of an archive under canonical names, in SI units, along named dimensions.

Analyses, forecasts and climatologies are all read here; they differ in their *leading* dimensions
alone. How an archive is taken apart into groups of fields is in ``contents.py``.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from weathermixer.data.archives.coordinates import covers_globe
from weathermixer.data.archives.formats import naming_errors
from weathermixer.data.archives.names import LATITUDE, LEAD, LEVEL, LONGITUDE, TIME
from weathermixer.data.archives.storage import Storage
from weathermixer.data.archives.units import Conversion
from weathermixer.data.channels import VARIABLES, Channel, implausibility
from weathermixer.data.grid import Grid, Index, Placement
from weathermixer.data.time_steps import to_hours
from weathermixer.errors import UserError

Part = slice | NDArray[np.intp]
"""What is selected along one dimension."""


@dataclass(frozen=True)
class ArchivedVariable:
    """A variable as an archive keeps it.

    ``name_in_archive`` is the variable's name there, and ``dimensions`` are the array's names of
    canonical dimensions; along its other dimensions ``fixed`` is the index that is read. ``array``
    is read lazily, and ``storage`` knows what of it was written. ``levels`` are in hPa, None where
    no channel is at that level. ``conversion`` is the one to SI units; where the archive does not
    state units, ``has_units`` is false.
    """

    name_in_archive: str
    array: xr.DataArray
    storage: Storage
    dimensions: Mapping[str, Hashable]
    fixed: Mapping[Hashable, int]
    levels: tuple[int | None, ...]
    conversion: Conversion
    has_units: bool

    def read(
        self, wanted: Mapping[str, Part], order: Sequence[str]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
        """Read a selection, and where of it nothing was ever written (None where all was).

        Both have the canonical dimensions of ``order``, of which those that the array lacks have
        one element. Values are in SI units.
        """
        selection = self.selection(wanted)
        values = self.array.isel(dict(zip(self.array.dims, selection, strict=True))).values
        unwritten = self.storage.unwritten(self.name_in_archive, selection, values)
        return (
            self.conversion(self._arranged(values, order)),
            None if unwritten is None else self._arranged(unwritten, order),
        )

    def has_chunk(self, index: Mapping[str, int]) -> bool:
        """Whether there are bytes for an element, by its indices along canonical dimensions.

        They are 0 by default.
        """
        own = [
            self.fixed[dim] if dim in self.fixed else index.get(self._canonical[dim], 0)
            for dim in self.array.dims
        ]
        return self.storage.has_chunk(self.name_in_archive, own)

    def selection(self, wanted: Mapping[str, Part]) -> list[Part]:
        """Translate a selection along canonical dimensions into one along the array's, in order."""
        return [
            slice(self.fixed[dim], self.fixed[dim] + 1)
            if dim in self.fixed
            else wanted[self._canonical[dim]]
            for dim in self.array.dims
        ]

    def _arranged(self, values: NDArray[Any], order: Sequence[str]) -> NDArray[Any]:
        present = [role for role in order if role in self.dimensions]
        axes = [self.array.dims.index(self.dimensions[role]) for role in present]
        others = [axis for axis in range(values.ndim) if axis not in axes]
        moved = values.transpose(*axes, *others)  # the others have one element each
        sizes = iter(moved.shape[: len(present)])
        return moved.reshape([next(sizes) if role in present else 1 for role in order])

    @cached_property
    def _canonical(self) -> dict[Hashable, str]:
        return {own: role for role, own in self.dimensions.items()}


@dataclass(frozen=True)
class FieldGroup:
    """Variables of an archive that share their coordinates.

    ``source`` is the archive's path or address, and ``variables`` are by canonical name.
    ``coordinates`` are those of the ``leading`` dimensions, in the archive's order: times and lead
    times to the second, or hours and days of the year. ``grid`` too is in the archive's order.
    """

    source: str
    leading: tuple[str, ...]
    coordinates: Mapping[str, NDArray[Any]]
    grid: Grid
    variables: Mapping[str, ArchivedVariable]

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Every field at a time, in canonical order, by increasing level."""
        return tuple(
            channel
            for name in VARIABLES
            if name in self.variables
            for channel in self._channels_of(name)
        )

    def chunk_length(self, dimension: str, channels: Sequence[Channel]) -> int:
        """The longest chunk along a leading dimension among the variables of some channels."""
        sizes = []
        for variable in {channel.variable for channel in channels}:
            archived = self.variables[variable]
            chunks = archived.array.encoding.get("preferred_chunks", {})
            sizes.append(int(chunks.get(archived.dimensions.get(dimension), 1)))
        return max(sizes)

    def read_channels(
        self,
        channels: Sequence[Channel],
        index: Mapping[str, Part],
        placement: Placement,
        longitudes: Index = slice(None),
    ) -> NDArray[np.float32]:
        """Read fields ``(*leading, channel, latitude, longitude)``; raises what ``read`` does."""
        sizes = [len(self.coordinates[name][index[name]]) for name in self.leading]
        shape = (len(placement.rows), len(placement.columns[longitudes]))
        fields = np.empty((*sizes, len(channels), *shape), np.float32)
        for variable in dict.fromkeys(channel.variable for channel in channels):
            places = [n for n, channel in enumerate(channels) if channel.variable == variable]
            levels = [channels[place].level_hpa for place in places]
            fields[..., places, :, :] = self.read(variable, levels, index, placement, longitudes)
        return fields

    def read(
        self,
        variable: str,
        levels: Sequence[int | None],
        index: Mapping[str, Part],
        placement: Placement,
        longitudes: Index = slice(None),
    ) -> NDArray[np.float32]:
        """Read fields ``(*leading, level, latitude, longitude)`` on the grid of a placement.

        ``index`` selects along each leading dimension; ``longitudes``, of the placement's columns.
        Raises UserError, naming the archive, the variable and the first time, where values were
        never written or cannot be read.
        """
        archived = self.variables[variable]
        columns = placement.columns[longitudes]
        is_whole = len(columns) == len(self.grid.longitude)
        wanted: dict[str, Part] = {
            **index,
            LEVEL: slice_if_consecutive([archived.levels.index(level) for level in levels]),
            LATITUDE: slice(0, len(self.grid.latitude)),
            # Readers handle whole rows best: these are put in order afterwards.
            LONGITUDE: slice(0, len(columns)) if is_whole else slice_if_consecutive(columns),
        }
        order = (*self.leading, LEVEL, LATITUDE, LONGITUDE)
        with naming_errors(self.source, f"read: {variable} {self.describe(index)}"):
            values, unwritten = archived.read(wanted, order)
        if unwritten is not None:
            self._refuse_unwritten(variable, levels, index, unwritten)
        values = values[..., _permuted(placement.rows), :]
        return values[..., _permuted(columns)] if is_whole else values

    def check_unstated_units(self) -> None:
        """Raise UserError where units are unstated and a first field is implausible in SI units."""
        index: dict[str, Part] = {name: slice(0, 1) for name in self.leading}
        for channel in self.channels:
            archived = self.variables[channel.variable]
            levels = [level for level in archived.levels if level is not None]
            if archived.has_units or (levels and channel.level_hpa != levels[0]):
                continue
            fields = self.read(
                channel.variable, [channel.level_hpa], index, Placement.identity(self.grid)
            )
            field = fields.reshape(self.grid.shape)
            wrong = implausibility(channel, field, is_global=covers_globe(self.grid))
            if wrong is not None and np.isfinite(field).all():
                raise UserError(
                    f"{self.source} does not say in which units {channel.variable} is, and its "
                    f"{wrong}"
                )

    def describe(self, index: Mapping[str, Part], position: Sequence[int] | None = None) -> str:
        """Where a selection begins, in words: ``at 2020-01-01T06:00:00``.

        ``position`` is an element of it along the leading dimensions, in the place of the first.
        """
        words = []
        for axis, name in enumerate(self.leading):
            values = self.coordinates[name][index[name]]
            value = values[0 if position is None else position[axis]]
            if name == TIME:
                words.append(f"{'from' if LEAD in self.leading else 'at'} {value}")
            elif name == LEAD:
                words.append(f"at lead {to_hours(value):g} h")
            else:
                words.append(f"of {name} {value}")
        return " ".join(words)

    def _channels_of(self, name: str) -> list[Channel]:
        if not VARIABLES[name].on_levels:
            return [Channel(name)]
        levels = self.variables[name].levels
        return [Channel(name, level) for level in sorted(lvl for lvl in levels if lvl is not None)]

    def _refuse_unwritten(
        self,
        variable: str,
        levels: Sequence[int | None],
        index: Mapping[str, Part],
        unwritten: NDArray[np.bool_],
    ) -> None:
        by_field = unwritten.any(axis=(-2, -1))
        if not self.leading and not unwritten.all():
            # Writers leave out chunks that hold the fill value alone: sea, in a mask of land.
            return
        *position, level = np.argwhere(by_field)[0]
        name = Channel(variable, levels[level]).name
        where = f" {self.describe(index, position)}" if self.leading else ""
        raise UserError(
            f"{self.source}: {name}{where} was never written: the archive holds no data for it, so "
            "fetch it again, or choose times that it has"
        )


def slice_if_consecutive(indices: Sequence[int] | NDArray[np.intp]) -> Part:
    """Indices as a slice where each follows the one before, which readers handle faster."""
    array = np.asarray(indices, np.intp)
    if len(array) and np.all(np.diff(array) == 1):
        return slice(int(array[0]), int(array[-1]) + 1)
    return array


def _permuted(indices: NDArray[np.intp]) -> Part:
    """Indices as a slice, forward or backward, where they are one: indexing then makes no copy."""
    part = slice_if_consecutive(indices)
    reverse = slice_if_consecutive(indices[::-1])
    if isinstance(part, np.ndarray) and isinstance(reverse, slice):
        start, stop = reverse.stop - 1, reverse.start - 1
        return slice(start, None if stop < 0 else stop, -1)
    return part
