"""What the scores are: statistics of one pair of states, their sums, and functions of their means.

A *statistic* is an area mean over one forecast state and the state that it was meant to be. Sums
over pairs and their number are all that is kept, so partial results add, over parts of a forecast
or over ranks. A *metric* is a function of the statistics' means over initial times.

The definitions are those of WeatherBench 2 (Rasp et al. 2024, doi:10.1029/2023MS004019), with f a
forecast, o the truth, c the climatology at the same time, ⟨·⟩ the mean over the sphere's area and
E[·] the mean over initial times:

    rmse      sqrt(E[⟨(f − o)²⟩])
    bias      E[⟨f − o⟩]
    acc       E[ ⟨(f − c)(o − c)⟩ / sqrt(⟨(f − c)²⟩ ⟨(o − c)²⟩) ]     uncentred
    activity  sqrt(E[⟨(f − c)²⟩])

``activity`` is the standard deviation of anomalies as WeatherBench-X computes it, about the
climatology, without removing an anomaly's own global mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

# Without a climatology there are no anomalies, and only the first two statistics and metrics.
STATISTICS = ("error", "squared_error", "anomaly_correlation", "squared_anomaly")
_VALUES_PER_BLOCK = 1 << 20


@dataclass(frozen=True)
class Metric:
    """A function of one statistic's mean over initial times."""

    statistic: str
    of_mean: Callable[[Values], Values]

    @property
    def needs_climatology(self) -> bool:
        return self.statistic in STATISTICS[2:]


METRICS: Mapping[str, Metric] = {
    "rmse": Metric("squared_error", np.sqrt),
    "acc": Metric("anomaly_correlation", np.positive),
    "bias": Metric("error", np.positive),
    "activity": Metric("squared_anomaly", np.sqrt),
}


@dataclass(frozen=True)
class AreaMean:
    """The mean over the sphere, ``row_weights (latitude,)`` being each row's share of its area."""

    row_weights: Values

    def of_product(self, a: Values, b: Values) -> Values:
        """⟨a b⟩ for ``a`` and ``b (channel, latitude, longitude)``: ``(channel,)``."""
        mean: Values = np.vecdot(a, b) @ self.row_weights / a.shape[-1]
        return mean

    def of(self, a: Values) -> Values:
        """⟨a⟩ for ``a (channel, latitude, longitude)``: ``(channel,)``."""
        mean: Values = a.mean(axis=-1) @ self.row_weights
        return mean


def statistics(
    forecast: NDArray[np.floating],
    truth: NDArray[np.floating],
    climatology: NDArray[np.floating] | None,
    area_mean: AreaMean,
) -> Values:
    """The statistics ``(statistic, channel)`` of one forecast state, computed in float64.

    All states are ``(channel, latitude, longitude)``. Statistics of anomalies are NaN without a
    climatology; the correlation is NaN where either anomaly vanishes everywhere.
    """
    result = np.full((len(STATISTICS), len(truth)), np.nan)
    step = max(1, _VALUES_PER_BLOCK // truth[0].size)
    for start in range(0, len(truth), step):
        block = slice(start, start + step)
        f = forecast[block].astype(np.float64)
        o = truth[block].astype(np.float64)
        error = f - o
        result[0, block] = area_mean.of(error)
        result[1, block] = area_mean.of_product(error, error)
        if climatology is not None:
            f -= climatology[block]
            o -= climatology[block]
            squared = area_mean.of_product(f, f)
            norm = np.sqrt(squared * area_mean.of_product(o, o))
            covariance = area_mean.of_product(f, o)
            np.divide(covariance, norm, out=result[2, block], where=norm > 0.0)
            result[3, block] = squared
    return result


@dataclass(frozen=True)
class Sums:
    """Sums of statistics ``(statistic, lead, channel)`` over pairs, and ``counts (lead,)``."""

    values: Values
    counts: NDArray[np.int64]

    @classmethod
    def zero(cls, num_leads: int, num_channels: int) -> Self:
        return cls(
            np.zeros((len(STATISTICS), num_leads, num_channels)), np.zeros(num_leads, np.int64)
        )

    def add(self, lead: int, one: Values) -> None:
        """Take in the statistics ``(statistic, channel)`` of one pair."""
        self.values[:, lead] += one
        self.counts[lead] += 1

    def merge(self, other: Sums) -> Sums:
        """The sums over both sets of pairs."""
        return Sums(self.values + other.values, self.counts + other.counts)

    def metric(self, name: str) -> Values:
        """A metric ``(lead, channel)``; NaN where no pair has been added."""
        metric = METRICS[name]
        total = self.values[STATISTICS.index(metric.statistic)]
        mean = np.full_like(total, np.nan)
        np.divide(total, self.counts[:, None], out=mean, where=self.counts[:, None] > 0)
        return metric.of_mean(mean)
