"""What figures of curves share: panels by channel, legends, axes and styles of lines.

Colours are those of Okabe and Ito, told apart with any colour vision; line styles repeat them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from weathermixer.verification.headline import title_of
from weathermixer.verification.regions import GLOBAL, region_title
from weathermixer.verification.scores import CLIMATOLOGY, MODEL, PERSISTENCE, Values

DOTS_PER_INCH = 150

LINES: dict[str, dict[str, Any]] = {
    MODEL: {"color": "#0072B2", "linewidth": 2.2, "linestyle": "-", "zorder": 3},
    PERSISTENCE: {"color": "#D55E00", "linewidth": 1.5, "linestyle": "--", "zorder": 2},
    CLIMATOLOGY: {"color": "#555555", "linewidth": 1.5, "linestyle": "-.", "zorder": 1},
}
_COLOURS_BESIDE = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def line_beside(number: int) -> dict[str, Any]:
    """The style of the line of a forecast beside the model, by its number among them."""
    colour = _COLOURS_BESIDE[number % len(_COLOURS_BESIDE)]
    return {"color": colour, "linewidth": 1.8, "linestyle": (0, (5, 1)), "zorder": 2.5}


def channel_panels(
    channels: Sequence[str], xlabel: str, *, region: str
) -> tuple[Figure, list[Axes]]:
    """Make a figure with a panel for each channel under its name; the caller adds a legend.

    It is headed by the region where that is not the globe.
    """
    num_columns = min(len(channels), 4)
    num_rows = -(-len(channels) // num_columns)
    figure = Figure(figsize=(3.3 * num_columns, 2.5 * num_rows + 0.5), layout="constrained")
    if region != GLOBAL:
        figure.suptitle(region_title(region), fontsize=11)
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
    """Put a legend above all panels, for the lines of one of them."""
    handles, labels = panel.get_legend_handles_labels()
    columns = min(len(labels), 6)
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)


def lead_axis(panel: Axes, days: Values) -> None:
    """Give a panel an axis of lead times in days, from zero."""
    panel.set_xlim(left=0.0)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=days[-1] >= 3.0))
