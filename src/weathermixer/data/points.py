"""A place on the globe, and the grid point that is nearest to it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from weathermixer.data.grid import Grid, area_name
from weathermixer.errors import UserError

_EARTH_RADIUS_KM = 6371.0
_TOLERANCE_DEGREES = 1e-3


@dataclass(frozen=True)
class Point:
    """A place at ``latitude``, degrees north, and ``longitude``, degrees east in [−180, 180)."""

    latitude: float
    longitude: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``LAT,LON`` in degrees; UserError where it is something else.

        >>> Point.parse("-33.9,151.2"), Point.parse("10, 200")
        (Point(latitude=-33.9, longitude=151.2), Point(latitude=10.0, longitude=-160.0))
        """
        try:
            latitude, longitude = (float(word) for word in text.split(","))
        except ValueError:
            latitude = longitude = math.nan
        if not (math.isfinite(latitude) and math.isfinite(longitude)):
            raise UserError(
                f"{text!r} is no point: write latitude and longitude in degrees with a comma "
                "between them, 52.5,13.4 say"
            )
        if abs(latitude) > 90.0:
            raise UserError(
                f"{text!r} is no point: its latitude, {latitude:g}, is beyond 90 degrees; latitude "
                "comes first"
            )
        if not -180.0 <= longitude <= 360.0:
            raise UserError(
                f"{text!r} is no point: its longitude, {longitude:g}, is not between -180 and 360 "
                "degrees"
            )
        return cls(latitude, _from_date_line(longitude))

    @classmethod
    def on(cls, grid: Grid, row: int, column: int) -> Self:
        """The place of a grid point."""
        return cls(float(grid.latitude[row]), _from_date_line(float(grid.longitude[column])))

    def nearest(self, grid: Grid) -> tuple[int, int]:
        """Row and column of the grid point that is nearest on the sphere.

        Raises UserError where the point lies outside of what the grid's cells cover.
        """
        south, north = grid.latitude_extent
        west, east = grid.longitude_extent
        inside = south - _TOLERANCE_DEGREES <= self.latitude <= north + _TOLERANCE_DEGREES
        eastward = (self.longitude - west + _TOLERANCE_DEGREES) % 360.0
        if not (inside and eastward <= east - west + 2.0 * _TOLERANCE_DEGREES):
            raise UserError(
                f"{self} lies outside of what the forecast covers, {area_name(grid)}: choose a "
                "point in it"
            )
        points = np.meshgrid(grid.latitude, grid.longitude, indexing="ij")
        row, column = np.unravel_index(self._distances(*points).argmin(), grid.shape)
        return int(row), int(column)

    def distance_km(self, other: Point) -> float:
        """The distance to another place along the sphere, in km."""
        place = np.array(other.latitude), np.array(other.longitude)
        return _EARTH_RADIUS_KM * float(self._distances(*place))

    def _distances(self, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
        """Angles on the sphere to other places, by the haversine formula, in radians."""
        north = np.deg2rad(latitude - self.latitude) / 2.0
        east = np.deg2rad(longitude - self.longitude) / 2.0
        cosines = np.cos(np.deg2rad(latitude)) * math.cos(math.radians(self.latitude))
        squared = np.sin(north) ** 2 + cosines * np.sin(east) ** 2
        return 2.0 * np.arcsin(np.sqrt(np.minimum(squared, 1.0)))

    def __str__(self) -> str:
        north = f"{abs(self.latitude):.4g}°{'S' if self.latitude < 0.0 else 'N'}"
        return f"{north} {abs(self.longitude):.5g}°{'W' if self.longitude < 0.0 else 'E'}"


def _from_date_line(longitude: float) -> float:
    """A longitude in [−180, 180), to a millionth of a degree."""
    return round((longitude + 180.0) % 360.0 - 180.0, 6)
