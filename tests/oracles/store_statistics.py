"""Area weights, statistics of a period, and a climatology: float64, two passes, explicit loops."""

from __future__ import annotations

import math
from datetime import date, datetime

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def area_weights(latitude: Array) -> Array:
    """Of rows in any order: each reaches halfway to its neighbours, the outermost to the poles."""
    weights = []
    for row in latitude:
        north = [other for other in latitude if other > row]
        south = [other for other in latitude if other < row]
        upper = (row + min(north)) / 2 if north else 90.0
        lower = (row + max(south)) / 2 if south else -90.0
        weights.append(math.sin(math.radians(upper)) - math.sin(math.radians(lower)))
    return np.array(weights) / 2.0


def mean_and_std(fields: Array, latitude: Array) -> tuple[float, float]:
    """Of one channel, ``(time, latitude, longitude)``."""
    weights = np.broadcast_to(area_weights(latitude)[None, :, None], fields.shape)
    mean = float((fields * weights).sum() / weights.sum())
    variance = float(((fields - mean) ** 2 * weights).sum() / weights.sum())
    return mean, math.sqrt(variance)


def increments(fields: Array, times: list[datetime], step_hours: float) -> Array:
    """Every change over exactly one step, ``(pair, latitude, longitude)``."""
    found = [
        fields[j] - fields[i]
        for i, earlier in enumerate(times)
        for j, later in enumerate(times)
        if (later - earlier).total_seconds() == step_hours * 3600
    ]
    return np.array(found)


def climatology(
    states: Array, times: list[datetime], day_of_year: int, hours: range | None = None
) -> Array:
    """Mean of ``states (time, ...)`` at the hours given, each weighted by 1 − distance in days/30.

    Distances are on a circle of 365 days; the 366th day of a leap year counts as the 365th.
    """
    total, weights = np.zeros(states.shape[1:]), 0.0
    for state, time in zip(states, times, strict=True):
        if hours is not None and time.hour not in hours:
            continue
        day = min((time.date() - date(time.year, 1, 1)).days + 1, 365)
        apart = abs(day - day_of_year)
        weight = max(0.0, 1.0 - min(apart, 365 - apart) / 30.0)
        total += weight * state
        weights += weight
    return total / weights
