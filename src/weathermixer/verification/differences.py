"""Differences between the scores of the model and of forecasts beside it, and how sure they are.

Both were scored on the same pairs, so a resample takes the same initial times of both.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from weathermixer.verification.block_bootstrap import (
    CONFIDENCE,
    FEWEST_BLOCKS,
    RESAMPLES,
    block_length,
    percentile_interval,
    resampled_counts,
)
from weathermixer.verification.comparison import Comparison
from weathermixer.verification.metrics import ACC, RMSE, Metric
from weathermixer.verification.pair_series import PairSeries
from weathermixer.verification.scores import Scores

Values = NDArray[np.float64]

DIFFERENCE, LOWER, UPPER = range(3)
_NUMBERS = ("difference", "lower", "upper")


@dataclass(frozen=True)
class Differences:
    """Scores of the model less those of each forecast beside it, over all that was compared.

    ``values[other][metric] (lead, channel, 3)`` are the difference and the lower and upper bound of
    its interval, in SI units; NaN where not defined. ``block_lengths (lead,)`` count the
    consecutive initial times that were drawn together, None where there were too few for an
    interval.
    """

    channels: tuple[str, ...]
    lead_hours: tuple[float, ...]
    block_lengths: tuple[int | None, ...]
    values: Mapping[str, Mapping[str, Values]]

    @classmethod
    def of(cls, series: PairSeries, comparison: Comparison) -> Self:
        """The differences that follow from the statistics of every pair of a comparison."""
        times = comparison.times
        order = np.argsort(comparison.initial_times[times], kind="stable")
        leads = np.flatnonzero(comparison.pairs.any(axis=0))
        lengths = []
        by_lead = []
        for lead in leads:
            scored = order[comparison.pairs[times[order], lead]]
            starts = comparison.initial_times[times[scored]]
            length = _block_length(starts, comparison.lead_times[lead])
            lengths.append(length)
            by_lead.append(with_intervals(series.values[scored, lead], series.metrics, length))
        together = np.stack(by_lead)  # (lead, other, metric, channel, 3)
        return cls(
            comparison.channels,
            tuple(comparison.lead_hours[lead] for lead in leads),
            tuple(lengths),
            {
                name: {
                    metric.name: together[:, number, place]
                    for place, metric in enumerate(series.metrics)
                }
                for number, name in enumerate(comparison.beside)
            },
        )

    def significant(self, other: str, metric: str) -> NDArray[np.bool_]:
        """Whether the interval of each difference ``(lead, channel)`` excludes zero."""
        values = self.values[other][metric]
        certain: NDArray[np.bool_] = (values[..., LOWER] > 0.0) | (values[..., UPPER] < 0.0)
        return certain

    def better(self, other: str, metric: str) -> NDArray[np.bool_]:
        """Whether the model has the better score ``(lead, channel)``, significantly or not."""
        difference = self.values[other][metric][..., DIFFERENCE]
        return difference > 0.0 if metric == ACC.name else difference < 0.0

    def relative(self, other: str, metric: str, scores: Scores) -> Values:
        """Differences ``(lead, channel)`` in percent of the other's score; of ACC, in hundredths.

        ``scores`` are those over all that was compared. NaN where the other's score is zero.
        """
        difference = self.values[other][metric][..., DIFFERENCE]
        if metric == ACC.name:
            return 100.0 * difference
        theirs = scores.values[other][metric]
        ratio = np.full_like(difference, np.nan)
        np.divide(difference, theirs, out=ratio, where=theirs > 0.0)
        return 100.0 * ratio

    def warnings(self) -> Iterator[str]:
        """A sentence for the user where there were too few initial times for intervals."""
        lacking = [h for h, n in zip(self.lead_hours, self.block_lengths, strict=True) if n is None]
        if lacking:
            shares = f"{len(lacking)} of {len(self.lead_hours)} lead times, from {lacking[0]:g} h"
            yield (
                f"whether differences from {', '.join(self.values)} are significant is not known "
                f"at {shares}: it takes {FEWEST_BLOCKS} blocks of consecutive initial times, each "
                "of at least twice as many as forecasts are under way at once"
            )

    def summaries(self) -> Iterator[str]:
        """A line for each of the others: where the RMSE of the model is surely lower or higher."""
        for other in self.values:
            sure = self.significant(other, RMSE.name)
            better = self.better(other, RMSE.name)
            unknown = np.isnan(self.values[other][RMSE.name][..., LOWER])
            line = (
                f"RMSE against {other}, {CONFIDENCE:.0%} confidence, by channel and lead time: "
                f"lower in {(sure & better).sum()}, higher in {(sure & ~better).sum()}, "
                f"no sure difference in {(~sure & ~unknown).sum()}"
            )
            yield f"{line}, not known in {unknown.sum()}" if unknown.any() else line

    def to_json(self) -> dict[str, Any]:
        """The differences as an object of JSON; null where a number is not defined."""
        hours = [f"{each:g}" for each in self.lead_hours]
        return {
            "confidence": CONFIDENCE,
            "resamples": RESAMPLES,
            "block_length": dict(zip(hours, self.block_lengths, strict=True)),
            "beside": {
                other: {
                    metric: {
                        channel: {
                            hour: _record(values[lead, place]) for lead, hour in enumerate(hours)
                        }
                        for place, channel in enumerate(self.channels)
                    }
                    for metric, values in by_metric.items()
                }
                for other, by_metric in self.values.items()
            },
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any] | None, scores: Scores) -> Self | None:
        """The differences beside some scores that ``to_json`` made; None of none.

        Raises KeyError, TypeError, ValueError or AttributeError where it is something else.
        """
        if not record:
            return None
        lengths = record["block_length"]
        hours = [f"{each:g}" for each in scores.lead_hours]
        return cls(
            scores.channels,
            scores.lead_hours,
            tuple(None if lengths[hour] is None else int(lengths[hour]) for hour in hours),
            {
                other: {
                    metric: np.array(
                        [
                            [_numbers(by_channel[channel][hour]) for channel in scores.channels]
                            for hour in hours
                        ]
                    )
                    for metric, by_channel in by_metric.items()
                }
                for other, by_metric in record["beside"].items()
            },
        )

    def write_csv(self, path: Path) -> None:
        """Write a line for each difference; empty where a number is not defined."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            head = ("beside", "metric", "channel", "lead_hours")
            writer.writerow([*head, *_NUMBERS, "significant"])
            for other, by_metric in self.values.items():
                for metric, values in by_metric.items():
                    for place, channel in enumerate(self.channels):
                        for hours, numbers in zip(self.lead_hours, values[:, place], strict=True):
                            fields = ["" if v is None else v for v in _record(numbers).values()]
                            writer.writerow([other, metric, channel, f"{hours:g}", *fields])


def scale_of(relative: Values) -> float:
    """A round number to colour relative differences up to, which few of them exceed."""
    known = np.abs(relative[np.isfinite(relative)])
    largest = float(np.percentile(known, 95.0)) if known.size else 0.0
    if largest == 0.0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(largest))
    return float(next(d * power for d in (1.0, 2.0, 5.0, 10.0) if d * power >= largest * 0.999))


def _block_length(starts: NDArray[np.datetime64], lead: np.timedelta64) -> int | None:
    """The block length of increasing initial times at a lead time."""
    under_way = np.searchsorted(starts, starts + lead) - np.arange(len(starts))
    return block_length(len(starts), int(under_way.max(initial=1)))


def with_intervals(statistics: Values, metrics: tuple[Metric, ...], length: int | None) -> Values:
    """Differences and the bounds of their intervals, ``(other, metric, channel, 3)``.

    ``statistics (time, forecast, metric, channel)`` are in the order of time, the model's first.
    Blocks have ``length`` times; where it is None, bounds are NaN.
    """
    num_times, num_forecasts, *_ = statistics.shape
    result = np.full((num_forecasts - 1, *statistics.shape[2:], 3), np.nan)
    counts = None if length is None else resampled_counts(num_times, length)
    num_blocks = math.nan if length is None else num_times / length
    for other in range(1, num_forecasts):
        for place, metric in enumerate(metrics):
            ours, theirs = statistics[:, 0, place], statistics[:, other, place]
            here = result[other - 1, place]
            here[:, DIFFERENCE] = _difference(metric, ours, theirs, np.ones((1, num_times)))[0]
            if counts is not None:
                resampled = _difference(metric, ours, theirs, counts)
                here[:, [LOWER, UPPER]] = percentile_interval(resampled, num_blocks).T
    return result


def _difference(metric: Metric, ours: Values, theirs: Values, counts: Values) -> Values:
    """Differences of a score ``(resample, channel)`` of statistics ``(time, channel)``.

    That of roots is a²−b² over a+b, so that equal forecasts differ by nothing, not by rounding.
    """
    total = counts.shape[1]
    difference: Values = counts @ (ours - theirs) / total
    if metric != RMSE:
        return difference
    roots = np.sqrt(counts @ ours / total) + np.sqrt(counts @ theirs / total)
    return np.divide(difference, roots, out=np.zeros_like(difference), where=roots != 0.0)


def _record(numbers: Values) -> dict[str, float | bool | None]:
    """A difference, its bounds, and whether they exclude zero."""
    known = [value if math.isfinite(value) else None for value in numbers.tolist()]
    _, lower, upper = known
    significant = None if lower is None or upper is None else lower > 0.0 or upper < 0.0
    return {**dict(zip(_NUMBERS, known, strict=True)), "significant": significant}


def _numbers(record: Mapping[str, Any]) -> list[float]:
    return [math.nan if record[name] is None else float(record[name]) for name in _NUMBERS]
