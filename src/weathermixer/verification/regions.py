"""The parts of the globe that scores are given for, as WeatherBench 2 bounds them.

A row belongs to a region with the whole of its cell where its latitude lies within the bounds, both
of them included: cells are not cut (``SliceRegion`` of WeatherBench 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weathermixer.data.statistics import cell_area_weights

GLOBAL = "global"
BOUNDS = {
    GLOBAL: (-90.0, 90.0),
    "tropics": (-20.0, 20.0),
    "extratropics_north": (20.0, 90.0),
    "extratropics_south": (-90.0, -20.0),
}
_TOLERANCE_DEGREES = 1e-6


@dataclass(frozen=True)
class Regions:
    """``row_weights (region, latitude)``: each row's share of the area of each region."""

    names: tuple[str, ...]
    row_weights: NDArray[np.float64]

    @classmethod
    def of(cls, latitude: NDArray[np.float64]) -> Regions:
        """The regions that have any row of a grid, the globe first."""
        areas = cell_area_weights(latitude)
        weights = {}
        for name, (south, north) in BOUNDS.items():
            inside = latitude >= south - _TOLERANCE_DEGREES
            inside &= latitude <= north + _TOLERANCE_DEGREES
            if inside.any():
                weights[name] = np.where(inside, areas, 0.0) / areas[inside].sum()
        return cls(tuple(weights), np.stack(list(weights.values())))

    def mean(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Area means ``(region, channel)`` of means over rows ``(channel, latitude)``."""
        mean: NDArray[np.float64] = self.row_weights @ rows.T
        return mean
