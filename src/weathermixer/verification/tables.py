"""Scores as a table for a terminal."""

from __future__ import annotations

import io
import math
import shutil
import sys

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from weathermixer.verification.headline import (
    TABLE_HOURS,
    headline_channels,
    headline_leads,
    short_name,
    shown_units,
)
from weathermixer.verification.metrics import Values
from weathermixer.verification.scores import MODEL, Scores

_NARROWEST = 100


def render(scores: Scores, title: str) -> str:
    """Render RMSE, ACC and scores of ensembles as a table under a title, for a terminal.

    Its rows are headline channels, the model and other sources; its columns a few lead times.
    """
    leads = headline_leads(scores.lead_hours, TABLE_HOURS)
    table = Table(box=SIMPLE, header_style="", padding=(0, 1))
    for heading in ("RMSE", "", ""):
        table.add_column(heading, no_wrap=True)
    for lead in leads:
        table.add_column(f"{scores.lead_hours[lead]:g} h", justify="right", no_wrap=True)

    def add(labels: tuple[str, str, str], series: Values, style: str = "") -> None:
        table.add_row(*labels, *(_number(float(series[lead])) for lead in leads), style=style)

    for channel in headline_channels(scores.channels):
        units, factor = shown_units(channel)
        labels = short_name(channel), units, MODEL
        add(labels, factor * scores.series(MODEL, "rmse", channel), "bold")
        for source in (*scores.beside, *scores.baselines):
            add(("", "", source), factor * scores.series(source, "rmse", channel))
        if "acc" in scores.metrics:
            for source in (MODEL, *scores.beside):
                add(("", "", f"ACC of {source}"), scores.series(source, "acc", channel))
        if "crps" in scores.metrics:
            for source in (MODEL, *scores.beside):
                add(("", "", f"CRPS of {source}"), factor * scores.series(source, "crps", channel))
            add(("", "", "spread-skill"), scores.series(MODEL, "spread_skill", channel))
        table.add_section()
    for source in (*scores.beside, *scores.baselines):
        labels = f"all {len(scores.channels)}", "", f"÷ {source}"
        add(labels, scores.relative_rmse(source), "bold")
    text = io.StringIO()
    Console(
        file=text,
        width=max(_NARROWEST, shutil.get_terminal_size().columns),
        force_terminal=sys.stdout.isatty(),
    ).print(table)
    note = "÷: RMSE of the model over that of the other, averaged over all channels"
    lines = [title, *text.getvalue().strip("\n").splitlines(), note]
    return "\n".join(line.rstrip() for line in lines)


def _number(value: float) -> str:
    """A number to three significant digits, with an exponent where it needs one."""
    if not math.isfinite(value):
        return "-"
    if value != 0.0 and not 1e-2 <= abs(value) < 1e6:
        return f"{value:.2e}".replace("e-0", "e-").replace("e+0", "e")
    decimals = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 2
    return f"{value:.{decimals}f}"
