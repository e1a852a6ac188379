"""Places on the globe as users write them, and the grid points nearest to them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weathermixer.data.grid import Grid
from weathermixer.data.points import Point
from weathermixer.errors import UserError

GLOBE = Grid(np.linspace(90.0, -90.0, 7), np.arange(0.0, 360.0, 30.0))
REGION = Grid(np.arange(30.0, 61.0, 10.0), np.array([340.0, 350.0, 0.0, 10.0]))


def _unit_vector(latitude: float, longitude: float) -> np.ndarray:
    a, b = np.deg2rad([latitude, longitude])
    return np.array([np.cos(a) * np.cos(b), np.cos(a) * np.sin(b), np.sin(a)])


@given(latitude=st.floats(-90.0, 90.0), longitude=st.floats(-180.0, 360.0))
def test_the_nearest_grid_point_is_that_with_the_smallest_angle(
    latitude: float, longitude: float
) -> None:
    point = Point.parse(f"{latitude!r},{longitude!r}")
    here = _unit_vector(latitude, longitude)
    chords = {
        (row, column): float(np.linalg.norm(here - _unit_vector(a, b)))
        for row, a in enumerate(GLOBE.latitude)
        for column, b in enumerate(GLOBE.longitude)
    }
    found = point.nearest(GLOBE)
    assert chords[found] == pytest.approx(min(chords.values()), abs=1e-6)
    angle = 2.0 * np.arcsin(min(1.0, chords[found] / 2.0))
    assert point.distance_km(Point.on(GLOBE, *found)) == pytest.approx(6371.0 * angle, abs=0.1)


def test_a_region_takes_the_points_of_its_cells_alone() -> None:
    assert Point.parse("41,-6").nearest(REGION) == (1, 1)
    assert Point.parse("26,352").nearest(REGION) == (0, 1)
    assert str(Point.on(REGION, 3, 0)) == "60°N 20°W"
    for place in ("24,0", "66,0", "40,16", "40,-26", "-40,0", "40,170"):
        with pytest.raises(UserError, match=r"the forecast covers, 30N-60N 20W-10E: choose"):
            Point.parse(place).nearest(REGION)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Berlin", r"'Berlin' is no point: write latitude and longitude in degrees"),
        ("52.5", r"is no point: write latitude"),
        ("1,2,3", r"is no point: write latitude"),
        ("nan,0", r"is no point: write latitude"),
        ("95,10", r"its latitude, 95, is beyond 90 degrees; latitude comes first"),
        ("10,361", r"its longitude, 361, is not between -180 and 360 degrees"),
    ],
)
def test_what_is_no_point_is_said_in_a_sentence(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Point.parse(text)
