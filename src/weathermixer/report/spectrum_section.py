"""Energy by zonal wavenumber, of forecasts and of the truth, where a verification has it.

A forecast that blurs has too little energy at short waves, which the ratio to the truth shows best.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from weathermixer.report.formatting import label_of, lead_in_words, units_of, values_to_draw
from weathermixer.verification.headline import headline_channels
from weathermixer.verification.scores import MODEL, TRUTH
from weathermixer.verification.spectrum import Spectra


def spectrum_charts(spectra: Spectra) -> list[dict[str, Any]]:
    """The charts of each headline channel, as the page's script draws them; none without spectra.

    They are of the first region.
    """
    if not spectra.num_wavenumbers:
        return []
    return [
        {"label": label_of(channel), "charts": list(_charts(spectra, channel))}
        for channel in headline_channels(spectra.channels)
    ]


def _charts(spectra: Spectra, channel: str) -> Iterator[dict[str, Any]]:
    """The energy, and its ratio to the truth's, without the mean (wavenumber 0)."""
    region = spectra.regions[0]
    waves = list(range(1, spectra.num_wavenumbers))
    last = len(spectra.lead_hours) - 1
    units, factor = units_of(channel)
    by_source = {
        source: spectra.series(source, region, channel)[:, 1:].tolist() for source in spectra.values
    }
    truth = by_source.pop(TRUTH)
    model = by_source.pop(MODEL)

    shown = [
        (MODEL, model, lead, f"lead-{number}")
        for number, lead in enumerate(sorted({0, last // 2, last}))
    ]
    for number, (name, energies) in enumerate(by_source.items()):
        shown.append((name, energies, last, f"beside-{number % 4}"))
    energy = [_line("truth", "truth", waves, values_to_draw(truth[last], factor**2))]
    ratio = []
    for name, energies, lead, style in shown:
        label = f"{name}, {lead_in_words(spectra.lead_hours[lead])}"
        energy.append(_line(label, style, waves, values_to_draw(energies[lead], factor**2)))
        shares = [a / b if b else None for a, b in zip(energies[lead], truth[lead], strict=True)]
        ratio.append(_line(label, style, waves, values_to_draw(shares)))
    x = {"label": "zonal wavenumber", "log": True}
    unit = f"m × ({units})²" if units else ""
    yield {"title": "Energy", "unit": unit, "x": x, "y": {"log": True}, "lines": energy}
    yield {
        "title": "Energy over that of the truth", "unit": "", "x": x, "y": {"log": True},
        "lines": ratio, "limit": 1.0,
    }  # fmt: skip


def _line(name: str, style: str, x: Sequence[float], y: Sequence[float | None]) -> dict[str, Any]:
    return {"name": name, "style": style, "x": x, "y": y, "dots": False}
