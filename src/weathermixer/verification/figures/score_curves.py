"""Curves of RMSE and ACC against lead time, of every source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from weathermixer.verification.figures.panels import (
    DOTS_PER_INCH,
    LINES,
    add_legend,
    channel_panels,
    lead_axis,
    line_beside,
)
from weathermixer.verification.headline import headline_channels, shown_units
from weathermixer.verification.scores import Scores


def draw_scores(scores: Scores, region: str, folder: Path) -> None:
    """Write ``rmse.png`` of a region, and ``acc.png`` where there is a climatology."""
    _curves(scores, "rmse", "RMSE", region).savefig(folder / "rmse.png", dpi=DOTS_PER_INCH)
    if "acc" in scores.metrics:
        _curves(scores, "acc", "ACC", region).savefig(folder / "acc.png", dpi=DOTS_PER_INCH)


def _curves(scores: Scores, metric: str, name: str, region: str) -> Figure:
    """A panel for each headline channel: every source's score by lead time."""
    channels = headline_channels(scores.channels)
    figure, panels = channel_panels(channels, "lead time (days)", region=region)
    for panel, channel in zip(panels, channels, strict=True):
        units, factor = shown_units(channel)
        _curve(panel, scores, metric, channel, 1.0 if metric == "acc" else factor)
        panel.set_ylabel(name if metric == "acc" else f"{name} ({units})", fontsize=9)
    add_legend(figure, panels[0])
    return figure


def _curve(panel: Axes, scores: Scores, metric: str, channel: str, factor: float) -> None:
    days = np.array(scores.lead_hours) / 24.0
    lines = LINES | {source: line_beside(number) for number, source in enumerate(scores.beside)}
    for source in scores.values:
        series = factor * scores.series(source, metric, channel)
        if np.isfinite(series).any():
            marker = "o" if len(days) == 1 else None
            panel.plot(days, series, label=source, marker=marker, **lines[source])
    if metric == "acc":
        # The usual mark of a forecast whose weather patterns are still of use.
        panel.axhline(0.6, color="#AAAAAA", linewidth=0.8, zorder=0)
        panel.set_ylim(top=1.02)
    else:
        panel.set_ylim(bottom=0.0)
    lead_axis(panel, days)
