"""The numbers of a verification in one region, by source, metric, channel and lead time.

Knows nothing of how they were computed or are shown.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from weathermixer.verification.metrics import Metric, score, statistics_of

MODEL, PERSISTENCE, CLIMATOLOGY, TRUTH = "model", "persistence", "climatology", "truth"

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Scores of one region: ``values[source][metric]`` is ``(lead, channel)``.

    They are in the channel's SI units where the metric has any, and NaN where a score is not
    defined. Sources are the model, the forecasts put beside it, and the baselines that could be
    scored. ``lead_hours (lead,)`` are the lead times in hours, and ``pairs (lead,)`` is how many
    forecasts each mean over initial times is of.
    """

    channels: tuple[str, ...]
    lead_hours: tuple[float, ...]
    pairs: tuple[int, ...]
    values: Mapping[str, Mapping[str, Values]]

    @classmethod
    def from_means(
        cls,
        means: Values,
        metrics: Sequence[Metric],
        sources: Sequence[str],
        channels: tuple[str, ...],
        lead_hours: tuple[float, ...],
        pairs: tuple[int, ...],
    ) -> Self:
        """The scores of a region from mean statistics ``(lead, source, statistic, channel)``.

        Statistics are those of ``statistics_of(metrics)``.
        """
        statistics = statistics_of(metrics)
        values = {
            source: {metric.name: score(metric, statistics, means[:, index]) for metric in metrics}
            for index, source in enumerate(sources)
        }
        return cls(channels, lead_hours, pairs, values)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """The scores of the whole region from the object of JSON that ``to_json`` made.

        Raises KeyError, TypeError, ValueError or AttributeError where it is something else.
        """
        by_metric = record["scores"]
        channels = tuple(by_metric["rmse"])
        keys = {hours for series in by_metric["rmse"].values() for hours in series}
        lead_hours = tuple(sorted(map(float, keys)))
        if not lead_hours:
            raise ValueError("it has no lead time")
        pairs = tuple(int(record["pairs"][f"{hours:g}"]) for hours in lead_hours)
        return cls(channels, lead_hours, pairs, {})._of_record(by_metric, record)

    def of_region(self, record: Mapping[str, Any]) -> Self:
        """Scores of the same channels and lead times in another region.

        ``record`` is what ``to_json_of_region`` made; raises as ``from_json`` does.
        """
        by_metric = {name: record[name] for name in record if name not in ("baselines", "beside")}
        return self._of_record(by_metric, record)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics."""
        return tuple(self.values[MODEL])

    @property
    def baselines(self) -> tuple[str, ...]:
        """Names of the baselines that were scored, of persistence and climatology."""
        return tuple(source for source in self.values if source in (PERSISTENCE, CLIMATOLOGY))

    @property
    def beside(self) -> tuple[str, ...]:
        """Names of the forecasts put beside the model's."""
        return tuple(s for s in self.values if s not in (MODEL, PERSISTENCE, CLIMATOLOGY))

    def without(self, metrics: Collection[str]) -> Scores:
        """The same without the scores of some metrics."""
        kept = {
            source: {name: values for name, values in of_source.items() if name not in metrics}
            for source, of_source in self.values.items()
        }
        return replace(self, values=kept)

    def series(self, source: str, metric: str, channel: str) -> Values:
        """A score of a source in a channel by lead time, ``(lead,)``."""
        series: Values = self.values[source][metric][:, self.channels.index(channel)]
        return series

    def relative_rmse(self, baseline: str) -> Values:
        """The model's RMSE over the baseline's, averaged over channels, ``(lead,)``.

        Channels that the baseline forecasts perfectly have no such ratio and are left out. NaN
        where the model's own RMSE of any other channel is no finite number.
        """
        ours, theirs = self.values[MODEL]["rmse"], self.values[baseline]["rmse"]
        ratio = np.divide(ours, theirs, out=np.full_like(ours, np.nan), where=theirs > 0.0)
        defined = theirs > 0.0
        ratio[np.isinf(ratio)] = np.nan
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

    def to_json(self) -> dict[str, Any]:
        """The scores as an object of JSON, and the model's RMSE relative to the others'."""
        return {
            "scores": self._by_channel(MODEL),
            **self._others(),
            "rmse_relative_to": {
                source: self._by_lead(self.relative_rmse(source))
                for source in (*self.beside, *self.baselines)
            },
            "pairs": {
                f"{hours:g}": count
                for hours, count in zip(self.lead_hours, self.pairs, strict=True)
            },
        }

    def to_json_of_region(self) -> dict[str, Any]:
        """The scores alone as an object of JSON, beside those of other regions."""
        return {**self._by_channel(MODEL), **self._others()}

    def _others(self) -> dict[str, Any]:
        """``baselines`` and, where there are any, forecasts ``beside``, each by channel."""
        others = {"baselines": self.baselines, "beside": self.beside}
        return {
            key: {source: self._by_channel(source) for source in sources}
            for key, sources in others.items()
            if sources
        }

    def _by_channel(self, source: str) -> dict[str, dict[str, dict[str, float | None]]]:
        """``{metric: {channel: {lead hours: value}}}``; None where a score is not defined."""
        return {
            metric: {
                channel: self._by_lead(values[:, index])
                for index, channel in enumerate(self.channels)
            }
            for metric, values in self.values[source].items()
        }

    def _by_lead(self, series: Values) -> dict[str, float | None]:
        """A series as ``{lead hours: value}``."""
        return {
            f"{hours:g}": value if math.isfinite(value) else None
            for hours, value in zip(self.lead_hours, series.tolist(), strict=True)
        }

    def _of_record(self, by_metric: Mapping[str, Any], record: Mapping[str, Any]) -> Self:
        """Scores of the same channels and lead times: the model's, and the others' of a record."""
        others = {**record.get("beside", {}), **record.get("baselines", {})}
        values = {
            source: {metric: self._array(channels) for metric, channels in of_source.items()}
            for source, of_source in {MODEL: by_metric, **others}.items()
        }
        return type(self)(self.channels, self.lead_hours, self.pairs, values)

    def _array(self, by_channel: Mapping[str, Mapping[str, float | None]]) -> Values:
        """An array ``(lead, channel)`` of a record's series; NaN where it has no number."""
        values = np.full((len(self.lead_hours), len(self.channels)), np.nan)
        for index, channel in enumerate(self.channels):
            series = by_channel.get(channel, {})
            for lead, hours in enumerate(self.lead_hours):
                value = series.get(f"{hours:g}")
                if value is not None:
                    values[lead, index] = float(value)
        return values


def write_csv(regions: Mapping[str, Scores], path: Path) -> None:
    """Write the scores of all regions, one number a line; empty where a score is not defined."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["region", "source", "metric", "channel", "lead_hours", "value"])
        for region, scores in regions.items():
            for *key, hours, value in scores.rows():
                number = repr(value) if math.isfinite(value) else ""
                writer.writerow([region, *key, f"{hours:g}", number])
