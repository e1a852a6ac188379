"""Pictures of fields: each pixel shows what lies there, on the globe and on a part of it."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from weathermixer.data.grid import Grid
from weathermixer.verification.figures.colour_classes import ColourClasses
from weathermixer.verification.figures.map_canvas import (
    LARGEST_SIDE,
    MapCanvas,
    as_image,
    as_svg_path,
)
from weathermixer.verification.figures.projection import equal_earth

GLOBE = Grid(np.linspace(-87.5, 87.5, 36), np.arange(72.0) * 5.0)
PARTS = {
    "a box": Grid(np.arange(15.0, 76.0, 5.0), np.arange(0.0, 46.0, 5.0)),
    "a box across Greenwich": Grid(np.arange(60.0, 29.0, -2.0), np.arange(-20.0, 21.0, 2.0) % 360),
    "a box across the date line": Grid(np.arange(-40.0, 1.0, 2.0), np.arange(160.0, 211.0, 2.0)),
    "a band": Grid(np.arange(-30.0, 31.0, 5.0), np.arange(72.0) * 5.0),
    "a sector": Grid(np.linspace(-90.0, 90.0, 37), np.arange(10.0, 41.0, 5.0)),
    "a cap": Grid(np.arange(60.0, 91.0, 2.0), np.arange(72.0) * 5.0),
}


def _wave(north: np.ndarray, east: np.ndarray) -> np.ndarray:
    north, east = np.deg2rad(north), np.deg2rad(east)
    return np.cos(north) * np.sin(2.0 * east) + np.sin(north)


def test_pixels_lie_where_the_projection_puts_them() -> None:
    canvas = MapCanvas.of(GLOBE)
    assert canvas.width == LARGEST_SIDE
    latitude = np.broadcast_to(canvas.latitude[:, None], canvas.longitude.shape)
    inside = np.isfinite(canvas.longitude)
    x, y = equal_earth(canvas.longitude[inside], latitude[inside])
    rows, columns = np.nonzero(inside)
    half_width = equal_earth(np.array([180.0]), np.zeros(1))[0][0]
    pixel = 2.0 * half_width / canvas.width
    assert np.abs(x / pixel + canvas.width / 2 - 0.5 - columns).max() < 0.02
    assert np.abs(canvas.height / 2 - 0.5 - rows - y / pixel).max() < 0.5
    # Equal areas: the map is an area-weighted picture of the sphere.
    assert np.mean(np.sin(np.deg2rad(latitude[inside])) ** 2) == pytest.approx(1 / 3, abs=2e-3)


@pytest.mark.parametrize("origin", [0.0, -180.0, 5.0])
@pytest.mark.parametrize("is_northward", [True, False])
def test_a_smooth_field_is_drawn_as_it_is(origin: float, is_northward: bool) -> None:
    latitude = GLOBE.latitude[:: 1 if is_northward else -1]
    longitude = origin + np.arange(72.0) * 5.0
    canvas = MapCanvas.of(Grid(latitude, longitude))
    picture = canvas.draw(_wave(latitude[:, None], longitude))
    expected = _wave(canvas.latitude[:, None], canvas.longitude)
    away = np.abs(canvas.latitude) < 80.0
    assert np.array_equal(np.isnan(picture), np.isnan(canvas.longitude))
    assert np.nanmax(np.abs(picture - expected)[away]) < 2e-3


@pytest.mark.parametrize("grid", PARTS.values(), ids=PARTS)
def test_a_part_of_the_globe_fills_its_own_map(grid: Grid) -> None:
    canvas = MapCanvas.of(grid)
    assert max(canvas.width, canvas.height) == LARGEST_SIDE
    south, north = grid.latitude_extent
    assert south <= canvas.latitude.min() < canvas.latitude.max() <= north
    reached = np.nanmin(canvas.longitude), np.nanmax(canvas.longitude)
    assert reached == pytest.approx(grid.longitude_extent, abs=2.0)
    picture = canvas.draw(_wave(grid.latitude[:, None], grid.longitude))
    expected = _wave(canvas.latitude[:, None], canvas.longitude)
    # Between the outermost points and the bounds of their cells a field is drawn as constant.
    rows = (canvas.latitude >= grid.latitude.min()) & (canvas.latitude <= grid.latitude.max())
    rows &= np.abs(canvas.latitude) < 80.0
    within = rows[:, None] & np.isfinite(canvas.longitude)
    if not grid.goes_round:
        west, east = grid.eastward_longitude[[0, -1]]
        within &= (canvas.longitude >= west) & (canvas.longitude <= east)
    assert within.mean() > 0.2
    assert np.abs(picture - expected)[within].max() < 3e-2


@pytest.mark.parametrize("grid", [GLOBE, *PARTS.values()], ids=["the globe", *PARTS])
def test_lines_stay_within_the_picture(grid: Grid) -> None:
    canvas = MapCanvas.of(grid)
    outline = canvas.outline()
    assert outline.min() > -0.6
    assert (outline.max(axis=0) < np.array([canvas.width, canvas.height]) + 0.6).all()
    for line in canvas.graticule():
        assert line.min() > -0.6
        assert (line.max(axis=0) < np.array([canvas.width, canvas.height]) + 0.6).all()
    assert len(canvas.graticule()) >= 4
    numbers = re.findall(r"-?[0-9.]+", as_svg_path(canvas.coastlines()))
    assert len(numbers) > 40


def test_coastlines_are_drawn_where_they_are() -> None:
    """The southern tip of Africa, at 20.0° E and 34.8° S, on a box and on the globe."""
    for grid in (GLOBE, Grid(np.arange(-40.0, -9.0, 2.0), np.arange(10.0, 41.0, 2.0))):
        canvas = MapCanvas.of(grid)
        points = np.concatenate(canvas.coastlines())
        west, east = grid.longitude_extent
        x, y = equal_earth(np.array([20.0 - (west + east) / 2.0]), np.array([-34.8]))
        across, down = canvas.pixels_per_radius
        tip = np.array([canvas.width / 2 + across * x[0], down * (canvas.top - y[0])])
        assert np.hypot(*(points - tip).T).min() < 0.02 * across


def test_a_fine_grid_is_averaged() -> None:
    latitude, longitude = np.linspace(90, -90, 1201), np.arange(2560.0) * 360.0 / 2560
    checkered = np.indices((1201, 2560)).sum(axis=0) % 2
    picture = MapCanvas.of(Grid(latitude, longitude)).draw(checkered.astype(np.float32))
    assert np.nanmax(np.abs(picture - 0.5)) < 0.1


def test_an_image_holds_the_colours_of_its_classes_and_nothing_outside() -> None:
    classes = ColourClasses((0.0, 1.0), ("#000001", "#000002", "#000003"))
    above = np.array([[np.nan, -5.0, 0.5, 7.0]])
    url = as_image([above, above[:, ::-1]], classes)
    image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGBA")
    assert np.asarray(image)[:, :, 2].tolist() == [[0, 1, 2, 3], [3, 2, 1, 0]]
    assert np.asarray(image)[:, :, 3].tolist() == [[0, 255, 255, 255], [255, 255, 255, 0]]
