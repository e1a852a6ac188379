"""Curves of RMSE against lead time, by region."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D

from weathermixer.verification.figures.panels import (
    DOTS_PER_INCH,
    add_legend,
    channel_panels,
    lead_axis,
)
from weathermixer.verification.headline import headline_channels, shown_units
from weathermixer.verification.regions import GLOBAL, region_title
from weathermixer.verification.scores import MODEL, PERSISTENCE, Scores

_REGION_COLOURS = {
    GLOBAL: "#000000",
    "tropics": "#E69F00",
    "extratropics_north": "#0072B2",
    "extratropics_south": "#009E73",
}


def draw_regions(regions: Mapping[str, Scores], folder: Path) -> None:
    """Write ``regions.png``: the RMSE in each region, of the model and of persistence."""
    (whole, scores), *_ = regions.items()
    channels = headline_channels(scores.channels)
    days = np.array(scores.lead_hours) / 24.0
    figure, panels = channel_panels(channels, "lead time (days)", region=whole)
    marker = "o" if len(days) == 1 else None
    for panel, channel in zip(panels, channels, strict=True):
        units, factor = shown_units(channel)
        for region, of_region in regions.items():
            colour, label = _REGION_COLOURS.get(region, "#000000"), region_title(region)
            series = factor * of_region.series(MODEL, "rmse", channel)
            panel.plot(days, series, color=colour, label=label, marker=marker)
            series = factor * of_region.series(PERSISTENCE, "rmse", channel)
            panel.plot(days, series, color=colour, linewidth=1.0, linestyle=":", marker=marker)
        panel.set_ylabel(f"RMSE ({units})", fontsize=9)
        panel.set_ylim(bottom=0.0)
        lead_axis(panel, days)
    panels[0].add_line(Line2D([], [], color="#555555", linestyle=":", label=PERSISTENCE))
    add_legend(figure, panels[0])
    figure.savefig(folder / "regions.png", dpi=DOTS_PER_INCH)
