"""Curves of the energy of forecasts and of the truth by zonal wavenumber."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

from weathermixer.verification.figures.panels import (
    DOTS_PER_INCH,
    add_legend,
    channel_panels,
    line_beside,
)
from weathermixer.verification.headline import headline_channels, shown_units
from weathermixer.verification.scores import MODEL, TRUTH
from weathermixer.verification.spectrum import Spectra


def draw_spectra(spectra: Spectra, region: str, folder: Path) -> None:
    """Write ``spectrum.png``: energy by zonal wavenumber in a region, at a few lead times."""
    channels = headline_channels(spectra.channels)
    last = len(spectra.lead_hours) - 1
    leads = sorted({0, last // 2, last})
    shades = matplotlib.colormaps["viridis"](np.linspace(0.1, 0.85, len(leads)))
    wavenumbers = np.arange(1, spectra.num_wavenumbers)
    figure, panels = channel_panels(channels, "zonal wavenumber", region=region)
    for panel, channel in zip(panels, channels, strict=True):
        units, factor = shown_units(channel)
        energy = {
            source: factor**2 * spectra.series(source, region, channel)[:, 1:]
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
