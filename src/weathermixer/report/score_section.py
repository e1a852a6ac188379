"""The scores of a verification as the page shows them: tables, headlines, and what curves need.

Whatever a verification does not have (a climatology, regions, spectra) is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weathermixer.data.channels import parse_channel
from weathermixer.report.formatting import (
    date,
    drawn,
    lead,
    lead_in_words,
    percent,
    short,
    units_of,
)
from weathermixer.verification.headline import (
    TABLE_HOURS,
    headline_channels,
    headline_leads,
    title_of,
)
from weathermixer.verification.regions import over, region_title
from weathermixer.verification.scores import CLIMATOLOGY, MODEL, PERSISTENCE, Scores
from weathermixer.verification.verification_record import MetricLabel, Verification

_USEFUL_ACC = 0.6
_HEADLINE_HOURS = 72.0


@dataclass(frozen=True)
class ScoreCell:
    """A number as it is (None: not defined), as it is shown, and from −1 to 1 how good it is."""

    value: float | None
    shown: str
    shade: float | None = None


@dataclass(frozen=True)
class ScoreRow:
    """A channel's line of a table."""

    label: str
    units: str
    cells: tuple[ScoreCell, ...]
    is_first_of_variable: bool


@dataclass(frozen=True)
class ScoreTable:
    """One score of all channels at a few lead times."""

    name: str
    title: str
    note: str
    leads: tuple[str, ...]
    rows: tuple[ScoreRow, ...]


@dataclass(frozen=True)
class HeadlineNumber:
    """A number that stands at the top of the page, with what it is and a remark."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class ScoreSection:
    """What the page says of a verification.

    ``over`` says which part of the globe was compared. ``curves`` is for the page's script.
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
            over=over(verification.region),
            num_times=len(times),
            first_time=date(times[0]),
            last_time=date(times[-1]),
            warnings=verification.warnings,
            tables=tuple(_tables(scores)),
            headlines=tuple(_headlines(scores)),
            has_climatology=CLIMATOLOGY in scores.values,
            curves=_curves(verification),
        )


def label_of(channel: str) -> str:
    """A channel in words; its name as it is where this project does not know it."""
    try:
        title = title_of(channel)
    except ValueError:
        return channel
    return title[0].upper() + title[1:]


def _tables(scores: Scores) -> Iterator[ScoreTable]:
    shown = headline_leads(scores.lead_hours, TABLE_HOURS)
    leads = tuple(lead(scores.lead_hours[index]) for index in shown)

    def table(
        name: str, title: str, note: str, cell: Callable[[int, int], ScoreCell]
    ) -> ScoreTable:
        rows = _rows(scores.channels, shown, cell, with_units=name == "rmse")
        return ScoreTable(name, title, note, leads, tuple(rows))

    for baseline in scores.baselines:
        note = f"1 − RMSE / RMSE of {baseline}: above zero the model is better."
        yield table(
            f"skill-{baseline}", f"Skill against {baseline}", note,
            partial(_skill_cell, _skill(scores, baseline)),
        )  # fmt: skip
    rmse = scores.values[MODEL]["rmse"]
    yield table(
        "rmse", "RMSE", "Root mean square error, weighted by area.",
        lambda at, channel: _rmse_cell(rmse[at, channel], scores.channels[channel]),
    )  # fmt: skip
    if "acc" in scores.metrics:
        acc = scores.values[MODEL]["acc"]
        yield table(
            "acc", "ACC", "Correlation of anomalies from the climatology; above 0.6 a forecast is "
            "commonly held to be useful.", lambda at, channel: _acc_cell(acc[at, channel]),
        )  # fmt: skip


def _rows(
    channels: Sequence[str],
    leads: Sequence[int],
    cell: Callable[[int, int], ScoreCell],
    *,
    with_units: bool,
) -> Iterator[ScoreRow]:
    """A row for each channel, of ``cell(lead, channel)``, by their indices."""
    previous = None
    for index, channel in enumerate(channels):
        variable = _variable(channel)
        units = units_of(channel)[0] if with_units else ""
        cells = tuple(cell(at, index) for at in leads)
        yield ScoreRow(label_of(channel), units, cells, variable != previous)
        previous = variable


def _variable(channel: str) -> str:
    """What a channel stands together with in tables: its variable, or the surface's channels."""
    try:
        parsed = parse_channel(channel)
    except ValueError:
        return channel
    return parsed.variable if parsed.level_hpa is not None else ""


def _skill(scores: Scores, baseline: str) -> NDArray[np.float64]:
    """1 − RMSE over that of a baseline, ``(lead, channel)``; NaN where it is not defined."""
    ours, theirs = scores.values[MODEL]["rmse"], scores.values[baseline]["rmse"]
    return 1.0 - np.divide(ours, theirs, out=np.full_like(ours, np.nan), where=theirs > 0.0)


def _skill_cell(skill: NDArray[np.float64], at: int, channel: int) -> ScoreCell:
    value = _defined(skill[at, channel])
    return ScoreCell(value, percent(value), None if value is None else _shade(value))


def _rmse_cell(rmse: float, channel: str) -> ScoreCell:
    value = _defined(rmse)
    return ScoreCell(value, short(None if value is None else units_of(channel)[1] * value))


def _acc_cell(acc: float) -> ScoreCell:
    value = _defined(acc)
    shade = None if value is None else _shade((value - _USEFUL_ACC) / (1.0 - _USEFUL_ACC))
    return ScoreCell(value, short(value), shade)


def _defined(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _shade(value: float) -> float:
    return round(max(-1.0, min(1.0, value)), 3)


def _headlines(scores: Scores) -> Iterator[HeadlineNumber]:
    """A few numbers that say how good the forecasts are."""
    hours = scores.lead_hours
    at = min(range(len(hours)), key=lambda index: abs(hours[index] - _HEADLINE_HOURS))
    for channel in headline_channels(scores.channels)[:1]:
        index = scores.channels.index(channel)
        units, factor = units_of(channel)
        rmse = _defined(scores.values[MODEL]["rmse"][at, index])
        skill = _skill(scores, PERSISTENCE)[at, index] if PERSISTENCE in scores.values else np.nan
        yield HeadlineNumber(
            f"{label_of(channel)}: RMSE at {lead_in_words(hours[at])}",
            f"{short(None if rmse is None else factor * rmse)} {units}".strip(),
            _against(_defined(skill), PERSISTENCE),
        )
        if "acc" in scores.metrics:
            yield HeadlineNumber(
                f"{label_of(channel)}: useful until",
                _crossing(scores.series(MODEL, "acc", channel), hours, _USEFUL_ACC, falling=True),
                f"anomaly correlation above {_USEFUL_ACC:g}",
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
            name: {"label": label.title, "hasUnits": label.units == "channel"}
            for name, label in labels.items()
        },
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


def _drawn(series: NDArray[np.float64], label: MetricLabel, channel: str) -> list[float | None]:
    """A series in shown units; empty where nothing of it is defined."""
    factor = units_of(channel)[1] if label.units == "channel" else 1.0
    values = drawn(series.tolist(), factor)
    return values if any(value is not None for value in values) else []
