"""All channels and lead times at once: the model's scores beside another forecast's.

Differences whose interval includes zero are pale and hatched.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from weathermixer.verification.block_bootstrap import CONFIDENCE
from weathermixer.verification.differences import Differences, scale_of
from weathermixer.verification.figures.panels import DOTS_PER_INCH
from weathermixer.verification.figures.scorecard import COLOURS, lead_days, mark_variables
from weathermixer.verification.metrics import ACC
from weathermixer.verification.regions import GLOBAL, over_region
from weathermixer.verification.scores import Scores

_PALE = 0.35
_HATCH = "////"
_HATCH_COLOUR = "#8A8A8A"
_LONGEST_NAME = 28


def draw_difference_scorecard(
    differences: Differences, scores: Scores, region: str, folder: Path
) -> None:
    """Write ``scorecard_beside.png``: a row of panels for each other forecast, one for each score.

    ``scores`` are those that the differences are between, over a ``region``.
    """
    others = list(differences.values)
    metrics = list(differences.values[others[0]])
    width = 1.6 + max(2.0, 0.1 * len(scores.lead_hours))
    figure = Figure(
        figsize=(
            2.4 + width * len(metrics),
            (1.6 + 0.115 * len(scores.channels)) * len(others) + 0.4,
        ),
        layout="constrained",
    )
    panels = figure.subplots(len(others), len(metrics), squeeze=False, sharey=True)
    for row, other in zip(panels, others, strict=True):
        for panel, metric in zip(row, metrics, strict=True):
            _draw(figure, panel, differences, scores, other=other, metric=metric)
        mark_variables(row[0], scores.channels)
    title = "The model beside other forecasts"
    if region != GLOBAL:
        title += f", {over_region(region)}"
    figure.suptitle(title, fontsize=11)
    label = (
        f"not significant: the {CONFIDENCE:.0%} interval of the difference includes zero, or is "
        "not known"
    )
    sample = Patch(facecolor="#E3E3E3", edgecolor=_HATCH_COLOUR, hatch=_HATCH, label=label)
    figure.legend(handles=[sample], loc="outside lower center", frameon=False, fontsize=9)
    figure.savefig(folder / "scorecard_beside.png", dpi=DOTS_PER_INCH)


def _draw(
    figure: Figure,
    panel: Axes,
    differences: Differences,
    scores: Scores,
    *,
    other: str,
    metric: str,
) -> None:
    """One panel: channels downwards, lead times across."""
    values = differences.relative(other, metric, scores).T
    unsure = ~differences.significant(other, metric).T
    limit = scale_of(values)
    norm = TwoSlopeNorm(0.0, -limit, limit)
    colours = f"{COLOURS}_r" if metric != ACC.name else COLOURS
    mapped = ScalarMappable(norm, colours)
    picture = mapped.to_rgba(np.ma.masked_invalid(np.clip(values, -limit, limit)))
    picture[unsure, :3] = 1.0 - _PALE * (1.0 - picture[unsure, :3])
    panel.imshow(picture, aspect="auto", interpolation="nearest")
    _hatch(panel, unsure)
    ticks, labels = lead_days(scores.lead_hours)
    panel.set_xticks(ticks, labels, fontsize=8)
    panel.set_xlabel("lead time (days)", fontsize=9)
    name = other if len(other) <= _LONGEST_NAME else f"…{other[1 - _LONGEST_NAME :]}"
    panel.set_title(f"{metric.upper()}, against {name}", fontsize=9)
    panel.tick_params(axis="y", length=0)
    bar = figure.colorbar(mapped, ax=panel, location="bottom", shrink=0.9, pad=0.02, aspect=30)
    better, worse = ("+", "−") if metric == ACC.name else ("−", "+")
    unit = "hundredths" if metric == ACC.name else "%"
    bar.set_label(f"better ({better}) or worse ({worse}), {unit}", fontsize=8)
    bar.ax.tick_params(labelsize=7)


def _hatch(panel: Axes, cells: NDArray[np.bool_]) -> None:
    """Hatch some cells ``(row, column)`` of an image."""
    corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    squares = [corners + place for place in np.argwhere(cells)[:, ::-1]]
    panel.add_collection(
        PolyCollection(
            squares, facecolors="none", edgecolors=_HATCH_COLOUR, hatch=_HATCH, linewidths=0.0
        )
    )
