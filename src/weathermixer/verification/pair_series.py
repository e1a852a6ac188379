"""Statistics of each pair apart, of forecasts that stand beside each other.

Means over initial times need sums alone; how sure their differences are takes every initial time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from weathermixer.verification.comparison import Comparison
from weathermixer.verification.ensembles import CRPS
from weathermixer.verification.metrics import ACC, RMSE, Metric, Values, statistics_of

COMPARED = (RMSE, ACC, CRPS)
"""The scores whose differences are judged, each of a single statistic."""


@dataclass(frozen=True)
class PairSeries:
    """The statistics of some ``metrics`` over the first region, of each forecast and pair.

    ``values (time, lead, forecast, metric, channel)`` are NaN where a pair was not scored. ``places
    (metric,)`` are those of the statistics among all that are computed.
    """

    metrics: tuple[Metric, ...]
    places: tuple[int, ...]
    values: Values

    @classmethod
    def empty(
        cls,
        comparison: Comparison,
        metrics: Sequence[Metric],
        *,
        num_times: int,
        num_channels: int,
    ) -> Self:
        """Room for some initial times and channels, of those metrics that are compared."""
        names = [statistic.name for statistic in statistics_of(metrics)]
        kept = tuple(metric for metric in COMPARED if metric in metrics)
        shape = (
            num_times,
            len(comparison.lead_times),
            len(comparison.forecasts),
            len(kept),
            num_channels,
        )
        places = tuple(names.index(metric.statistics[0].name) for metric in kept)
        return cls(kept, places, np.full(shape, np.nan))

    def put(self, time: int, lead: int, statistics: Values) -> None:
        """Keep what is compared of a pair's ``statistics (candidate, statistic, region, channel)``.

        ``time`` and ``lead`` are places in ``values``; forecasts come first among the candidates.
        """
        num_forecasts = self.values.shape[2]
        self.values[time, lead] = statistics[:num_forecasts, list(self.places), 0]

    def fill(self, times: slice, channels: slice, values: NDArray[np.float64]) -> None:
        """Take over the values of some initial times and channels, by their places."""
        self.values[times, ..., channels] = values
