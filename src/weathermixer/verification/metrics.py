"""What the scores are: statistics of pairs of states, and functions of their means.

A *statistic* is an area mean over one forecast state and the state that it was meant to be. A
*metric* names the statistics that it needs and computes itself from their means over initial times.
A new one is made of these two and given to ``verify``; nothing else has to know it. Statistics are
told apart by name, and one that several metrics need is computed once.

The metrics here are defined as in WeatherBench 2 (Rasp et al. 2024, doi:10.1029/2023MS004019),
with f a forecast, o the truth, c the climatology at the same time, ⟨·⟩ the mean over a region's
area and E[·] the mean over initial times:

    rmse      sqrt(E[⟨(f − o)²⟩])
    bias      E[⟨f − o⟩]
    acc       E[ ⟨(f − c)(o − c)⟩ / sqrt(⟨(f − c)²⟩ ⟨(o − c)²⟩) ]     uncentred
    activity  sqrt(E[⟨(f − c)²⟩])

``activity`` is the standard deviation of anomalies as WeatherBench-X computes it, about the
climatology, without removing an anomaly's own mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from weathermixer.verification.regions import Regions

Values = NDArray[np.float64]
Units = Literal["channel", "none"]

_VALUES_PER_BLOCK = 1 << 20


@dataclass(frozen=True)
class TrueState:
    """What happened, ``field``, and what the climate expects then, ``climatology``.

    Both are ``(channel, latitude, longitude)``; means are taken over ``regions``. Without a
    climatology, its ``climatology``, and what is computed from it, must not be asked for.
    """

    field: Values
    climatology: Values | None
    regions: Regions

    @cached_property
    def anomaly(self) -> Values:
        """The truth minus the climatology, ``(channel, latitude, longitude)``."""
        assert self.climatology is not None
        return self.field - self.climatology

    @cached_property
    def squared_anomaly(self) -> Values:
        """Area means of the squared anomaly, ``(region, channel)``."""
        return self.regions.mean_product(self.anomaly, self.anomaly)


@dataclass(frozen=True)
class StatePair:
    """A ``forecast`` state beside the ``truth``, and what several statistics compute from them.

    Fields are ``(channel, latitude, longitude)`` in float64 and SI units; ``mean(field)`` and
    ``mean_product(a, b)`` take area means ``(region, channel)``. Of an ensemble, ``forecast`` is
    the mean of its ``members (member, channel, latitude, longitude)``.
    """

    forecast: Values
    truth: TrueState
    members: Values | None = None

    @classmethod
    def of(cls, candidate: Values, truth: TrueState) -> Self:
        """A single state, or the members of an ensemble, beside the truth."""
        if candidate.ndim == truth.field.ndim:
            return cls(candidate, truth)
        return cls(candidate.mean(axis=0), truth, candidate)

    @property
    def undefined(self) -> Values:
        """NaN ``(region, channel)``: what a statistic is that the forecast has none of."""
        return np.full((len(self.truth.regions.names), len(self.forecast)), np.nan)

    @cached_property
    def ranks(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many members are below the truth, and how many are not above it, at each point."""
        assert self.members is not None
        below = (self.members < self.truth.field).sum(axis=0)
        return below, (self.members <= self.truth.field).sum(axis=0)

    @cached_property
    def error(self) -> Values:
        """The forecast minus the truth, ``(channel, latitude, longitude)``."""
        return self.forecast - self.truth.field

    @cached_property
    def anomaly(self) -> Values:
        """The forecast minus the climatology, ``(channel, latitude, longitude)``."""
        assert self.truth.climatology is not None
        return self.forecast - self.truth.climatology

    @cached_property
    def squared_anomaly(self) -> Values:
        """Area means of the forecast's squared anomaly, ``(region, channel)``."""
        return self.mean_product(self.anomaly, self.anomaly)

    def mean(self, field: Values) -> Values:
        """Area means ``(region, channel)`` of a field."""
        return self.truth.regions.mean(field)

    def mean_product(self, a: Values, b: Values) -> Values:
        """Area means ``(region, channel)`` of the product of two fields."""
        return self.truth.regions.mean_product(a, b)


@dataclass(frozen=True)
class Statistic:
    """A number ``(region, channel)`` of each pair of states, whose mean over pairs is taken.

    ``of_pair`` computes it; worker processes import it by its name, so it has to be a function at
    the top of a module. NaN stands for a number that is not defined. ``needs_climatology`` where it
    is computed from anomalies.
    """

    name: str
    of_pair: Callable[[StatePair], Values]
    needs_climatology: bool = False


@dataclass(frozen=True)
class Metric:
    """A score: a function of the mean statistics that it needs, over initial times.

    ``name`` is its key in results, and ``title`` what figures and tables call it. ``of_means``
    takes as many arrays as there are ``statistics``, in their order, and gives one of the same
    shape. ``units`` are the channel's, or none.
    """

    name: str
    title: str
    statistics: tuple[Statistic, ...]
    of_means: Callable[..., Values]
    units: Units = "channel"

    @property
    def needs_climatology(self) -> bool:
        """Whether there is no such score without a climatology."""
        return any(statistic.needs_climatology for statistic in self.statistics)


def _error(pair: StatePair) -> Values:
    return pair.mean(pair.error)


def _squared_error(pair: StatePair) -> Values:
    return pair.mean_product(pair.error, pair.error)


def _squared_anomaly(pair: StatePair) -> Values:
    return pair.squared_anomaly


def _anomaly_correlation(pair: StatePair) -> Values:
    """The uncentred correlation of anomalies; NaN where either vanishes everywhere."""
    norm = np.sqrt(pair.squared_anomaly * pair.truth.squared_anomaly)
    correlation = np.full_like(norm, np.nan)
    covariance = pair.mean_product(pair.anomaly, pair.truth.anomaly)
    np.divide(covariance, norm, out=correlation, where=norm > 0.0)
    return correlation


ERROR = Statistic("error", _error)
SQUARED_ERROR = Statistic("squared_error", _squared_error)
SQUARED_ANOMALY = Statistic("squared_anomaly", _squared_anomaly, needs_climatology=True)
ANOMALY_CORRELATION = Statistic("anomaly_correlation", _anomaly_correlation, needs_climatology=True)

RMSE = Metric("rmse", "RMSE", (SQUARED_ERROR,), np.sqrt)
ACC = Metric("acc", "ACC", (ANOMALY_CORRELATION,), np.positive, units="none")
BIAS = Metric("bias", "Bias", (ERROR,), np.positive)
ACTIVITY = Metric("activity", "Activity", (SQUARED_ANOMALY,), np.sqrt)
METRICS = (RMSE, ACC, BIAS, ACTIVITY)


def usable_metrics(metrics: Sequence[Metric], *, has_climatology: bool) -> tuple[Metric, ...]:
    """The metrics that can be computed with a climatology, or without one."""
    return tuple(m for m in metrics if has_climatology or not m.needs_climatology)


def statistics_of(metrics: Sequence[Metric]) -> tuple[Statistic, ...]:
    """The statistics that some metrics need, each once, in the order of their first mention.

    Raises ValueError where two different statistics, or two metrics, have one name.
    """
    by_name: dict[str, Statistic] = {}
    for statistic in (s for metric in metrics for s in metric.statistics):
        if by_name.setdefault(statistic.name, statistic) != statistic:
            raise ValueError(f"two different statistics are called {statistic.name}: rename one")
    names = [metric.name for metric in metrics]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two metrics are called {name}: rename one")
    return tuple(by_name.values())


def score(metric: Metric, statistics: Sequence[Statistic], means: Values) -> Values:
    """Compute a metric ``(..., channel)`` from mean statistics ``(..., statistic, channel)``."""
    names = [statistic.name for statistic in statistics]
    return metric.of_means(
        *(means[..., names.index(needed.name), :] for needed in metric.statistics)
    )


def pair_statistics(
    statistics: Sequence[Statistic],
    candidates: Sequence[NDArray[np.floating]],
    truth: NDArray[np.floating],
    climatology: NDArray[np.floating] | None,
    regions: Regions,
) -> Values:
    """Statistics ``(candidate, statistic, region, channel)`` of states, computed in float64.

    All states are ``(channel, latitude, longitude)``; each of the ``candidates``, of which some may
    be ensembles ``(member, channel, latitude, longitude)``, is paired with ``truth``.
    ``climatology`` may be None where no statistic needs one.
    """
    shape = (len(candidates), len(statistics), len(regions.names), len(truth))
    result = np.empty(shape)
    for channels in _blocks(truth):
        expected = None if climatology is None else climatology[channels].astype(np.float64)
        true_state = TrueState(truth[channels].astype(np.float64), expected, regions)
        for number, candidate in enumerate(candidates):
            states = candidate[..., channels, :, :].astype(np.float64)
            pair = StatePair.of(states, true_state)
            for place, statistic in enumerate(statistics):
                result[number, place, :, channels] = statistic.of_pair(pair)
    return result


def _blocks(state: NDArray[np.floating]) -> Iterator[slice]:
    """Slices of channels, as many at a time as stay in a processor's cache."""
    step = max(1, _VALUES_PER_BLOCK // state[0].size)
    for start in range(0, len(state), step):
        yield slice(start, start + step)
