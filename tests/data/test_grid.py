"""What a grid covers, by its points alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracles.scores import area_weights_of_region
from weathermixer.data.grid import Grid, area_name
from weathermixer.data.statistics import cell_area_weights

ROUND = np.arange(72.0) * 5.0
GAUSSIAN = np.degrees(np.arcsin(np.polynomial.legendre.leggauss(32)[0]))
WHOLE = {
    "with poles": (np.linspace(90.0, -90.0, 37), ROUND),
    "between poles": (np.linspace(-87.5, 87.5, 36), ROUND),
    "without the south pole": (np.linspace(90.0, -90.0, 37)[:-1], ROUND),
    "without either pole": (np.linspace(90.0, -90.0, 37)[1:-1], ROUND),
    "Gaussian": (GAUSSIAN, ROUND),
    "from the date line": (GAUSSIAN, ROUND - 180.0),
    "westward": (GAUSSIAN, ROUND[::-1]),
    "rotated": (GAUSSIAN, np.roll(ROUND, 17)),
    "with Greenwich twice": (GAUSSIAN, np.append(ROUND, 360.0)),
    "uneven": (GAUSSIAN, np.array([0.0, 50.0, 90.0, 140.0, 180.0, 230.0, 270.0, 320.0])),
}
PARTS = {
    "15N-75N 0E-45E": (np.arange(75.0, 14.0, -5.0), np.arange(0.0, 46.0, 5.0)),
    "30S-30N": (np.arange(-30.0, 31.0, 5.0), ROUND),
    "90S-90N 0E-45E": (np.linspace(-90.0, 90.0, 37), np.arange(0.0, 46.0, 5.0)),
    "87.5S-87.5N 10W-20E": (np.linspace(-87.5, 87.5, 36), np.arange(-10.0, 21.0, 5.0)),
    "40N-60N 20W-15E": (np.arange(40.0, 61.0, 2.5), np.arange(-20.0, 16.0, 5.0) % 360.0),
    "40S-0N 160E-150W": (np.arange(-40.0, 1.0, 5.0), np.arange(160.0, 211.0, 5.0)),
    "60N-90N 0E-90E": (np.arange(60.0, 91.0, 5.0), np.arange(0.0, 91.0, 10.0)),
    "90S-60S": (np.arange(-90.0, -59.0, 5.0), ROUND),
    "0N-90N": (np.linspace(0.0, 90.0, 19), ROUND),
}


@pytest.mark.parametrize("coordinates", WHOLE.values(), ids=WHOLE)
def test_grids_of_the_whole_globe_are_known(coordinates: tuple[np.ndarray, np.ndarray]) -> None:
    grid = Grid(*coordinates)
    assert grid.is_global
    assert grid.latitude_extent == (-90.0, 90.0)
    assert grid.longitude_extent == (-180.0, 180.0)


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_the_globe_are_named_after_their_outermost_points(name: str) -> None:
    grid = Grid(*PARTS[name])
    assert not grid.is_global
    assert area_name(grid) == name


@pytest.mark.parametrize("name", PARTS)
def test_cells_of_a_part_are_bounded_by_their_neighbours(name: str) -> None:
    latitude, longitude = PARTS[name]
    grid = Grid(latitude, longitude)
    south, north = grid.latitude_extent
    rows = cell_area_weights(latitude, south=south, north=north)
    eastward = np.unwrap(longitude, period=360.0)
    expected = area_weights_of_region(latitude, eastward)
    np.testing.assert_allclose(rows[:, None] * grid.column_shares, expected, rtol=1e-12)


@pytest.mark.parametrize("name", PARTS)
def test_order_makes_no_difference(name: str) -> None:
    latitude, longitude = PARTS[name]
    grid, turned = Grid(latitude, longitude), Grid(latitude[::-1], np.roll(longitude[::-1], 3))
    assert area_name(turned) == name
    assert turned.latitude_extent == grid.latitude_extent
    assert turned.longitude_extent == pytest.approx(grid.longitude_extent)
    np.testing.assert_allclose(turned.eastward_longitude, grid.eastward_longitude)


def test_extents_are_half_a_spacing_beyond_and_never_beyond_a_pole() -> None:
    box = Grid(np.array([10.0, 20.0, 40.0]), np.array([350.0, 0.0, 20.0]))
    assert box.latitude_extent == (5.0, 50.0)
    assert box.longitude_extent == (-15.0, 30.0)
    np.testing.assert_allclose(box.column_shares, np.array([10.0, 15.0, 20.0]) / 45.0)
    assert Grid(np.array([80.0, 90.0]), ROUND).latitude_extent == (75.0, 90.0)
    assert Grid(np.array([70.0, 85.0]), ROUND).latitude_extent == (62.5, 90.0)


def test_a_single_row_or_column_has_no_width() -> None:
    row, column = Grid(np.array([45.0]), ROUND[:5]), Grid(GAUSSIAN, np.array([200.0]))
    for grid, name in ((row, "45N 0E-20E"), (column, "85.761S-85.761N 160W")):
        assert not grid.has_area and not grid.is_global
        assert area_name(grid) == name
    assert row.latitude_extent == (45.0, 45.0)
    assert cell_area_weights(row.latitude, south=45.0, north=45.0).tolist() == [1.0]
    assert column.column_shares.tolist() == [1.0]


@given(st.integers(3, 90), st.integers(0, 359), st.booleans())
def test_a_grid_that_lacks_one_column_does_not_go_round(
    columns: int, lacking: int, westward: bool
) -> None:
    longitude = np.arange(columns) * 360.0 / columns
    assert Grid(GAUSSIAN, longitude).goes_round
    poorer = np.delete(longitude, lacking % columns)[:: -1 if westward else 1]
    if columns > 3:
        assert not Grid(GAUSSIAN, poorer).goes_round


def test_the_halves_of_a_globe_weigh_as_much_as_the_whole() -> None:
    for latitude, _ in WHOLE.values():
        half = Grid(latitude, ROUND[:36])
        south, north = half.latitude_extent
        weights = cell_area_weights(latitude, south=south, north=north)
        np.testing.assert_array_equal(weights, cell_area_weights(latitude))
