"""The scores by definition, one number at a time, in plain Python and float64.

``f``, ``o`` and ``c`` are forecasts, truth and climatology ``(time, latitude, longitude)`` of one
channel at one lead time.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np


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


def area_mean(field: Any, latitude: Any) -> float:
    weights = cell_weights(latitude)
    values = np.asarray(field, dtype=np.float64)
    terms = [
        weights[row] * float(values[row, column])
        for row in range(values.shape[0])
        for column in range(values.shape[1])
    ]
    return math.fsum(terms) / len(terms)


def rmse(f: Any, o: Any, latitude: Any) -> float:
    return math.sqrt(_mean([area_mean((a - b) ** 2, latitude) for a, b in _pairs(f, o)]))


def bias(f: Any, o: Any, latitude: Any) -> float:
    return _mean([area_mean(a - b, latitude) for a, b in _pairs(f, o)])


def acc(f: Any, o: Any, c: Any, latitude: Any) -> float:
    per_time = []
    for (a, b), (_, d) in zip(_pairs(f, o), _pairs(f, c), strict=True):
        covariance = area_mean((a - d) * (b - d), latitude)
        variances = area_mean((a - d) ** 2, latitude) * area_mean((b - d) ** 2, latitude)
        per_time.append(covariance / math.sqrt(variances))
    return _mean(per_time)


def activity(f: Any, c: Any, latitude: Any) -> float:
    return rmse(f, c, latitude)


def _pairs(first: Any, second: Any) -> list[tuple[Any, Any]]:
    both = (np.asarray(each, dtype=np.float64) for each in (first, second))
    return list(zip(*both, strict=True))


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
