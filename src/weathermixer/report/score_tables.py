"""Tables of scores: skill, RMSE and ACC of all channels at a few lead times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np
from numpy.typing import NDArray

from weathermixer.data.channels import parse_channel
from weathermixer.report.formatting import (
    MISSING,
    label_of,
    percent,
    short_lead,
    short_number,
    units_of,
)
from weathermixer.verification.differences import Differences, scale_of
from weathermixer.verification.headline import TABLE_HOURS, headline_leads
from weathermixer.verification.metrics import ACC
from weathermixer.verification.scores import MODEL, Scores

USEFUL_ACC = 0.6


@dataclass(frozen=True)
class ScoreCell:
    """A number of a table: its ``value``, None where it is not defined, and how it is ``shown``.

    ``shade`` says from −1 to 1 how good it is; ``is_unsure`` of a difference, that it is not
    significant.
    """

    value: float | None
    shown: str
    shade: float | None = None
    is_unsure: bool = False


@dataclass(frozen=True)
class ScoreRow:
    """The line of a table for a channel, which ``label`` names: a cell for each lead time.

    ``units`` are empty where the score has none or the table does not show them;
    ``is_first_of_variable`` where another variable begins.
    """

    label: str
    units: str
    cells: tuple[ScoreCell, ...]
    is_first_of_variable: bool


@dataclass(frozen=True)
class ScoreTable:
    """A table of one score of all channels, in ``rows``, at a few lead times, in columns.

    ``name`` identifies it in the page, ``title`` and ``note`` are for the reader, and ``leads``
    head the columns.
    """

    name: str
    title: str
    note: str
    leads: tuple[str, ...]
    rows: tuple[ScoreRow, ...]


def score_tables(scores: Scores, differences: Differences | None = None) -> Iterator[ScoreTable]:
    """The tables of scores: skill against each baseline, RMSE, ACC, and differences from others."""
    shown = headline_leads(scores.lead_hours, TABLE_HOURS)
    leads = tuple(short_lead(scores.lead_hours[index]) for index in shown)

    def table(
        name: str, title: str, note: str, cell: Callable[[int, int], ScoreCell]
    ) -> ScoreTable:
        rows = _rows(scores.channels, shown, cell, with_units=name == "rmse")
        return ScoreTable(name, title, note, leads, tuple(rows))

    for baseline in scores.baselines:
        note = f"1 − RMSE / RMSE of {baseline}: above zero the model is better."
        yield table(
            f"skill-{baseline}", f"Skill against {baseline}", note,
            partial(_skill_cell, skill_against(scores, baseline)),
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
    if differences is None:
        return
    for number, (other, by_metric) in enumerate(differences.values.items()):
        for metric in by_metric:
            title = f"{metric.upper()} against {other}"
            yield table(
                f"beside-{number}-{metric}", title, _difference_note(metric, other),
                partial(_difference_cell, _DifferenceCells.of(differences, scores, other, metric)),
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
        variable = group_of(channel)
        units = units_of(channel)[0] if with_units else ""
        cells = tuple(cell(at, index) for at in leads)
        yield ScoreRow(label_of(channel), units, cells, variable != previous)
        previous = variable


def group_of(channel: str) -> str:
    """What a channel stands together with in tables: its variable, or the surface's channels."""
    try:
        parsed = parse_channel(channel)
    except ValueError:
        return channel
    return parsed.variable if parsed.level_hpa is not None else ""


def skill_against(scores: Scores, baseline: str) -> NDArray[np.float64]:
    """Skill ``1 − RMSE / RMSE of a baseline``, ``(lead, channel)``; NaN where not defined."""
    ours, theirs = scores.values[MODEL]["rmse"], scores.values[baseline]["rmse"]
    return 1.0 - np.divide(ours, theirs, out=np.full_like(ours, np.nan), where=theirs > 0.0)


def _skill_cell(skill: NDArray[np.float64], at: int, channel: int) -> ScoreCell:
    value = defined(skill[at, channel])
    return ScoreCell(value, percent(value), None if value is None else _shade(value))


def _rmse_cell(rmse: float, channel: str) -> ScoreCell:
    value = defined(rmse)
    return ScoreCell(value, short_number(None if value is None else units_of(channel)[1] * value))


def _acc_cell(acc: float) -> ScoreCell:
    value = defined(acc)
    shade = None if value is None else _shade((value - USEFUL_ACC) / (1.0 - USEFUL_ACC))
    return ScoreCell(value, short_number(value), shade)


def _difference_note(metric: str, other: str) -> str:
    if metric == ACC.name:
        meaning = f"ACC less that of {other}, in hundredths: above zero the model is better"
    else:
        meaning = (
            f"{metric.upper()} less that of {other}, in percent of it: below zero the model is "
            "better"
        )
    return f"{meaning}. In parentheses and hatched: not significant, or not known."


@dataclass(frozen=True)
class _DifferenceCells:
    """What cells of a table of differences show, ``(lead, channel)``."""

    relative: NDArray[np.float64]
    goodness: NDArray[np.float64]
    is_sure: NDArray[np.bool_]
    unit: str

    @classmethod
    def of(cls, differences: Differences, scores: Scores, other: str, metric: str) -> Self:
        relative = differences.relative(other, metric, scores)
        sign = 1.0 if metric == ACC.name else -1.0
        goodness = sign * relative / scale_of(relative)
        unit = "" if metric == ACC.name else " %"
        return cls(relative, goodness, differences.significant(other, metric), unit)


def _difference_cell(cells: _DifferenceCells, at: int, channel: int) -> ScoreCell:
    value = defined(cells.relative[at, channel])
    if value is None:
        return ScoreCell(None, MISSING)
    digits = 0 if abs(value) >= 10.0 else 1
    shown = f"{value:+.{digits}f}{cells.unit}".replace("-", "−")
    is_sure = bool(cells.is_sure[at, channel])
    shade = _shade(float(cells.goodness[at, channel]))
    return ScoreCell(value / 100.0, shown if is_sure else f"({shown})", shade, not is_sure)


def defined(value: float) -> float | None:
    """A number, or None where it is NaN or infinite."""
    return float(value) if np.isfinite(value) else None


def _shade(value: float) -> float:
    return round(max(-1.0, min(1.0, value)), 3)
