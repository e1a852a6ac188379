"""Scores by region and by wavenumber as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.lines import Line2D

from weathermixer.verification.headline import headline_channels, shown_units
from weathermixer.verification.pictures import (
    DOTS_PER_INCH,
    add_legend,
    channel_panels,
    lead_axis,
    line_beside,
)
from weathermixer.verification.regions import GLOBAL
from weathermixer.verification.scores import MODEL, PERSISTENCE, TRUTH, Scores
from weathermixer.verification.spectrum import Spectra

_REGION_COLOURS = {
    GLOBAL: "#000000",
    "tropics": "#E69F00",
    "extratropics_north": "#0072B2",
    "extratropics_south": "#009E73",
}


def draw_regions(regions: Mapping[str, Scores], folder: Path) -> None:
    """Write ``regions.png``: the RMSE in each region, of the model and of persistence."""
    scores = regions[GLOBAL]
    channels = headline_channels(scores.channels)
    days = np.array(scores.lead_hours) / 24.0
    figure, panels = channel_panels(channels, "lead time (days)")
    marker = "o" if len(days) == 1 else None
    for panel, channel in zip(panels, channels, strict=True):
        units, factor = shown_units(channel)
        for region, of_region in regions.items():
            colour, label = _REGION_COLOURS[region], region.replace("_", " ")
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


def draw_spectra(spectra: Spectra, folder: Path) -> None:
    """Write ``spectrum.png``: energy by zonal wavenumber over the globe, at a few lead times."""
    channels = headline_channels(spectra.channels)
    last = len(spectra.lead_hours) - 1
    leads = sorted({0, last // 2, last})
    shades = matplotlib.colormaps["viridis"](np.linspace(0.1, 0.85, len(leads)))
    wavenumbers = np.arange(1, spectra.num_wavenumbers)
    figure, panels = channel_panels(channels, "zonal wavenumber")
    for panel, channel in zip(panels, channels, strict=True):
        units, factor = shown_units(channel)
        energy = {
            source: factor**2 * spectra.series(source, GLOBAL, channel)[:, 1:]
            for source in spectra.values
        }
        truth = energy.pop(TRUTH)[last]
        panel.loglog(wavenumbers, truth, color="black", linewidth=2.2, label=TRUTH)
        for lead, shade in zip(leads, shades, strict=True):
            label = f"{MODEL}, {spectra.lead_hours[lead]:g} h"
            panel.loglog(wavenumbers, energy[MODEL][lead], color=shade, label=label)
        del energy[MODEL]
        for number, (source, values) in enumerate(energy.items()):
            label = f"{source}, {spectra.lead_hours[last]:g} h"
            panel.loglog(wavenumbers, values[last], label=label, **line_beside(number))
        panel.set_ylabel(f"energy (m × ({units})²)", fontsize=9)
    add_legend(figure, panels[0])
    figure.savefig(folder / "spectrum.png", dpi=DOTS_PER_INCH)
