"""Scores as pictures: against lead time, and all channels at once.

Colours are those of Okabe and Ito, told apart with any colour vision; line styles repeat them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from weathermixer.data.channels import parse_channel
from weathermixer.verification.headline import headline_channels, shown_units, title_of
from weathermixer.verification.scores import CLIMATOLOGY, MODEL, PERSISTENCE, Scores, Values

DOTS_PER_INCH = 150

LINES: dict[str, dict[str, Any]] = {
    MODEL: {"color": "#0072B2", "linewidth": 2.2, "linestyle": "-", "zorder": 3},
    PERSISTENCE: {"color": "#D55E00", "linewidth": 1.5, "linestyle": "--", "zorder": 2},
    CLIMATOLOGY: {"color": "#555555", "linewidth": 1.5, "linestyle": "-.", "zorder": 1},
}
_COLOURS_BESIDE = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def line_beside(number: int) -> dict[str, Any]:
    """How the forecast of some number beside the model is drawn."""
    colour = _COLOURS_BESIDE[number % len(_COLOURS_BESIDE)]
    return {"color": colour, "linewidth": 1.8, "linestyle": (0, (5, 1)), "zorder": 2.5}


def draw_scores(scores: Scores, folder: Path) -> None:
    """Write ``rmse.png``, ``acc.png`` where there is a climatology, and ``scorecard.png``."""
    _curves(scores, "rmse", "RMSE").savefig(folder / "rmse.png", dpi=DOTS_PER_INCH)
    if "acc" in scores.metrics:
        _curves(scores, "acc", "ACC").savefig(folder / "acc.png", dpi=DOTS_PER_INCH)
    _scorecard(scores).savefig(folder / "scorecard.png", dpi=DOTS_PER_INCH)


def channel_panels(channels: Sequence[str], xlabel: str) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each channel under its name; the caller adds a legend."""
    num_columns = min(len(channels), 4)
    num_rows = -(-len(channels) // num_columns)
    figure = Figure(figsize=(3.3 * num_columns, 2.5 * num_rows + 0.5), layout="constrained")
    panels = figure.subplots(num_rows, num_columns, sharex=True, squeeze=False)
    for panel, channel in zip(panels.flat, channels, strict=False):
        panel.set_title(title_of(channel), fontsize=10)
        panel.grid(color="#E5E5E5", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
    for panel in panels.flat[len(channels) :]:
        panel.set_axis_off()
    for column in range(num_columns):
        lowest = [row for row in range(num_rows) if row * num_columns + column < len(channels)][-1]
        panels[lowest, column].set_xlabel(xlabel, fontsize=9)
        panels[lowest, column].tick_params(labelbottom=True)
    return figure, list(panels.flat[: len(channels)])


def add_legend(figure: Figure, panel: Axes) -> None:
    """Above all panels, for the lines of one of them."""
    handles, labels = panel.get_legend_handles_labels()
    columns = min(len(labels), 6)
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)


def lead_axis(panel: Axes, days: Values) -> None:
    """Ticks for lead times in days, from zero."""
    panel.set_xlim(left=0.0)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=days[-1] >= 3.0))


def _curves(scores: Scores, metric: str, name: str) -> Figure:
    """A panel for each headline channel: every source's score by lead time."""
    channels = headline_channels(scores.channels)
    figure, panels = channel_panels(channels, "lead time (days)")
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


def _scorecard(scores: Scores) -> Figure:
    """Every channel and lead time: the model's RMSE over persistence's, in percent less or more."""
    ours, theirs = (scores.values[source]["rmse"].T for source in (MODEL, PERSISTENCE))
    percent = 100.0 * (np.divide(ours, theirs, out=np.ones_like(ours), where=theirs > 0.0) - 1.0)
    figure = Figure(
        figsize=(4.0 + 0.1 * len(scores.lead_hours), 1.4 + 0.115 * len(scores.channels)),
        layout="constrained",
    )
    panel = figure.subplots()
    image = panel.imshow(
        np.clip(percent, -100.0, 100.0),
        cmap="RdBu_r",
        norm=TwoSlopeNorm(0.0, -100.0, 100.0),
        aspect="auto",
        interpolation="nearest",
    )
    _mark_variables(panel, scores.channels)
    whole_days = [lead for lead, hours in enumerate(scores.lead_hours) if hours % 24.0 == 0.0]
    ticks = whole_days or range(len(scores.lead_hours))
    panel.set_xticks(ticks, [f"{scores.lead_hours[tick] / 24.0:g}" for tick in ticks], fontsize=8)
    panel.set_xlabel("lead time (days)", fontsize=9)
    panel.set_title("RMSE of the model, relative to persistence", fontsize=10)
    bar = figure.colorbar(image, ax=panel, shrink=0.6, pad=0.02)
    bar.set_label("worse (+) or better (−), %", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure


def _mark_variables(panel: Axes, channels: Sequence[str]) -> None:
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
