"""The scores by definition, one number at a time, in plain Python and float64.

``f``, ``o`` and ``c`` are forecasts, truth and climatology ``(time, latitude, longitude)`` of one
channel at one lead time; ``bounds`` are the southernmost and northernmost latitude of a region.
"""

from __future__ import annotations

import cmath
import math
from typing import Any

import numpy as np

GLOBE = (-90.0, 90.0)


def cell_weights(latitude: Any) -> list[float]:
    """sin(upper) − sin(lower) of each row's cell, with mean 1, for rows in any order."""
    degrees = [float(value) for value in latitude]
    raw = []
    for value in degrees:
        above = [other for other in degrees if other > value]
        below = [other for other in degrees if other < value]
        upper = (value + min(above)) / 2 if above else 90.0
        lower = (value + max(below)) / 2 if below else -90.0
        raw.append(math.sin(math.radians(upper)) - math.sin(math.radians(lower)))
    return [value * len(raw) / sum(raw) for value in raw]


def area_weights_of_region(latitude: Any, longitude: Any) -> Any:
    """The area of each cell ``(latitude, longitude)`` of a part of the globe, with sum 1.

    Cells end at the midpoints between points; outermost ones half a spacing beyond, and at a pole.
    Longitudes run eastward. A single row or column is as wide as any other.
    """
    rows = [math.sin(math.radians(high)) - math.sin(math.radians(low))
            for low, high in _cells(latitude, -90.0, 90.0)]  # fmt: skip
    columns = [high - low for low, high in _cells(longitude, -math.inf, math.inf)]
    areas = [[height * width for width in columns] for height in rows]
    total = math.fsum(area for row in areas for area in row)
    return [[area / total for area in row] for row in areas]


def region_rmse(f: Any, o: Any, weights: Any) -> float:
    """The root of the mean over times of the mean squared error by the cells' areas."""
    return math.sqrt(_mean([_weighted((a - b) ** 2, weights) for a, b in _pairs(f, o)]))


def region_bias(f: Any, o: Any, weights: Any) -> float:
    """The mean over times of the mean error by the cells' areas."""
    return _mean([_weighted(a - b, weights) for a, b in _pairs(f, o)])


def region_mean_absolute_error(f: Any, o: Any, weights: Any) -> float:
    """The mean over times of the mean absolute error by the cells' areas."""
    return _mean([_weighted(abs(a - b), weights) for a, b in _pairs(f, o)])


def row_mean(rows: Any, latitude: Any, bounds: tuple[float, float]) -> float:
    """The mean of one number for each row, by the area of the rows that lie within the bounds."""
    inside = [
        (weight, float(value))
        for weight, value, degrees in zip(cell_weights(latitude), rows, latitude, strict=True)
        if bounds[0] <= float(degrees) <= bounds[1]
    ]
    total = math.fsum(weight for weight, _ in inside)
    return math.fsum(weight * value for weight, value in inside) / total


def area_mean(field: Any, latitude: Any, bounds: tuple[float, float] = GLOBE) -> float:
    values = np.asarray(field, dtype=np.float64)
    return row_mean([math.fsum(row) / len(row) for row in values], latitude, bounds)


def rmse(f: Any, o: Any, latitude: Any, bounds: tuple[float, float] = GLOBE) -> float:
    return math.sqrt(_mean([area_mean((a - b) ** 2, latitude, bounds) for a, b in _pairs(f, o)]))


def bias(f: Any, o: Any, latitude: Any, bounds: tuple[float, float] = GLOBE) -> float:
    return _mean([area_mean(a - b, latitude, bounds) for a, b in _pairs(f, o)])


def acc(f: Any, o: Any, c: Any, latitude: Any, bounds: tuple[float, float] = GLOBE) -> float:
    per_time = []
    for (a, b), (_, d) in zip(_pairs(f, o), _pairs(f, c), strict=True):
        covariance = area_mean((a - d) * (b - d), latitude, bounds)
        forecast, truth = (area_mean((each - d) ** 2, latitude, bounds) for each in (a, b))
        per_time.append(covariance / math.sqrt(forecast * truth))
    return _mean(per_time)


def activity(f: Any, c: Any, latitude: Any, bounds: tuple[float, float] = GLOBE) -> float:
    return rmse(f, c, latitude, bounds)


def spectrum(f: Any, latitude: Any, bounds: tuple[float, float] = GLOBE) -> list[float]:
    """By zonal wavenumber, m × the square of the field's unit: the sum over k and −k."""
    fields = np.asarray(f, dtype=np.float64)
    radius_m = (6357e3 + 6378e3) / 2
    columns = fields.shape[-1]
    result = []
    for k in range(columns // 2 + 1):
        per_time = []
        for field in fields:
            rows = []
            for degrees, row in zip(latitude, field, strict=True):
                circumference = 2 * math.pi * radius_m * math.cos(math.radians(float(degrees)))
                energy = sum(abs(_wave(row, n)) ** 2 for n in {k, -k % columns})
                rows.append(circumference * energy)
            per_time.append(row_mean(rows, latitude, bounds))
        result.append(_mean(per_time))
    return result


def _wave(row: Any, k: int) -> complex:
    count = len(row)
    terms = [
        float(value) * cmath.exp(-2j * math.pi * (k * place % count) / count)
        for place, value in enumerate(row)
    ]
    return sum(terms) / count


def _cells(points: Any, lowest: float, highest: float) -> list[tuple[float, float]]:
    """The bounds of each point's cell, for points that run either way."""
    values = [float(value) for value in points]
    if len(values) == 1:
        return [(0.0, 1.0)]
    cells = []
    for value in values:
        higher = [other for other in values if other > value]
        lower = [other for other in values if other < value]
        above = min(higher) if higher else 2 * value - max(lower)
        below = max(lower) if lower else 2 * value - min(higher)
        cells.append((max((value + below) / 2, lowest), min((value + above) / 2, highest)))
    return cells


def _weighted(field: Any, weights: Any) -> float:
    return math.fsum(
        weight * float(value)
        for row, values in zip(weights, field, strict=True)
        for weight, value in zip(row, values, strict=True)
    )


def _pairs(first: Any, second: Any) -> list[tuple[Any, Any]]:
    both = (np.asarray(each, dtype=np.float64) for each in (first, second))
    return list(zip(*both, strict=True))


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
