"""What the members of an ensemble are scored by, together: CRPS, spread, and the truth's rank.

With x₁ … x_M the members at a grid point, x̄ their mean, s² = Σ (xᵢ − x̄)² / (M − 1), o the truth,
⟨·⟩ the mean over a region's area and E[·] the mean over initial times:

    crps          E[⟨ Σᵢ |xᵢ − o| / M − Σᵢⱼ |xᵢ − xⱼ| / (2 M (M − 1)) ⟩]
    spread        sqrt(E[⟨s²⟩])
    spread_skill  sqrt((M + 1) / M · E[⟨s²⟩]) / sqrt(E[⟨(x̄ − o)²⟩])
    rank_k        E[⟨1 where k members are below o⟩]

The continuous ranked probability score is the fair one (Ferro 2014, doi:10.1002/qj.2270), as in
WeatherBench 2: its expectation does not depend on M. Of a single forecast it is the mean absolute
error. ``(M + 1) / M`` lets a perfect ensemble of any size have a spread-skill ratio of 1 (Fortin et
al. 2014, doi:10.1175/JHM-D-14-0008.1). All other scores of an ensemble are those of its mean.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from weathermixer.verification.comparison import Comparison
from weathermixer.verification.metrics import (
    SQUARED_ERROR,
    Metric,
    StatePair,
    Statistic,
    Values,
)
from weathermixer.verification.rank_histogram import RANK


def _crps(pair: StatePair) -> Values:
    if pair.members is None:
        return pair.mean(np.abs(pair.error))
    count = len(pair.members)
    score = np.abs(pair.members - pair.truth.field).mean(axis=0)
    # The sum over pairs of |xᵢ − xⱼ| counts the k-th smallest k − 1 times up and M − k times down.
    ordered = np.sort(pair.members, axis=0)
    for place, values in enumerate(ordered):
        score -= (2 * place + 1 - count) / (count * (count - 1)) * values
    return pair.mean(score)


def _variance(pair: StatePair) -> Values:
    if pair.members is None:
        return pair.undefined
    deviation = pair.members - pair.forecast
    return pair.mean(np.square(deviation).sum(axis=0) / (len(deviation) - 1))


def _expected_squared_error(pair: StatePair) -> Values:
    """The squared error that the mean has if the truth could be one more member: s² (M + 1) / M."""
    if pair.members is None:
        return pair.undefined
    return _variance(pair) * (1.0 + 1.0 / len(pair.members))


def _rank(pair: StatePair, rank: int, count: int) -> Values:
    """The share of the area with the truth at a rank; equal values share theirs evenly."""
    if pair.members is None or len(pair.members) != count:
        return pair.undefined
    lowest, highest = pair.ranks
    here = (lowest <= rank) & (rank <= highest)
    return pair.mean(here / (highest - lowest + 1.0))


def _ratio_of_roots(above: Values, below: Values) -> Values:
    ratio = np.full_like(below, np.nan)
    np.divide(above, below, out=ratio, where=below > 0.0)
    return np.sqrt(ratio)


VARIANCE = Statistic("variance", _variance)
EXPECTED_SQUARED_ERROR = Statistic("expected_squared_error", _expected_squared_error)

CRPS = Metric("crps", "CRPS", (Statistic("crps", _crps),), np.positive)
SPREAD = Metric("spread", "Spread", (VARIANCE,), np.sqrt)
SPREAD_SKILL = Metric(
    "spread_skill",
    "Spread-skill ratio",
    (EXPECTED_SQUARED_ERROR, SQUARED_ERROR),
    _ratio_of_roots,
    units="none",
)
ENSEMBLE_METRICS = (CRPS, SPREAD, SPREAD_SKILL)


def metrics_of(comparison: Comparison) -> tuple[Metric, ...]:
    """What the ensembles of a comparison are scored by besides; nothing where there is none."""
    if comparison.most_members == 1:
        return ()
    members = comparison.forecast.members
    return (*ENSEMBLE_METRICS, *(rank_metrics(members) if members else ()))


def rank_metrics(members: int) -> tuple[Metric, ...]:
    """The bins of the rank histogram of so many members: ``rank_0`` to ``rank_M``."""
    names = [f"{RANK}{rank}" for rank in range(members + 1)]
    return tuple(
        Metric(
            name,
            name,
            (Statistic(name, partial(_rank, rank=rank, count=members)),),
            np.positive,
            units="none",
        )
        for rank, name in enumerate(names)
    )
