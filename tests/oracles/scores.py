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


def _pairs(first: Any, second: Any) -> list[tuple[Any, Any]]:
    both = (np.asarray(each, dtype=np.float64) for each in (first, second))
    return list(zip(*both, strict=True))


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
