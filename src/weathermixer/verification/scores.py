"""The numbers of a verification, by source, metric, channel and lead time; and what sums them up.

Knows nothing of how they were computed or are shown.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weathermixer.verification.metrics import METRICS, Sums

MODEL, PERSISTENCE, CLIMATOLOGY = "model", "persistence", "climatology"

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """``values[source][metric]`` is ``(lead, channel)``, in the channel's units where it has any.

    Sources are the model and the baselines that could be scored. ``pairs (lead,)`` is how many
    forecasts each mean over initial times is of.
    """

    channels: tuple[str, ...]
    lead_hours: tuple[float, ...]
    pairs: tuple[int, ...]
    values: Mapping[str, Mapping[str, Values]]

    @classmethod
    def from_sums(
        cls,
        sums: Mapping[str, Sums],
        channels: tuple[str, ...],
        lead_hours: tuple[float, ...],
        *,
        with_climatology: bool,
    ) -> Scores:
        """Scores at the lead times that any pair has."""
        pairs = sums[MODEL].counts
        scored = pairs > 0
        values = {
            source: {
                name: total.metric(name)[scored]
                for name, metric in METRICS.items()
                if with_climatology or not metric.needs_climatology
            }
            for source, total in sums.items()
        }
        leads = tuple(hours for hours, used in zip(lead_hours, scored, strict=True) if used)
        return cls(channels, leads, tuple(pairs[scored].tolist()), values)

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(self.values[MODEL])

    @property
    def baselines(self) -> tuple[str, ...]:
        return tuple(source for source in self.values if source != MODEL)

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
        """Every number as (source, metric, channel, lead hours, value)."""
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

    def to_json(self) -> dict[str, Any]:
        return {
            "scores": self.by_channel(MODEL),
            "baselines": {source: self.by_channel(source) for source in self.baselines},
            "rmse_relative_to": {
                source: self.by_lead(self.relative_rmse(source)) for source in self.baselines
            },
            "pairs": {
                f"{hours:g}": count
                for hours, count in zip(self.lead_hours, self.pairs, strict=True)
            },
        }


def write_csv(scores: Scores, path: Path) -> None:
    """One number a line; empty where a score is not defined."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["source", "metric", "channel", "lead_hours", "value"])
        for *key, hours, value in scores.rows():
            writer.writerow([*key, f"{hours:g}", repr(value) if math.isfinite(value) else ""])
