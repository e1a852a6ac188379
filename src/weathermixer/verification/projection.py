"""The Equal Earth map projection, and cells of a latitude-longitude grid on it.

Equal areas on the map are equal areas on the sphere, as they are in the scores.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

# Šavrič, Patterson and Jenny 2019, "The Equal Earth map projection",
# doi:10.1080/13658816.2018.1504949
_A1, _A2, _A3, _A4 = 1.340264, -0.081106, 0.000893, 0.003796


def equal_earth(longitude: Values, latitude: Values) -> tuple[Values, Values]:
    """Map coordinates x and y, in radii of the sphere, of points in degrees."""
    theta = np.arcsin(np.sqrt(3.0) / 2.0 * np.sin(np.deg2rad(latitude)))
    slope = 9.0 * _A4 * theta**8 + 7.0 * _A3 * theta**6 + 3.0 * _A2 * theta**2 + _A1
    x = 2.0 * np.sqrt(3.0) * np.deg2rad(longitude) * np.cos(theta) / (3.0 * slope)
    y = _A4 * theta**9 + _A3 * theta**7 + _A2 * theta**3 + _A1 * theta
    return x, y


class Cells(NamedTuple):
    """The cells of a grid from pole to pole and from 180° west to 180° east.

    ``rows`` and ``columns`` put a field in their order; the column that the date line cuts stands
    at both ends. ``latitude_bounds`` and ``longitude_bounds`` are degrees, one more than cells.
    """

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    latitude_bounds: Values
    longitude_bounds: Values

    def arrange(self, field: NDArray[np.floating]) -> NDArray[np.floating]:
        """A field ``(latitude, longitude)`` in the cells' order."""
        return field[self.rows[:, None], self.columns]

    def corners(self) -> tuple[Values, Values]:
        """Map coordinates of the cells' corners, ``(latitude + 1, longitude + 1)`` each."""
        return equal_earth(*np.meshgrid(self.longitude_bounds, self.latitude_bounds))


def cells_of(latitude: Values, longitude: Values) -> Cells:
    """The cells of a global grid: bounds at midpoints, and at the poles."""
    rows = np.argsort(latitude)
    ordered = latitude[rows]
    latitude_bounds = np.concatenate([[-90.0], (ordered[1:] + ordered[:-1]) / 2.0, [90.0]])

    wrapped = (longitude + 180.0) % 360.0 - 180.0
    columns = np.argsort(wrapped)
    west_to_east = wrapped[columns]
    inner = (west_to_east[1:] + west_to_east[:-1]) / 2.0
    seam = (west_to_east[-1] - 360.0 + west_to_east[0]) / 2.0
    if seam < -180.0:  # the first column reaches across the date line
        columns = np.append(columns, columns[0])
        inner = np.append(inner, seam + 360.0)
    elif seam > -180.0:
        columns = np.insert(columns, 0, columns[-1])
        inner = np.insert(inner, 0, seam)
    return Cells(rows, columns, latitude_bounds, np.concatenate([[-180.0], inner, [180.0]]))
