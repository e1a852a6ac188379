"""Pictures of fields: every pixel shows what lies there."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from weathermixer.report import raster
from weathermixer.verification.projection import equal_earth


def test_pixels_lie_where_the_projection_puts_them() -> None:
    globe = raster.globe()
    latitude = np.broadcast_to(globe.latitude[:, None], globe.longitude.shape)
    inside = np.isfinite(globe.longitude)
    x, y = equal_earth(globe.longitude[inside], latitude[inside])
    rows, columns = np.nonzero(inside)
    half_width = equal_earth(np.array([180.0]), np.zeros(1))[0][0]
    pixel = 2.0 * half_width / raster.WIDTH
    assert np.abs(x / pixel + raster.WIDTH / 2 - 0.5 - columns).max() < 0.02
    assert np.abs(globe.height / 2 - 0.5 - rows - y / pixel).max() < 0.5
    # Equal areas: the map is an area-weighted picture of the sphere.
    assert np.mean(np.sin(np.deg2rad(latitude[inside])) ** 2) == pytest.approx(1 / 3, abs=2e-3)


@pytest.mark.parametrize("origin", [0.0, -180.0, 5.0])
@pytest.mark.parametrize("is_northward", [True, False])
def test_a_smooth_field_is_drawn_as_it_is(origin: float, is_northward: bool) -> None:
    latitude = np.linspace(-87.5, 87.5, 36)[:: 1 if is_northward else -1]
    longitude = origin + np.arange(72) * 5.0

    def wave(north: np.ndarray, east: np.ndarray) -> np.ndarray:
        north, east = np.deg2rad(north), np.deg2rad(east)
        return np.cos(north) * np.sin(2.0 * east) + np.sin(north)

    picture = raster.globe().draw(wave(latitude[:, None], longitude), latitude, longitude)
    expected = wave(raster.globe().latitude[:, None], raster.globe().longitude)
    away = np.abs(raster.globe().latitude) < 80.0
    assert np.array_equal(np.isnan(picture), np.isnan(raster.globe().longitude))
    assert np.nanmax(np.abs(picture - expected)[away]) < 2e-3


def test_a_fine_grid_is_averaged() -> None:
    latitude, longitude = np.linspace(90, -90, 1201), np.arange(2560) * 360.0 / 2560
    checkered = np.indices((1201, 2560)).sum(axis=0) % 2
    picture = raster.globe().draw(checkered.astype(np.float32), latitude, longitude)
    assert np.nanmax(np.abs(picture - 0.5)) < 0.1


def test_a_strip_holds_the_colours_of_its_classes_and_nothing_outside() -> None:
    bands = raster.Bands((0.0, 1.0), ("#000001", "#000002", "#000003"))
    above = np.array([[np.nan, -5.0, 0.5, 7.0]])
    url = raster.strip([above, above[:, ::-1]], bands)
    image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGBA")
    assert np.asarray(image)[:, :, 2].tolist() == [[0, 1, 2, 3], [3, 2, 1, 0]]
    assert np.asarray(image)[:, :, 3].tolist() == [[0, 255, 255, 255], [255, 255, 255, 0]]


@pytest.mark.parametrize("scale", [1e-6, 3.7, 5e4])
def test_bands_are_round_and_cover_the_values(scale: float) -> None:
    values = scale * np.random.default_rng(1).normal(size=5000)
    for bands in (raster.bands_of(values, "temperature"), raster.error_bands_of(values)):
        assert 8 <= len(bands.bounds) <= 24
        assert len(bands.colours) == len(bands.bounds) + 1
        assert list(bands.bounds) == sorted(bands.bounds)
        assert bands.bounds[0] > values.min()
    errors = raster.error_bands_of(values).bounds
    assert errors == tuple(-one for one in reversed(errors))


def test_fields_that_do_not_vary_have_bands_too() -> None:
    assert raster.bands_of(np.full(9, 3.0), "temperature").bounds
    assert raster.bands_of(np.zeros(9), "temperature").bounds
    assert raster.error_bands_of(np.zeros(9)).bounds
