"""Grids of latitude and longitude: what they cover, and where one is found in another.

Rows may run either way, and longitudes may begin anywhere. Archives keep a row on both poles or,
where rows are to be shared evenly, one less: the row at the south pole is then left out of all.
A grid may cover the globe or a part of it. What is true of the globe only (cells that reach to the
poles, circles that close) has to be asked of the grid first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from weathermixer.errors import UserError

Index = slice | NDArray[np.intp]
"""A selection of rows or columns."""

_TOLERANCE_DEGREES = 1e-3
# A grid that has lost its row at a pole ends one spacing short of it.
_MOST_SPACINGS_FROM_A_POLE = 1.01
# Around the globe, the widest gap between columns is about as wide as the next; a column that is
# lacking makes it twice as wide.
_WIDEST_GAP = 1.5


@dataclass(frozen=True)
class Grid:
    """Points at ``latitude (row,)`` and ``longitude (column,)``, degrees, in a data set's order."""

    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and columns."""
        return len(self.latitude), len(self.longitude)

    @property
    def is_global(self) -> bool:
        """Whether the cells cover the whole globe."""
        return self.reaches_both_poles and self.goes_round

    @property
    def has_area(self) -> bool:
        """Whether cells have a known size: of a single row or column the width cannot be told."""
        return min(self.shape) > 1

    @property
    def reaches_both_poles(self) -> bool:
        """Whether rows begin and end at a pole, or no further from it than their spacing."""
        rows = np.sort(self.latitude)
        if len(rows) < 2:
            return False
        reach = _MOST_SPACINGS_FROM_A_POLE * np.diff(rows)[[0, -1]]
        return bool(rows[0] + 90.0 <= reach[0] and 90.0 - rows[-1] <= reach[1])

    @property
    def goes_round(self) -> bool:
        """Whether columns go all round the globe, so that the last one is the first's neighbour."""
        gaps = np.sort(self._gaps)
        return len(gaps) > 1 and bool(gaps[-1] <= _WIDEST_GAP * gaps[-2])

    @property
    def has_even_columns(self) -> bool:
        """Whether columns go round the globe in equal steps, eastward or westward."""
        steps = np.diff(self.longitude, append=self.longitude[:1]) % 360.0
        even = 360.0 / len(steps)
        return any(
            bool(np.abs(steps - step).max() <= _TOLERANCE_DEGREES) for step in (even, 360.0 - even)
        )

    @property
    def latitude_extent(self) -> tuple[float, float]:
        """The southern and northern bound of the area that the rows' cells cover, degrees.

        The poles where rows reach both; else half a spacing beyond the outermost rows, and never
        beyond a pole. A single row, whose spacing is unknown, is its own bound.
        """
        if self.reaches_both_poles:
            return -90.0, 90.0
        rows = np.sort(self.latitude)
        south, north = np.diff(rows)[[0, -1]] / 2.0 if len(rows) > 1 else (0.0, 0.0)
        return max(float(rows[0] - south), -90.0), min(float(rows[-1] + north), 90.0)

    @cached_property
    def west_to_east(self) -> NDArray[np.intp]:
        """Indices of the columns from west to east.

        They begin at the date line where columns go all round, else behind the widest gap.
        """
        eastward = np.argsort(_from_date_line(self.longitude), kind="stable")
        if self.goes_round:
            return eastward
        return np.roll(eastward, -1 - int(self._gaps.argmax()))

    @cached_property
    def eastward_longitude(self) -> NDArray[np.float64]:
        """Increasing longitudes of the columns from west to east, degrees.

        The first lies in [−180, 180); the last may lie beyond 180.
        """
        longitude = _from_date_line(self.longitude[self.west_to_east])
        return np.where(longitude < longitude[0], longitude + 360.0, longitude)

    @property
    def longitude_extent(self) -> tuple[float, float]:
        """The western and eastern bound of the area that the columns' cells cover, degrees.

        −180 and 180 where columns go all round; else half a spacing beyond the outermost ones.
        """
        if self.goes_round:
            return -180.0, 180.0
        bounds = self._column_bounds
        return float(bounds[0]), float(bounds[-1])

    @cached_property
    def column_shares(self) -> NDArray[np.float64]:
        """The share of each column's cells in their row, ``(column,)``, summing to 1.

        Cells are bounded by the midpoints between columns.
        """
        shares = np.full(len(self.longitude), 1.0 / len(self.longitude))
        widths = np.diff(self._column_bounds)
        if not self.has_equal_columns:
            shares[self.west_to_east] = widths / widths.sum()
        return shares

    @property
    def has_equal_columns(self) -> bool:
        """Whether the cells of a row are equally wide."""
        return bool(np.ptp(np.diff(self._column_bounds)) <= 2.0 * _TOLERANCE_DEGREES)

    @property
    def _gaps(self) -> NDArray[np.float64]:
        """Degrees from each column to the next, from the date line eastward and round."""
        eastward = np.sort(_from_date_line(self.longitude))
        return np.diff(eastward, append=eastward[:1] + 360.0)

    @cached_property
    def _column_bounds(self) -> NDArray[np.float64]:
        """Bounds of the cells of ``west_to_east``, one more than columns."""
        longitude = self.eastward_longitude
        middle = (longitude[1:] + longitude[:-1]) / 2.0
        if self.goes_round:
            seam = (longitude[-1] + longitude[0] + 360.0) / 2.0
            return np.concatenate([[seam - 360.0], middle, [seam]])
        if len(longitude) < 2:
            return np.repeat(longitude, 2)
        first, last = np.diff(longitude)[[0, -1]] / 2.0
        return np.concatenate([[longitude[0] - first], middle, [longitude[-1] + last]])

    def without_south_pole(self) -> Grid:
        """The grid without a row at the south pole; the same where there is none."""
        return Grid(self.latitude[self.latitude > _TOLERANCE_DEGREES - 90.0], self.longitude)

    def __str__(self) -> str:
        return (
            f"{len(self.latitude)}×{len(self.longitude)}, latitude {self.latitude[0]:g} to "
            f"{self.latitude[-1]:g}, longitude {self.longitude[0]:g} to {self.longitude[-1]:g}"
        )


@dataclass(frozen=True)
class Placement:
    """The rows and columns of a wanted grid, by their indices in a data set's own grid."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]

    @classmethod
    def identity(cls, grid: Grid) -> Placement:
        """The placement of a grid on itself."""
        return cls(np.arange(len(grid.latitude)), np.arange(len(grid.longitude)))

    def __call__(self, fields: NDArray[np.float32]) -> NDArray[np.float32]:
        """Put fields ``(..., row, column)`` onto the wanted grid; a view where that is enough."""
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


def area_name(grid: Grid) -> str:
    """The part of the globe between a grid's outermost points, as in ``15N-75N 20W-45E``.

    Without longitudes where columns go all round: ``30S-30N``.
    """
    south, north = float(grid.latitude.min()), float(grid.latitude.max())
    words = [_span(south, north, _north)]
    if not grid.goes_round:
        west, east = grid.eastward_longitude[[0, -1]]
        words.append(_span(float(west), float(east), _east))
    return " ".join(words)


def _span(first: float, last: float, say: Callable[[float], str]) -> str:
    return say(first) if first == last else f"{say(first)}-{say(last)}"


def _north(degrees: float) -> str:
    rounded = round(degrees, 3)
    return f"{abs(rounded):g}{'S' if rounded < 0.0 else 'N'}"


def _east(degrees: float) -> str:
    rounded = round((degrees + 180.0) % 360.0 - 180.0, 3)
    if rounded == -180.0:
        return "180E"
    return f"{abs(rounded):g}{'W' if rounded < 0.0 else 'E'}"


def _from_date_line(longitude: NDArray[np.float64]) -> NDArray[np.float64]:
    """Longitudes in [−180, 180), degrees."""
    wrapped = (longitude + 180.0) % 360.0 - 180.0
    # A hair below −180 the remainder rounds to a full circle.
    return np.where(wrapped >= 180.0, -180.0, wrapped)


def as_slice(indices: NDArray[np.intp]) -> Index:
    """Indices as a slice, forward or backward, where they are one: that makes no copy."""
    step = int(indices[1] - indices[0]) if len(indices) > 1 else 1
    if step not in (-1, 1) or not (np.diff(indices) == step).all():
        return indices
    stop = int(indices[-1]) + step
    return slice(int(indices[0]), None if stop < 0 else stop, step)


def find_placement(wanted: Grid, data_grid: Grid) -> Placement | None:
    """Find the rows and columns of a wanted grid in a data set's; None where they do not match.

    They may be in another order there, and there may be one row more, at the south pole.
    """
    for candidate in (data_grid, data_grid.without_south_pole()):
        if candidate.shape == wanted.shape:
            rows = _match(data_grid.latitude, wanted.latitude, None)
            columns = _match(data_grid.longitude, wanted.longitude, 360.0)
            if rows is not None and columns is not None:
                return Placement(rows, columns)
    return None


def _match(
    own: NDArray[np.float64], wanted: NDArray[np.float64], period: float | None
) -> NDArray[np.intp] | None:
    """The index in ``own`` of each coordinate ``wanted``; None where they do not match."""
    if period is not None:
        own, wanted = own % period, wanted % period
    order = np.argsort(own, kind="stable")
    places = own[order]
    if period is not None:  # round the circle, the last is the first's neighbour
        places = np.concatenate([places[-1:] - period, places, places[:1] + period])
        order = np.concatenate([order[-1:], order, order[:1]])
    after = np.minimum(np.searchsorted(places, wanted), len(places) - 1)
    before = np.maximum(after - 1, 0)
    is_before = np.abs(wanted - places[before]) <= np.abs(places[after] - wanted)
    nearest = np.where(is_before, before, after)
    indices: NDArray[np.intp] = order[nearest]
    apart = np.abs(places[nearest] - wanted)
    if apart.max() > _TOLERANCE_DEGREES or len(np.unique(indices)) < len(wanted):
        return None
    return indices
