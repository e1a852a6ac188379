"""Fields as pictures of a few colours on the Equal Earth projection, and the coastlines over them.

A field is interpolated between grid points by cubic splines, then cut into classes at round values:
bands of one colour, as on a printed chart, which also make small pictures. The projection is simple
to invert because a line of pixels is a circle of latitude.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import map_coordinates, uniform_filter

from weathermixer.verification.coastlines import coastlines
from weathermixer.verification.projection import equal_earth

Values = NDArray[np.float64]
Classes = NDArray[np.uint8]

WIDTH = 640
_NUM_BANDS = 16
_NUM_ERRORS = 13  # odd: the middle one is no error to speak of
_OVERLAP = 4  # columns; fewer than any grid has
_SMALLEST_DETAIL = 0.7  # pixels
_COLOURS = {
    "geopotential": "YlGnBu_r",
    "temperature": "RdYlBu_r",
    "2m_temperature": "RdYlBu_r",
    "specific_humidity": "GnBu",
    "mean_sea_level_pressure": "PRGn",
}
_WINDS = "PuOr_r"
_ERRORS = "RdBu_r"


@dataclass(frozen=True)
class Bands:
    """Classes of values: ``bounds`` between them, increasing, and a colour for each."""

    bounds: tuple[float, ...]
    colours: tuple[str, ...]

    def classify(self, values: NDArray[np.floating]) -> Classes:
        """Which class each value is of."""
        return np.searchsorted(self.bounds, values, side="right").astype(np.uint8)


def bands_of(values: NDArray[np.floating], variable: str) -> Bands:
    """About sixteen classes between the lowest and highest values that are not rare."""
    low, high = (float(one) for one in np.percentile(values, (0.5, 99.5)))
    is_wind = "component_of_wind" in variable
    if is_wind:
        high = max(abs(low), abs(high))
        low = -high
    step = nice((high - low) / _NUM_BANDS) if high > low else max(abs(high), 1.0)
    first = math.ceil(low / step + 1e-9)
    last = max(first, math.floor(high / step - 1e-9))
    bounds = tuple(round(step * index, 12) for index in range(first, last + 1))
    name = _WINDS if is_wind else _COLOURS.get(variable, "viridis")
    return Bands(bounds, _colours(name, len(bounds) + 1))


def error_bands_of(errors: NDArray[np.floating]) -> Bands:
    """Classes about zero that widen outwards, so that early errors and late ones both show."""
    largest = max(float(np.percentile(np.abs(errors), 99.7)), 1e-12)
    outer = [nice(largest / 1.6)]
    while len(outer) < _NUM_ERRORS // 2:
        outer.append(nice(outer[-1] / 1.9))
    bounds = (*(-one for one in outer), *reversed(outer))
    return Bands(bounds, _colours(_ERRORS, len(bounds) + 1))


def nice(value: float) -> float:
    """The nearest of 1, 2 and 5 times a power of ten.

    >>> [nice(value) for value in (0.9, 1.6, 37.0, 0.0052)]
    [1.0, 2.0, 50.0, 0.005]
    """
    power = 10.0 ** math.floor(math.log10(value))
    nearest = min((1.0, 2.0, 5.0, 10.0), key=lambda one: abs(math.log(one * power / value)))
    return float(f"{nearest * power:.1g}")


def _colours(name: str, number: int) -> tuple[str, ...]:
    chosen = colormaps[name](np.linspace(0.02, 0.98, number))
    return tuple("#" + "".join(f"{round(255 * part):02x}" for part in one[:3]) for one in chosen)


@dataclass(frozen=True)
class Globe:
    """Pixels of a map ``WIDTH`` wide, and where each lies on the sphere, in degrees.

    ``latitude (row,)``; ``longitude (row, column)``, NaN outside the globe.
    """

    latitude: Values
    longitude: Values

    @property
    def height(self) -> int:
        return len(self.latitude)

    def draw(
        self, field: NDArray[np.floating], latitude: Values, longitude: Values
    ) -> NDArray[np.float64]:
        """A field ``(latitude, longitude)`` of a global grid at each pixel; NaN outside."""
        northward = np.argsort(latitude)
        values = np.asarray(field, np.float64)[northward]
        # Averages of what falls into one pixel, where the grid is finer than the picture.
        size = [
            max(1, round(n / pixels)) for n, pixels in zip(values.shape, self._size, strict=True)
        ]
        values = uniform_filter(values, size, mode=("nearest", "wrap"))
        degree = 1 if max(size) > 1 else 3
        wrapped = longitude % 360.0
        columns = np.argsort(wrapped)
        # Some columns twice, so that the interpolation sees no seam.
        turns = np.pad(np.zeros(len(columns)), _OVERLAP, constant_values=1.0)
        turns[:_OVERLAP] = -1.0
        columns = np.pad(columns, _OVERLAP, mode="wrap")
        around = wrapped[columns] + 360.0 * turns
        values = values[:, columns]
        inside = np.isfinite(self.longitude)
        row = np.interp(self.latitude, latitude[northward], np.arange(len(northward)))
        column = np.interp(self.longitude[inside] % 360.0, around, np.arange(len(around)))
        rows = np.broadcast_to(row[:, None], self.longitude.shape)[inside]
        picture = np.full(self.longitude.shape, np.nan)
        picture[inside] = map_coordinates(values, [rows, column], order=degree, mode="nearest")
        return picture

    @property
    def _size(self) -> tuple[int, int]:
        return self.longitude.shape[0], self.longitude.shape[1]


@cache
def globe() -> Globe:
    """The pixels of every map."""
    half_width = float(equal_earth(np.array([180.0]), np.zeros(1))[0][0])
    half_height = float(equal_earth(np.zeros(1), np.array([90.0]))[1][0])
    height = 2 * round(WIDTH / 2 * half_height / half_width)
    y = half_height * (1.0 - (2.0 * np.arange(height) + 1.0) / height)
    x = half_width * ((2.0 * np.arange(WIDTH) + 1.0) / WIDTH - 1.0)
    # y grows with latitude and does not depend on longitude: a table inverts it.
    latitudes = np.linspace(-90.0, 90.0, 18001)
    latitude = np.interp(y, equal_earth(np.zeros_like(latitudes), latitudes)[1], latitudes)
    half_rows = equal_earth(np.full_like(latitude, 180.0), latitude)[0]
    longitude = 180.0 * x / half_rows[:, None]
    return Globe(latitude, np.where(np.abs(longitude) <= 180.0, longitude, np.nan))


def strip(pictures: Sequence[NDArray[np.floating]], bands: Bands) -> str:
    """Pictures one above the other as one image in a ``data:`` URL, transparent outside."""
    stacked = np.concatenate(pictures)
    outside = np.isnan(stacked)
    classes = bands.classify(np.where(outside, 0.0, stacked))
    transparent = len(bands.colours)
    classes[outside] = transparent
    image = Image.fromarray(classes, mode="P")
    image.putpalette(b"".join(bytes.fromhex(colour[1:]) for colour in bands.colours) + b"\0\0\0")
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=6, transparency=transparent)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


@cache
def land_path() -> str:
    """The coastlines as the ``d`` of an SVG path, in pixels of a map."""
    return "".join(_path(*line.T) for line in coastlines())


@cache
def grid_path() -> str:
    """Every thirtieth parallel and sixtieth meridian."""
    lines = [(np.full(61, float(east)), np.linspace(-90, 90, 61)) for east in range(-120, 121, 60)]
    lines += [(np.array([-180.0, 180.0]), np.full(2, float(north))) for north in range(-60, 61, 30)]
    return "".join(_path(longitude, latitude) for longitude, latitude in lines)


@cache
def edge_path() -> str:
    """The outline of the globe."""
    north = np.linspace(-90.0, 90.0, 91)
    east = np.concatenate([np.full(91, -180.0), np.full(91, 180.0)])
    return _path(east, np.concatenate([north, north[::-1]])) + "z"


def _path(longitude: Values, latitude: Values) -> str:
    """A line in tenths of a pixel, each point relative to the one before."""
    half_width = float(equal_earth(np.array([180.0]), np.zeros(1))[0][0])
    x, y = equal_earth(longitude, latitude)
    scale = WIDTH / 2.0 / half_width
    points = np.column_stack([WIDTH / 2.0 + scale * x, globe().height / 2.0 - scale * y])
    kept = [points[0]]
    for point in points[1:-1]:
        if np.hypot(*(point - kept[-1])) >= _SMALLEST_DETAIL:
            kept.append(point)
    tenths = np.round(10.0 * np.array([*kept, points[-1]])).astype(int)
    steps = np.diff(tenths, axis=0)
    words = "".join(f"{dx / 10:g} {dy / 10:g} " for dx, dy in steps.tolist())
    return f"M{tenths[0, 0] / 10:g} {tenths[0, 1] / 10:g}l{words.strip()}"
