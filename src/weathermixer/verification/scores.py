"""The numbers of a verification, by source, metric, channel and lead time.

Knows nothing of how they were computed or are shown.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weathermixer.verification.metrics import METRICS, metric_of

MODEL, PERSISTENCE, CLIMATOLOGY, TRUTH = "model", "persistence", "climatology", "truth"

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """``values[source][metric]`` is ``(lead, channel)``, in the channel's units where it has any.

    Sources are the model, the forecasts put beside it, and the baselines that could be scored; all
    of one region. ``pairs (lead,)`` is how many forecasts each mean over initial times is of.
    """

    channels: tuple[str, ...]
    lead_hours: tuple[float, ...]
    pairs: tuple[int, ...]
    values: Mapping[str, Mapping[str, Values]]

    @classmethod
    def from_means(
        cls,
        means: Values,
        sources: Sequence[str],
        channels: tuple[str, ...],
        lead_hours: tuple[float, ...],
        pairs: tuple[int, ...],
    ) -> Scores:
        """The scores of a region from mean statistics ``(lead, source, statistic, channel)``."""
        values = {
            source: {
                name: metric_of(name, means[:, index])
                for name, metric in METRICS.items()
                if CLIMATOLOGY in sources or not metric.needs_climatology
            }
            for index, source in enumerate(sources)
        }
        return cls(channels, lead_hours, pairs, values)

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(self.values[MODEL])

    @property
    def baselines(self) -> tuple[str, ...]:
        return tuple(source for source in self.values if source in (PERSISTENCE, CLIMATOLOGY))

    @property
    def beside(self) -> tuple[str, ...]:
        """The other forecasts."""
        return tuple(s for s in self.values if s not in (MODEL, PERSISTENCE, CLIMATOLOGY))

    def series(self, source: str, metric: str, channel: str) -> Values:
        """One score against lead time, ``(lead,)``."""
        series: Values = self.values[source][metric][:, self.channels.index(channel)]
        return series

    def relative_rmse(self, baseline: str) -> Values:
        """The model's RMSE over the baseline's, averaged over channels, ``(lead,)``.

        Channels that the baseline forecasts perfectly have no such ratio and are left out.
        """
        ours, theirs = self.values[MODEL]["rmse"], self.values[baseline]["rmse"]
        ratio = np.divide(ours, theirs, out=np.full_like(ours, np.nan), where=theirs > 0.0)
        defined = np.isfinite(ratio)
        total = np.where(defined, ratio, 0.0).sum(axis=1)
        count = defined.sum(axis=1)
        mean: Values = np.full_like(total, np.nan)
        np.divide(total, count, out=mean, where=count > 0)
        return mean

    def rows(self) -> Iterator[tuple[str, str, str, float, float]]:
        """Every number, as (source, metric, channel, lead hours, value)."""
        for source, by_metric in self.values.items():
            for metric, values in by_metric.items():
                for index, channel in enumerate(self.channels):
                    for hours, value in zip(self.lead_hours, values[:, index], strict=True):
                        yield source, metric, channel, hours, float(value)

    def by_channel(self, source: str) -> dict[str, dict[str, dict[str, float | None]]]:
        """``{metric: {channel: {lead hours: value}}}``; None where a score is not defined."""
        return {
            metric: {
                channel: self.by_lead(values[:, index])
                for index, channel in enumerate(self.channels)
            }
            for metric, values in self.values[source].items()
        }

    def by_lead(self, series: Values) -> dict[str, float | None]:
        """A series as ``{lead hours: value}``."""
        return {
            f"{hours:g}": value if math.isfinite(value) else None
            for hours, value in zip(self.lead_hours, series.tolist(), strict=True)
        }

    def by_source(self) -> dict[str, Any]:
        """``baselines`` and, where there are any, forecasts ``beside``, each by channel."""
        others = {"baselines": self.baselines, "beside": self.beside}
        return {
            key: {source: self.by_channel(source) for source in sources}
            for key, sources in others.items()
            if sources
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "scores": self.by_channel(MODEL),
            **self.by_source(),
            "rmse_relative_to": {
                source: self.by_lead(self.relative_rmse(source))
                for source in (*self.beside, *self.baselines)
            },
            "pairs": {
                f"{hours:g}": count
                for hours, count in zip(self.lead_hours, self.pairs, strict=True)
            },
        }


def write_csv(regions: Mapping[str, Scores], path: Path) -> None:
    """One number a line; empty where a score is not defined."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["region", "source", "metric", "channel", "lead_hours", "value"])
        for region, scores in regions.items():
            for *key, hours, value in scores.rows():
                number = repr(value) if math.isfinite(value) else ""
                writer.writerow([region, *key, f"{hours:g}", number])
