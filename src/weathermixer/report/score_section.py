"""The scores of a verification as the page shows them: headlines, tables, and what curves need.

Whatever a verification does not have (a climatology, regions, spectra) is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weathermixer.report.formatting import (
    date_text,
    label_of,
    lead_in_words,
    percent,
    short_number,
    units_of,
    values_to_draw,
)
from weathermixer.report.score_tables import (
    USEFUL_ACC,
    ScoreTable,
    defined,
    score_tables,
    skill_against,
)
from weathermixer.verification.headline import headline_channels
from weathermixer.verification.regions import over_region, region_title
from weathermixer.verification.scores import CLIMATOLOGY, MODEL, PERSISTENCE, Scores
from weathermixer.verification.verification_record import MetricLabel, Verification

_HEADLINE_HOURS = 72.0
_FIRST_METRICS = ("rmse", "crps", "spread", "spread_skill")
# What a forecast should reach, where there is such a number.
_LIMITS = {"acc": USEFUL_ACC, "spread_skill": 1.0}


@dataclass(frozen=True)
class HeadlineNumber:
    """A number at the top of the page: its ``label``, ``value`` as text, and a ``note``."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class ScoreSection:
    """What the page says of a verification that lies in the folder ``path``.

    ``over`` says which part of the globe was compared, as in ``over the globe``; ``num_times``
    initial times were, from ``first_time`` to ``last_time``. ``warnings`` are the verification's.
    ``headlines`` and ``tables`` are shown, ``curves`` is for the page's script, and
    ``has_climatology`` tells whether that baseline is among them.
    """

    path: str
    over: str
    num_times: int
    first_time: str
    last_time: str
    warnings: tuple[str, ...]
    tables: tuple[ScoreTable, ...]
    headlines: tuple[HeadlineNumber, ...]
    has_climatology: bool
    curves: Mapping[str, Any]

    @classmethod
    def of(cls, verification: Verification, path: Path) -> ScoreSection:
        """The section about a verification that lies in the folder ``path``."""
        scores, times = verification.scores, verification.initial_times
        return cls(
            path=str(path),
            over=over_region(verification.region),
            num_times=len(times),
            first_time=date_text(times[0]),
            last_time=date_text(times[-1]),
            warnings=verification.warnings,
            tables=tuple(score_tables(scores, verification.differences)),
            headlines=tuple(_headlines(scores)),
            has_climatology=CLIMATOLOGY in scores.values,
            curves=_curves(verification),
        )


def _headlines(scores: Scores) -> Iterator[HeadlineNumber]:
    """A few numbers that say how good the forecasts are."""
    hours = scores.lead_hours
    at = min(range(len(hours)), key=lambda index: abs(hours[index] - _HEADLINE_HOURS))
    for channel in headline_channels(scores.channels)[:1]:
        index = scores.channels.index(channel)
        units, factor = units_of(channel)
        rmse = defined(scores.values[MODEL]["rmse"][at, index])
        skill = (
            skill_against(scores, PERSISTENCE)[at, index]
            if PERSISTENCE in scores.values
            else np.nan
        )
        yield HeadlineNumber(
            f"{label_of(channel)}: RMSE at {lead_in_words(hours[at])}",
            f"{short_number(None if rmse is None else factor * rmse)} {units}".strip(),
            _against(defined(skill), PERSISTENCE),
        )
        if "acc" in scores.metrics:
            yield HeadlineNumber(
                f"{label_of(channel)}: useful until",
                _crossing(scores.series(MODEL, "acc", channel), hours, USEFUL_ACC, falling=True),
                f"anomaly correlation above {USEFUL_ACC:g}",
            )
    for baseline in scores.baselines:
        ratio = scores.relative_rmse(baseline)
        if np.isfinite(ratio[at]):
            until = _crossing(ratio, hours, 1.0, falling=False)
            yield HeadlineNumber(
                f"All {len(scores.channels)} channels: RMSE against {baseline}",
                percent(float(ratio[at]) - 1.0),
                f"at {lead_in_words(hours[at])}, on average; better until {until}",
            )


def _against(skill: float | None, baseline: str) -> str:
    if skill is None:
        return ""
    return f"{abs(skill):.0%} {'below' if skill >= 0.0 else 'above'} {baseline}".replace("%", " %")


def _crossing(
    series: NDArray[np.float64], hours: Sequence[float], limit: float, *, falling: bool
) -> str:
    """When a series crosses a limit first, between lead times linearly; in words."""
    before: tuple[float, float] | None = None
    for hour, value in zip(hours, series.tolist(), strict=True):
        if not np.isfinite(value):
            continue
        if (value < limit) if falling else (value > limit):
            if before is None:
                return f"less than {lead_in_words(hour)}"
            crossed = before[0] + (limit - before[1]) / (value - before[1]) * (hour - before[0])
            if crossed < 24.0:
                return f"{crossed:.0f}\u00a0hours"
            return f"{crossed / 24.0:.1f}\u00a0days"
        before = hour, value
    return f"beyond {lead_in_words(hours[-1])}" if before else "–"


def _curves(verification: Verification) -> dict[str, Any]:
    """All series, in shown units: region, source, metric, channel, lead."""
    scores, labels = verification.scores, verification.metric_labels
    return {
        "hours": list(scores.lead_hours),
        "channels": [
            {"name": name, "label": label_of(name), "units": units_of(name)[0]}
            for name in scores.channels
        ],
        "headline": [scores.channels.index(name) for name in headline_channels(scores.channels)],
        "metrics": {
            name: {
                "label": labels[name].title,
                "hasUnits": labels[name].units == "channel",
                "limit": _LIMITS.get(name),
            }
            for name in sorted(labels, key=_place)
        },
        "ranks": _ranks(verification),
        "regions": {
            region_title(region): {
                source: {
                    metric: [
                        _drawn(of_region.series(source, metric, name), labels[metric], name)
                        for name in of_region.channels
                    ]
                    for metric in by_metric
                    if metric in labels
                }
                for source, by_metric in of_region.values.items()
            }
            for region, of_region in verification.regions.items()
        },
    }


def _place(metric: str) -> int:
    """Where a metric's chart stands: what judges members next to the RMSE, the rest as it comes."""
    return _FIRST_METRICS.index(metric) if metric in _FIRST_METRICS else len(_FIRST_METRICS)


def _ranks(verification: Verification) -> dict[str, Any] | None:
    """The rank histogram at the first, a middle and the last lead time, by channel."""
    histogram = verification.rank_histogram
    if histogram is None:
        return None
    last = len(histogram.lead_hours) - 1
    leads = sorted({0, last // 2, last})
    return {
        "over": over_region(verification.region),
        "leads": [lead_in_words(histogram.lead_hours[lead]) for lead in leads],
        "shares": [
            [values_to_draw(histogram.shares[lead, place].tolist()) for lead in leads]
            for place in range(len(histogram.channels))
        ],
    }


def _drawn(series: NDArray[np.float64], label: MetricLabel, channel: str) -> list[float | None]:
    """A series in shown units; empty where nothing of it is defined."""
    factor = units_of(channel)[1] if label.units == "channel" else 1.0
    values = values_to_draw(series.tolist(), factor)
    return values if any(value is not None for value in values) else []
