"""What the scores are: statistics of one pair of states, their sums, and functions of their means.

A *statistic* is an area mean over one forecast state and the state that it was meant to be, or a
spectrum of it. Sums over pairs and their number are all that is kept, so partial results add, over
parts of a forecast or over processes. A *metric* is a function of a statistic's mean over initial
times.

The definitions are those of WeatherBench 2 (Rasp et al. 2024, doi:10.1029/2023MS004019), with f a
forecast, o the truth, c the climatology at the same time, ⟨·⟩ the mean over a region's area and
E[·] the mean over initial times:

    rmse      sqrt(E[⟨(f − o)²⟩])
    bias      E[⟨f − o⟩]
    acc       E[ ⟨(f − c)(o − c)⟩ / sqrt(⟨(f − c)²⟩ ⟨(o − c)²⟩) ]     uncentred
    activity  sqrt(E[⟨(f − c)²⟩])

``activity`` is the standard deviation of anomalies as WeatherBench-X computes it, about the
climatology, without removing an anomaly's own mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from weathermixer.verification.regions import Regions

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


def metric_of(name: str, mean: Values) -> Values:
    """A metric ``(..., channel)`` of mean statistics ``(..., statistic, channel)``."""
    metric = METRICS[name]
    return metric.of_mean(mean[..., STATISTICS.index(metric.statistic), :])


def statistics(
    candidates: Sequence[NDArray[np.floating]],
    truth: NDArray[np.floating],
    climatology: NDArray[np.floating] | None,
    regions: Regions,
) -> Values:
    """The statistics ``(candidate, statistic, region, channel)`` of states, computed in float64.

    All states are ``(channel, latitude, longitude)``. Statistics of anomalies are NaN without a
    climatology; the correlation is NaN where either anomaly vanishes everywhere.
    """
    shape = (len(candidates), len(STATISTICS), len(regions.names), len(truth))
    result = np.full(shape, np.nan)
    num_columns = truth.shape[-1]

    def mean_product(a: Values, b: Values) -> Values:
        return regions.mean(np.vecdot(a, b) / num_columns)

    step = max(1, _VALUES_PER_BLOCK // truth[0].size)
    for start in range(0, len(truth), step):
        block = slice(start, start + step)
        o = truth[block].astype(np.float64)
        if climatology is not None:
            anomaly = o - climatology[block]
            squared_truth = mean_product(anomaly, anomaly)
        for candidate, one in zip(candidates, result[..., block], strict=True):
            f = candidate[block].astype(np.float64)
            error = f - o
            one[0] = regions.mean(error.mean(axis=-1))
            one[1] = mean_product(error, error)
            if climatology is not None:
                f -= climatology[block]
                one[3] = mean_product(f, f)
                norm = np.sqrt(one[3] * squared_truth)
                np.divide(mean_product(f, anomaly), norm, out=one[2], where=norm > 0.0)
    return result


@dataclass(frozen=True)
class Sums:
    """Sums over pairs by lead time, and ``counts (lead,)`` of the pairs.

    ``values (lead, candidate, statistic, region, channel)``, and of the spectra ``energy (lead,
    source, region, wavenumber, channel)``.
    """

    values: Values
    energy: Values
    counts: NDArray[np.int64]

    @classmethod
    def zero(cls, num_leads: int, statistics: tuple[int, ...], spectra: tuple[int, ...]) -> Self:
        """Of nothing yet, by the shapes of one pair's statistics and spectra."""
        return cls(
            np.zeros((num_leads, *statistics)),
            np.zeros((num_leads, *spectra)),
            np.zeros(num_leads, np.int64),
        )

    def add(self, lead: int, statistics: Values, spectra: Values) -> None:
        """Take in one pair."""
        self.values[lead] += statistics
        self.energy[lead] += spectra
        self.counts[lead] += 1

    def merge(self, other: Sums) -> Sums:
        """The sums over both sets of pairs."""
        return Sums(
            self.values + other.values, self.energy + other.energy, self.counts + other.counts
        )

    def beside(self, other: Sums) -> Sums:
        """The sums over the same pairs of these channels and of others."""
        return Sums(
            np.concatenate([self.values, other.values], axis=-1),
            np.concatenate([self.energy, other.energy], axis=-1),
            self.counts,
        )

    def means(self) -> tuple[Values, Values]:
        """Mean ``values`` and ``energy`` over pairs; NaN at lead times without any."""
        with np.errstate(invalid="ignore"):
            counts = self.counts.reshape(-1, 1, 1, 1, 1)
            return self.values / counts, self.energy / counts
