"""All channels and lead times at once: the model's RMSE relative to persistence's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from weathermixer.data.channels import parse_channel
from weathermixer.verification.figures.panels import DOTS_PER_INCH
from weathermixer.verification.headline import title_of
from weathermixer.verification.regions import GLOBAL, over_region
from weathermixer.verification.scores import MODEL, PERSISTENCE, Scores

COLOURS = "RdBu"
"""Colours of better (blue) and worse (red), told apart with any colour vision."""


def draw_scorecard(scores: Scores, region: str, folder: Path) -> None:
    """Write ``scorecard.png``: how many percent less or more the RMSE is than persistence's."""
    _scorecard(scores, region).savefig(folder / "scorecard.png", dpi=DOTS_PER_INCH)


def _scorecard(scores: Scores, region: str) -> Figure:
    ours, theirs = (scores.values[source]["rmse"].T for source in (MODEL, PERSISTENCE))
    percent = 100.0 * (np.divide(ours, theirs, out=np.ones_like(ours), where=theirs > 0.0) - 1.0)
    figure = Figure(
        figsize=(4.0 + 0.1 * len(scores.lead_hours), 1.4 + 0.115 * len(scores.channels)),
        layout="constrained",
    )
    panel = figure.subplots()
    image = panel.imshow(
        np.clip(percent, -100.0, 100.0),
        cmap=f"{COLOURS}_r",
        norm=TwoSlopeNorm(0.0, -100.0, 100.0),
        aspect="auto",
        interpolation="nearest",
    )
    mark_variables(panel, scores.channels)
    ticks, labels = lead_days(scores.lead_hours)
    panel.set_xticks(ticks, labels, fontsize=8)
    panel.set_xlabel("lead time (days)", fontsize=9)
    title = "RMSE of the model, relative to persistence"
    if region != GLOBAL:
        title += f",\n{over_region(region)}"
    panel.set_title(title, fontsize=10)
    bar = figure.colorbar(image, ax=panel, shrink=0.6, pad=0.02)
    bar.set_label("worse (+) or better (−), %", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure


def lead_days(lead_hours: Sequence[float]) -> tuple[list[int], list[str]]:
    """The lead times that are marked, by their indices, and what they are called: whole days."""
    days = [lead for lead, hours in enumerate(lead_hours) if hours % 24.0 == 0.0]
    ticks = days or list(range(len(lead_hours)))
    return ticks, [f"{lead_hours[tick] / 24.0:g}" for tick in ticks]


def mark_variables(panel: Axes, channels: Sequence[str]) -> None:
    """Label the rows of the scorecard, each variable's first with its name, and part variables."""
    labels: list[str] = []
    previous = None
    for row, name in enumerate(channels):
        parsed = parse_channel(name)
        if parsed.variable == previous:
            labels.append(f"{parsed.level_hpa} hPa")
        else:
            labels.append(title_of(name))
            panel.axhline(row - 0.5, color="black", linewidth=0.6)
        previous = parsed.variable
    panel.set_yticks(range(len(channels)), labels, fontsize=6.5)
    panel.tick_params(axis="y", length=0)
