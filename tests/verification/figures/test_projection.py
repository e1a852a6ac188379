from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from weathermixer.data.statistics import cell_area_weights
from weathermixer.verification.projection import cells_of, equal_earth

GRIDS = {
    "longitudes from 0": (np.linspace(-87.0, 87.0, 30), np.arange(64) * 5.625),
    "centres beside the date line": (np.linspace(90.0, -90.0, 31), -177.0 + np.arange(60) * 6.0),
    "the date line inside a cell": (np.linspace(-88.0, 88.0, 20), 2.0 + np.arange(60) * 6.0),
}


def _polygon_areas(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Areas of the quadrilaterals between corners, by the shoelace formula."""
    corners = [(x[a, b], y[a, b]) for a, b in _CORNERS]
    following = [*corners[1:], corners[0]]
    return 0.5 * sum(
        x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(corners, following, strict=True)
    )


_LOW, _HIGH = slice(None, -1), slice(1, None)
_CORNERS = [(_LOW, _LOW), (_LOW, _HIGH), (_HIGH, _HIGH), (_HIGH, _LOW)]


@pytest.mark.parametrize(("latitude", "longitude"), GRIDS.values(), ids=GRIDS)
def test_cells_on_the_map_have_the_areas_of_cells_on_the_sphere(
    latitude: NDArray[np.float64], longitude: NDArray[np.float64]
) -> None:
    cells = cells_of(latitude, longitude)
    areas = _polygon_areas(*cells.corners())
    expected = 4.0 * np.pi * cell_area_weights(np.sort(latitude))
    np.testing.assert_allclose(areas.sum(axis=1), expected, rtol=2e-3)


@pytest.mark.parametrize(("latitude", "longitude"), GRIDS.values(), ids=GRIDS)
def test_every_cell_holds_the_value_of_its_own_place(
    latitude: NDArray[np.float64], longitude: NDArray[np.float64]
) -> None:
    cells = cells_of(latitude, longitude)
    field = latitude[:, None] + 1j * longitude
    arranged = cells.arrange(field)
    low, high = cells.longitude_bounds[:-1], cells.longitude_bounds[1:]
    assert (low < high).all() and low[0] == -180.0 and high[-1] == 180.0
    centre = (low + high) / 2.0
    apart = np.abs((arranged[0].imag - centre + 180.0) % 360.0 - 180.0)
    assert apart.max() <= 0.5 * np.diff(np.sort(longitude)).max() + 1e-9
    assert (np.diff(arranged[:, 0].real) > 0.0).all()


def test_the_equator_and_the_poles_are_where_equal_earth_puts_them() -> None:
    x, y = equal_earth(np.array([180.0, 0.0, 180.0]), np.array([0.0, 90.0, 90.0]))
    # As published: a pole is 0.59 times as long as the equator, the map 2.05 times as wide as high.
    assert x[1] == 0.0
    assert x[2] / x[0] == pytest.approx(0.59, abs=5e-3)
    assert x[0] / y[1] == pytest.approx(2.05, abs=5e-3)
    assert y[0] == 0.0
    assert y[1] == y[2]
