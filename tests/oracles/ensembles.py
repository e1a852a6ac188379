"""Scores of ensembles by their definitions, in float64: sums over members and pairs of members.

Arrays are ``x (time, member, latitude, longitude)`` and ``o (time, latitude, longitude)``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from oracles.scores import area_mean


def fair_crps(x: Any, o: Any, latitude: Any) -> float:
    """Ferro (2014): E|X − y| − E|X − X'| / 2, the latter over pairs of different members."""
    return _mean(x, o, latitude, lambda members, y: almost_fair_crps(members, y, alpha=1.0))


def almost_fair_crps(members: Any, y: Any, *, alpha: float) -> Any:
    """Lang et al. (2024), equation 4, of ``members (member, ...)``: α fair + (1 − α) unfair."""
    count = len(members)
    skill = sum(abs(one - y) for one in members) / count
    pairs = sum(abs(one - other) for one in members for other in members)
    fair = skill - pairs / (2 * count * (count - 1))
    unfair = skill - pairs / (2 * count * count)
    return alpha * fair + (1 - alpha) * unfair


def spread(x: Any, latitude: Any) -> float:
    """The root of the mean unbiased variance."""
    return math.sqrt(_mean(x, x[:, 0], latitude, lambda members, _: _variance(members)))


def spread_skill(x: Any, o: Any, latitude: Any) -> float:
    """Fortin et al. (2014): with (M + 1) / M, since the truth is no member's mean."""
    count = x.shape[1]
    error = _mean(x, o, latitude, lambda members, y: (sum(members) / count - y) ** 2)
    return spread(x, latitude) * math.sqrt((count + 1) / count / error)


def rank_histogram(x: Any, o: Any, latitude: Any) -> list[float]:
    """The area's share with each number of members below the truth; ties are split evenly."""

    def share(rank: int) -> Any:
        def of_time(members: Any, y: Any) -> Any:
            below = sum((one < y).astype(int) for one in members)
            equal = sum((one == y).astype(int) for one in members)
            return np.where((below <= rank) & (rank <= below + equal), 1 / (1 + equal), 0.0)

        return of_time

    return [_mean(x, o, latitude, share(rank)) for rank in range(x.shape[1] + 1)]


def _variance(members: Any) -> Any:
    mean = sum(members) / len(members)
    return sum((one - mean) ** 2 for one in members) / (len(members) - 1)


def _mean(x: Any, o: Any, latitude: Any, score: Any) -> float:
    x, o = np.asarray(x, dtype=np.float64), np.asarray(o, dtype=np.float64)
    values = [area_mean(score(members, y), latitude) for members, y in zip(x, o, strict=True)]
    return math.fsum(values) / len(values)
