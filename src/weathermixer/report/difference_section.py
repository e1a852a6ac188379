"""Scorecards: the model's scores beside another forecast's, all channels and lead times at once.

Drawn as SVG without a script. Differences that are not significant are pale and hatched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weathermixer.report.formatting import label_of, short_number
from weathermixer.report.score_tables import group_of
from weathermixer.verification.block_bootstrap import CONFIDENCE, RESAMPLES
from weathermixer.verification.differences import Differences, scale_of
from weathermixer.verification.metrics import ACC
from weathermixer.verification.regions import over_region
from weathermixer.verification.verification_record import Verification

# In the units of the drawing, about a pixel each.
_LABELS_WIDTH = 132.0
_CELLS_WIDTH = 236.0
_WIDEST_CELL = 40.0
_ROW_HEIGHT = 11.0
# Parts of the scale at which one shade ends and the next begins.
SHADES = (0.1, 0.25, 0.5, 0.75)


@dataclass(frozen=True)
class CardLabel:
    """A ``text`` of a scorecard, ``at`` its place along the axis that it belongs to."""

    text: str
    at: float


@dataclass(frozen=True)
class Scorecard:
    """A drawing of the differences in one score, ``title``, from one other forecast.

    ``sure`` and ``unsure`` are SVG paths of cells by the class of the style sheet that colours
    them, significant and not; ``hatched`` is the path of the latter together. ``rules`` are the
    places at which another variable begins, ``rows`` and ``columns`` the labels; ``width`` and
    ``height`` those of all cells, which begin at ``left``. ``scale`` is the difference that has the
    darkest shade, as text, ``lower_is_better`` says of the score. ``summary`` is for those who
    cannot see it.
    """

    title: str
    summary: str
    left: float
    width: float
    height: float
    sure: tuple[tuple[str, str], ...]
    unsure: tuple[tuple[str, str], ...]
    hatched: str
    rules: tuple[float, ...]
    rows: tuple[CardLabel, ...]
    columns: tuple[CardLabel, ...]
    scale: str
    lower_is_better: bool


@dataclass(frozen=True)
class DifferenceSection:
    """What the page says of forecasts beside the model's: scorecards by the other's name.

    ``over`` says which part of the globe was compared, ``method`` in a sentence how the intervals
    were made.
    """

    over: str
    method: str
    cards: tuple[tuple[str, tuple[Scorecard, ...]], ...]

    @classmethod
    def of(cls, verification: Verification) -> DifferenceSection:
        """The section about a verification that has differences."""
        differences = verification.differences
        assert differences is not None
        return cls(
            over_region(verification.region),
            method_in_words(differences),
            tuple(
                (other, tuple(_card(verification, differences, other, m) for m in by_metric))
                for other, by_metric in differences.values.items()
            ),
        )


def method_in_words(differences: Differences) -> str:
    """How intervals were made, in a sentence; their block lengths among it."""
    lengths = [length for length in differences.block_lengths if length is not None]
    if not lengths:
        return "There were too few initial times to tell which differences are significant."
    low, high = min(lengths), max(lengths)
    blocks = f"{low}" if low == high else f"{low} to {high}"
    return (
        f"Significant are those whose {CONFIDENCE:.0%} interval excludes zero, over {RESAMPLES} "
        f"resamples of blocks of {blocks} consecutive initial times."
    ).replace("%", "\u00a0%")


def _card(
    verification: Verification, differences: Differences, other: str, metric: str
) -> Scorecard:
    values = differences.relative(other, metric, verification.scores).T
    sure = differences.significant(other, metric).T
    better = differences.better(other, metric).T
    known = np.isfinite(values)
    limit = scale_of(values)
    num_rows, num_columns = values.shape
    cell = min(_WIDEST_CELL, _CELLS_WIDTH / num_columns)
    shades = np.searchsorted(np.array(SHADES) * limit, np.abs(values), side="right")

    def paths(chosen: NDArray[np.bool_]) -> Iterator[tuple[str, str]]:
        for name, side in (("good", better), ("bad", ~better)):
            for shade in range(len(SHADES) + 1):
                cells = chosen & side & known & (shades == shade)
                if cells.any():
                    yield f"{name}-{shade}", _path(cells, cell)

    rows, rules = _rows(differences.channels)
    unit = "" if metric == ACC.name else "\u00a0%"
    scale = limit / 100.0 if metric == ACC.name else limit
    title = verification.metric_labels[metric].title
    return Scorecard(
        title=title,
        summary=(
            f"{title} of the model against {other}: significantly better in "
            f"{(sure & better).sum()} of {known.sum()} cells of channel and lead time, "
            f"significantly worse in {(sure & ~better).sum()}"
        ),
        left=_LABELS_WIDTH,
        width=cell * num_columns,
        height=_ROW_HEIGHT * num_rows,
        sure=tuple(paths(sure)),
        unsure=tuple(paths(~sure)),
        hatched=_path(~sure & known, cell),
        rules=rules,
        rows=rows,
        columns=_columns(differences.lead_hours, cell),
        scale=f"{short_number(scale, 2 if scale < 1.0 else 1)}{unit}",
        lower_is_better=metric != ACC.name,
    )


def _path(cells: NDArray[np.bool_], width: float) -> str:
    """Cells ``(row, column)`` as the ``d`` of an SVG path, neighbours in a row together."""
    words = []
    for row, of_row in enumerate(cells):
        ends = np.flatnonzero(np.diff(of_row, prepend=False, append=False))
        for start, stop in zip(ends[::2].tolist(), ends[1::2].tolist(), strict=True):
            left, right = _LABELS_WIDTH + start * width, _LABELS_WIDTH + stop * width
            words.append(
                f"M{left:.2f} {row * _ROW_HEIGHT:g}H{right:.2f}v{_ROW_HEIGHT:g}H{left:.2f}z"
            )
    return "".join(words)


def _rows(channels: Sequence[str]) -> tuple[tuple[CardLabel, ...], tuple[float, ...]]:
    """A label for each channel, of a variable the first in full, and where variables begin."""
    labels, rules = [], []
    previous = None
    for row, name in enumerate(channels):
        group = group_of(name)
        label = label_of(name)
        if group == previous and group:
            label = label.rpartition(", ")[2]
        elif row and group != previous:
            rules.append(row * _ROW_HEIGHT)
        labels.append(CardLabel(label, (row + 0.5) * _ROW_HEIGHT))
        previous = group
    return tuple(labels), tuple(rules)


def _columns(hours: Sequence[float], cell: float) -> tuple[CardLabel, ...]:
    """Labels for whole days, or for all lead times where there are none, as many as fit."""
    chosen = [lead for lead, each in enumerate(hours) if each % 24.0 == 0.0]
    in_days = bool(chosen)
    chosen = chosen or list(range(len(hours)))
    every = max(1, -(-len(chosen) * 16 // max(1, round(cell * len(hours)))))
    return tuple(
        CardLabel(
            f"{hours[lead] / 24.0:g} d" if in_days else f"{hours[lead]:g} h",
            _LABELS_WIDTH + (lead + 0.5) * cell,
        )
        for lead in chosen[every - 1 :: every]
    )
