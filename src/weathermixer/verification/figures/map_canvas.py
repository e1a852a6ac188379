"""Fields as pictures on the Equal Earth projection, and the coastlines over them.

A canvas shows the globe, or the part of it that a grid covers. A field is interpolated between
grid points by cubic splines. The projection is simple to invert because a line of pixels is a
circle of latitude.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import map_coordinates, uniform_filter

from weathermixer.data.grid import Grid
from weathermixer.verification.figures.coastlines import coastlines
from weathermixer.verification.figures.colour_classes import ColourClasses, nice
from weathermixer.verification.figures.projection import equal_earth

Values = NDArray[np.float64]

LARGEST_SIDE = 640  # pixels
_OVERLAP = 4  # columns
_SMALLEST_DETAIL = 0.7  # pixels
_MARGIN_DEGREES = 2.0  # around what is shown, so that coastlines run out of the picture
_LINES_OF_GRATICULE = 4


@dataclass(frozen=True)
class MapCanvas:
    """Pixels of a map of what a grid covers, and where each lies on the sphere, in degrees.

    ``latitude (row,)``; ``longitude (row, column)`` increases eastward without a jump and is NaN
    outside of what the grid covers. ``pixels_per_radius`` are the scales across and downwards,
    equal but for whole pixels; ``top`` is the map coordinate of the upper edge.
    """

    grid: Grid
    latitude: Values
    longitude: Values
    pixels_per_radius: tuple[float, float]
    top: float

    @classmethod
    def of(cls, grid: Grid) -> Self:
        """The canvas for fields on a grid, whose cells must have an area."""
        assert grid.has_area
        south, north = grid.latitude_extent
        west, east = grid.longitude_extent
        half = (east - west) / 2.0
        # The map is widest where it is nearest to the equator.
        widest = min(max(south, 0.0), north)
        half_width = float(equal_earth(np.array([half]), np.array([widest]))[0][0])
        bottom, top = (
            float(equal_earth(np.zeros(1), np.array([at]))[1][0]) for at in (south, north)
        )
        half_height = (top - bottom) / 2.0
        scale = LARGEST_SIDE / 2.0 / max(half_width, half_height)
        width, height = (2 * max(1, round(scale * side)) for side in (half_width, half_height))
        y = (top + bottom) / 2.0 + half_height * (1.0 - (2.0 * np.arange(height) + 1.0) / height)
        x = half_width * ((2.0 * np.arange(width) + 1.0) / width - 1.0)
        # y grows with latitude and does not depend on longitude: a table inverts it.
        latitudes = np.linspace(-90.0, 90.0, 18001)
        latitude = np.interp(y, equal_earth(np.zeros_like(latitudes), latitudes)[1], latitudes)
        half_rows = equal_earth(np.full_like(latitude, 180.0), latitude)[0]
        from_centre = 180.0 * x / half_rows[:, None]
        longitude = np.where(np.abs(from_centre) <= half, from_centre + (west + east) / 2.0, np.nan)
        scales = width / 2.0 / half_width, height / 2.0 / half_height
        return cls(grid, latitude, longitude, scales, top)

    @property
    def width(self) -> int:
        """Width of the map in pixels."""
        return self.longitude.shape[1]

    @property
    def height(self) -> int:
        """Height of the map in pixels."""
        return self.longitude.shape[0]

    def draw(self, field: NDArray[np.floating]) -> Values:
        """Interpolate a field ``(latitude, longitude)`` to pixels ``(row, column)``; NaN beyond."""
        grid = self.grid
        northward = np.argsort(grid.latitude)
        values = np.asarray(field, np.float64)[northward][:, grid.west_to_east]
        # Averages of what falls into one pixel, where the grid is finer than the picture.
        size = [
            max(1, round(points / pixels))
            for points, pixels in zip(values.shape, self.longitude.shape, strict=True)
        ]
        around = "wrap" if grid.goes_round else "nearest"
        values = uniform_filter(values, size, mode=("nearest", around))
        degree = 1 if max(size) > 1 else 3
        longitude = grid.eastward_longitude
        if grid.goes_round:
            # Some columns twice, so that the interpolation sees no seam.
            repeated = min(_OVERLAP, len(longitude))
            ends = longitude[-repeated:] - 360.0, longitude, longitude[:repeated] + 360.0
            longitude = np.concatenate(ends)
            values = np.pad(values, ((0, 0), (repeated, repeated)), mode="wrap")
        inside = np.isfinite(self.longitude)
        row = np.interp(self.latitude, grid.latitude[northward], np.arange(len(northward)))
        column = np.interp(self.longitude[inside], longitude, np.arange(len(longitude)))
        rows = np.broadcast_to(row[:, None], self.longitude.shape)[inside]
        picture = np.full(self.longitude.shape, np.nan)
        picture[inside] = map_coordinates(values, [rows, column], order=degree, mode="nearest")
        return picture

    def coastlines(self) -> list[Values]:
        """The coastlines as polylines ``(point, 2)`` in pixels from the upper left corner.

        They may run a little beyond what is shown.
        """
        return [self._pixels(*line.T) for line in self._visible_coastlines()]

    def outline(self) -> Values:
        """The outline of what is shown, a closed polygon ``(point, 2)`` in pixels."""
        south, north = self.grid.latitude_extent
        west, east = self.grid.longitude_extent
        northward, eastward = np.linspace(south, north, 91), np.linspace(west, east, 91)
        longitude = [np.full(91, west), eastward, np.full(91, east), eastward[::-1]]
        latitude = [northward, np.full(91, north), northward[::-1], np.full(91, south)]
        return self._pixels(np.concatenate(longitude), np.concatenate(latitude))

    def graticule(self) -> list[Values]:
        """A few parallels and meridians at round degrees, as polylines ``(point, 2)`` in pixels."""
        south, north = self.grid.latitude_extent
        west, east = self.grid.longitude_extent
        if self.grid.is_global:
            parallels, meridians = np.arange(-60.0, 61.0, 30.0), np.arange(-120.0, 121.0, 60.0)
        else:
            parallels, meridians = _round_between(south, north), _round_between(west, east)
        lines = [(np.full(61, lon), np.linspace(south, north, 61)) for lon in meridians]
        lines += [(np.linspace(west, east, 61), np.full(61, lat)) for lat in parallels]
        return [self._pixels(*line) for line in lines]

    def _visible_coastlines(self) -> Iterator[Values]:
        """Coastlines ``(point, 2)``, longitude running on like the canvas's own, and latitude."""
        if self.grid.goes_round:
            yield from coastlines()
            return
        south, north = self.grid.latitude_extent
        west, east = self.grid.longitude_extent
        for line in coastlines():
            for turn in (-360.0, 0.0, 360.0):
                longitude, latitude = line[:, 0] + turn, line[:, 1]
                near = (longitude > west - _MARGIN_DEGREES) & (longitude < east + _MARGIN_DEGREES)
                near &= (latitude > south - _MARGIN_DEGREES) & (latitude < north + _MARGIN_DEGREES)
                # The neighbours of a point nearby belong to its line.
                kept = near | np.append(near[1:], False) | np.append(False, near[:-1])
                ends = np.flatnonzero(np.diff(kept)) + 1
                pieces = np.split(np.column_stack([longitude, latitude]), ends)
                yield from pieces[0 if kept[0] else 1 :: 2]

    def _pixels(self, longitude: Values, latitude: Values) -> Values:
        """Points ``(point, 2)`` in pixels from the upper left corner."""
        west, east = self.grid.longitude_extent
        x, y = equal_earth(longitude - (west + east) / 2.0, latitude)
        across, down = self.pixels_per_radius
        return np.column_stack([self.width / 2.0 + across * x, down * (self.top - y)])


def as_image(pictures: Sequence[Values], classes: ColourClasses) -> str:
    """Join pictures, one above the other, into a PNG in a ``data:`` URL, transparent outside."""
    stacked = np.concatenate(pictures)
    outside = np.isnan(stacked)
    indices = classes.classify(np.where(outside, 0.0, stacked))
    transparent = len(classes.colours)
    indices[outside] = transparent
    image = Image.fromarray(indices, mode="P")
    image.putpalette(b"".join(bytes.fromhex(colour[1:]) for colour in classes.colours) + b"\0\0\0")
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=6, transparency=transparent)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def as_svg_path(lines: Sequence[Values]) -> str:
    """Polylines as the ``d`` of an SVG path, to a tenth of a pixel, without smaller details."""
    return "".join(map(_svg_line, lines))


def _svg_line(points: Values) -> str:
    """A polyline, each point relative to the one before."""
    kept = [points[0]]
    for point in points[1:-1]:
        if np.hypot(*(point - kept[-1])) >= _SMALLEST_DETAIL:
            kept.append(point)
    tenths = np.round(10.0 * np.array([*kept, points[-1]])).astype(int)
    steps = np.diff(tenths, axis=0)
    words = "".join(f"{dx / 10:g} {dy / 10:g} " for dx, dy in steps.tolist())
    return f"M{tenths[0, 0] / 10:g} {tenths[0, 1] / 10:g}l{words.strip()}"


def _round_between(low: float, high: float) -> Values:
    """A few multiples of a round number between two."""
    step = nice((high - low) / _LINES_OF_GRATICULE)
    return np.arange(np.ceil(low / step), np.floor(high / step) + 1.0) * step
