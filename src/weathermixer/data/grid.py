"""Grids of latitude and longitude: the one that several data sets share, and the way onto it.

Rows may run either way, and longitudes may begin anywhere. Archives keep a row on both poles or,
where rows are to be shared evenly, one less: the row at the south pole is then left out of all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weathermixer.errors import UserError

Index = slice | NDArray[np.intp]

_TOLERANCE_DEGREES = 1e-3


@dataclass(frozen=True)
class Grid:
    """``latitude (row,)`` and ``longitude (column,)`` in degrees, in a data set's own order."""

    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.latitude), len(self.longitude)

    @property
    def has_even_columns(self) -> bool:
        """Whether columns go round the globe in equal steps."""
        steps = np.diff(self.longitude, append=self.longitude[:1]) % 360.0
        return bool(np.abs(steps - 360.0 / len(steps)).max() <= _TOLERANCE_DEGREES)

    def without_south_pole(self) -> Grid:
        return Grid(self.latitude[self.latitude > _TOLERANCE_DEGREES - 90.0], self.longitude)

    def __str__(self) -> str:
        return (
            f"{len(self.latitude)}×{len(self.longitude)}, latitude {self.latitude[0]:g} to "
            f"{self.latitude[-1]:g}, longitude {self.longitude[0]:g} to {self.longitude[-1]:g}"
        )


@dataclass(frozen=True)
class Placement:
    """Where the rows and columns of a wanted grid stand in a data set's own."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]

    @classmethod
    def of(cls, grid: Grid) -> Placement:
        """The way from a grid to itself."""
        return cls(np.arange(len(grid.latitude)), np.arange(len(grid.longitude)))

    def __call__(self, fields: NDArray[np.float32]) -> NDArray[np.float32]:
        """Fields ``(..., row, column)`` on the wanted grid; a view where that is enough."""
        return fields[..., as_slice(self.rows), :][..., as_slice(self.columns)]


def common_grid(grids: Mapping[str, Grid]) -> Grid:
    """The grid on which all of some named data sets can be compared, in the first one's order.

    Raises UserError, naming the first that differs, where grids differ in more than their order and
    a row at the south pole.
    """
    first, *_ = grids.values()
    for candidate in (first, first.without_south_pole()):
        if all(find_placement(candidate, grid) is not None for grid in grids.values()):
            return candidate
    small = first.without_south_pole()
    other = next(name for name, grid in grids.items() if find_placement(small, grid) is None)
    raise UserError(
        f"{other} is on another grid ({grids[other]}) than {next(iter(grids))} ({first}): "
        "choose data sets on one grid, or interpolate one of them first"
    )


def as_slice(indices: NDArray[np.intp]) -> Index:
    """The same selection as a slice where it is one: readers are faster with those."""
    step = int(indices[1] - indices[0]) if len(indices) > 1 else 1
    if step not in (-1, 1) or not (np.diff(indices) == step).all():
        return indices
    stop = int(indices[-1]) + step
    return slice(int(indices[0]), None if stop < 0 else stop, step)


def find_placement(wanted: Grid, own: Grid) -> Placement | None:
    """The way from a data set's own grid to a wanted one; None where they do not match.

    Rows and columns may be in another order, and the own grid may have a row more, at the south
    pole.
    """
    for candidate in (own, own.without_south_pole()):
        if candidate.shape == wanted.shape:
            rows = _match(own.latitude, wanted.latitude, None)
            columns = _match(own.longitude, wanted.longitude, 360.0)
            if rows is not None and columns is not None:
                return Placement(rows, columns)
    return None


def _match(
    own: NDArray[np.float64], wanted: NDArray[np.float64], period: float | None
) -> NDArray[np.intp] | None:
    """The index in ``own`` of each coordinate ``wanted``; None where they do not match."""
    distance = np.abs(own - wanted[:, None])
    if period is not None:
        distance = np.minimum(distance % period, -distance % period)
    nearest: NDArray[np.intp] = distance.argmin(axis=1)
    if distance.min(axis=1).max() > _TOLERANCE_DEGREES or len(np.unique(nearest)) < len(wanted):
        return None
    return nearest
