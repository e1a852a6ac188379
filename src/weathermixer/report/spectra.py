"""Energy by zonal wavenumber, of forecasts and of the truth, where a verification has it.

A forecast that blurs has too little energy at short waves, which the ratio to the truth shows best.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from weathermixer.errors import UserError
from weathermixer.report.numbers import drawn, lead_in_words, units_of
from weathermixer.report.scoring import label_of
from weathermixer.verification.headline import headline_channels
from weathermixer.verification.scores import MODEL

_NUM_LEADS = 3

Energies = Mapping[str, Mapping[str, Sequence[float]]]  # channel, lead time, wavenumber


def spectra(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each headline channel its charts; none where the record has no spectra.

    Raises UserError where the record's spectra are not what ``verify`` writes.
    """
    spectrum = record.get("spectrum")
    if not spectrum or not spectrum.get("wavenumber"):
        return []
    try:
        truth: Energies = spectrum["truth"]
        return [
            {"label": label_of(channel), "charts": list(_charts(spectrum, channel))}
            for channel in headline_channels(list(truth))
        ]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(
            f"the spectra in scores.json are not what 'weathermixer verify' writes "
            f"({type(error).__name__}: {error}): verify the forecast again"
        ) from error


def _charts(spectrum: Mapping[str, Any], channel: str) -> Iterator[dict[str, Any]]:
    """The energy, and its ratio to the truth's, without the mean (wavenumber 0)."""
    waves = spectrum["wavenumber"][1:]
    hours = sorted(spectrum["truth"][channel], key=float)
    last = len(hours) - 1
    chosen = [hours[at] for at in sorted({0, last // 2, last})][:_NUM_LEADS]
    units, factor = units_of(channel)
    truth = spectrum["truth"][channel]

    sources = [(MODEL, spectrum["forecast"], at, f"lead-{i}") for i, at in enumerate(chosen)]
    for number, (name, energies) in enumerate(spectrum.get("beside", {}).items()):
        sources.append((name, energies, hours[last], f"beside-{number % 4}"))
    energy = [_line("truth", "truth", waves, drawn(truth[hours[last]][1:], factor**2))]
    ratio = []
    for name, energies, at, style in sources:
        values = energies[channel][at][1:]
        label = f"{name}, {lead_in_words(float(at))}"
        energy.append(_line(label, style, waves, drawn(values, factor**2)))
        shares = [a / b if b else None for a, b in zip(values, truth[at][1:], strict=True)]
        ratio.append(_line(label, style, waves, drawn(shares)))
    x = {"label": "zonal wavenumber", "log": True}
    unit = f"m × ({units})²" if units else ""
    yield {"title": "Energy", "unit": unit, "x": x, "y": {"log": True}, "lines": energy}
    yield {
        "title": "Energy over that of the truth", "unit": "", "x": x, "y": {"log": True},
        "lines": ratio, "limit": 1.0,
    }  # fmt: skip


def _line(name: str, style: str, x: Sequence[float], y: Sequence[float | None]) -> dict[str, Any]:
    return {"name": name, "style": style, "x": x, "y": y, "dots": False}
