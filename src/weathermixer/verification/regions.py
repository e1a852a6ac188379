"""The areas that scores are means over: the whole globe and parts of it, or what the data cover.

Data of the whole globe are scored over it and over the regions of WeatherBench 2. A row belongs to
a region with the whole of its cell where its latitude lies within the bounds, both of them
included: cells are not cut (``SliceRegion`` of WeatherBench 2). Data of a part of the globe are
scored over that part alone, which is called after its outermost points.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weathermixer.data.grid import Grid, area_name
from weathermixer.data.statistics import cell_area_weights

GLOBAL = "global"
BOUNDS = {
    GLOBAL: (-90.0, 90.0),
    "tropics": (-20.0, 20.0),
    "extratropics_north": (20.0, 90.0),
    "extratropics_south": (-90.0, -20.0),
}
_TITLES = {
    GLOBAL: "Globe",
    "tropics": "Tropics",
    "extratropics_north": "Northern extratropics",
    "extratropics_south": "Southern extratropics",
}
_POINT = re.compile(r"([\d.]+)([NSEW])")
_AREA_NAME = re.compile(r"[\d.]+[NS](-[\d.]+[NS])?( [\d.]+[EW](-[\d.]+[EW])?)?")
_TOLERANCE_DEGREES = 1e-6


@dataclass(frozen=True)
class Regions:
    """Areas on one grid, by name: the first is all that the grid covers.

    ``row_weights (region, latitude)`` are each row's share of the area of each region;
    ``column_shares (longitude,)`` each column's share of a row, None where all are equal.
    """

    names: tuple[str, ...]
    row_weights: NDArray[np.float64]
    column_shares: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, grid: Grid) -> Regions:
        """The regions of a grid: the globe and its parts with rows, or what the grid covers."""
        south, north = grid.latitude_extent
        areas = cell_area_weights(grid.latitude, south=south, north=north)
        column_shares = None if grid.has_equal_columns else grid.column_shares
        if not grid.is_global:
            return cls((area_name(grid),), areas[None], column_shares)
        weights = {}
        for name, (lowest, highest) in BOUNDS.items():
            inside = grid.latitude >= lowest - _TOLERANCE_DEGREES
            inside &= grid.latitude <= highest + _TOLERANCE_DEGREES
            if inside.any():
                weights[name] = np.where(inside, areas, 0.0) / areas[inside].sum()
        return cls(tuple(weights), np.stack(list(weights.values())), column_shares)

    def mean(self, field: NDArray[np.float64]) -> NDArray[np.float64]:
        """Area means ``(region, channel)`` of ``field (channel, latitude, longitude)``."""
        if self.column_shares is None:
            return self._mean_of_rows(field.mean(axis=-1))
        return self._mean_of_rows(np.vecdot(field, self.column_shares))

    def mean_product(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        """Area means ``(region, channel)`` of the product of two fields, without forming it."""
        if self.column_shares is None:
            return self._mean_of_rows(np.vecdot(a, b) / a.shape[-1])
        return self._mean_of_rows(np.vecdot(a * self.column_shares, b))

    def _mean_of_rows(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Area means ``(region, channel)`` of means over rows ``(channel, latitude)``."""
        mean: NDArray[np.float64] = self.row_weights @ rows.T
        return mean


def region_title(name: str) -> str:
    """A region in words: ``Northern extratropics``, or ``15°N to 75°N, 20°W to 45°E``."""
    if name in _TITLES:
        return _TITLES[name]
    if not _AREA_NAME.fullmatch(name):
        return name.replace("_", " ")
    words = name.replace(" ", ", ").replace("-", " to ")
    return _POINT.sub(r"\1°\2", words)


def over_region(name: str) -> str:
    """A region with its preposition: ``over the globe``, ``over 30°S to 30°N``."""
    title = region_title(name)
    return f"over the {title[0].lower()}{title[1:]}" if name in _TITLES else f"over {title}"
