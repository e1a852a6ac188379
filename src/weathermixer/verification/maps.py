"""Maps of a forecast, of what happened, and of the difference, at a few lead times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from weathermixer.verification.coastlines import coastlines
from weathermixer.verification.headline import shown_units, title_of
from weathermixer.verification.pictures import DOTS_PER_INCH
from weathermixer.verification.projection import Cells, cells_of, equal_earth

Field = NDArray[np.float32]


@dataclass(frozen=True)
class Example:
    """One channel of one forecast: by lead time in hours, the forecast and the true field.

    Fields are ``(latitude, longitude)``.
    """

    channel: str
    initial_time: np.datetime64
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    fields: Mapping[float, tuple[Field, Field]]


def draw_example(example: Example, folder: Path) -> None:
    """Write ``map_CHANNEL.png``: lead times downwards; forecast, truth and error across."""
    cells = cells_of(example.latitude, example.longitude)
    units, factor = shown_units(example.channel)
    values = factor * np.stack([np.stack(pair) for pair in example.fields.values()])
    errors = values[:, 0] - values[:, 1]
    low, high = np.percentile(values, (0.5, 99.5))
    largest = max(float(np.percentile(np.abs(errors), 99.5)), 1e-12)

    rows = len(example.fields)
    figure = Figure(figsize=(12.0, 1.95 * rows + 1.1), layout="constrained")
    panels = figure.subplots(rows, 3, squeeze=False)
    state: dict[str, Any] = {"cmap": "viridis", "vmin": low, "vmax": high}
    error: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}
    for row, (hours, (forecast, truth)) in enumerate(zip(example.fields, values, strict=True)):
        drawn = _draw(panels[row, 0], cells, forecast, state)
        _draw(panels[row, 1], cells, truth, state)
        drawn_error = _draw(panels[row, 2], cells, forecast - truth, error)
        panels[row, 0].text(
            -0.02,
            0.5,
            f"{hours:g} h",
            rotation=90,
            horizontalalignment="right",
            verticalalignment="center",
            transform=panels[row, 0].transAxes,
            fontsize=11,
        )
    for panel, name in zip(panels[0], ("forecast", "truth", "forecast − truth"), strict=True):
        panel.set_title(name, fontsize=11)
    _add_bar(figure, drawn, panels[:, :2], units, shrink=0.45)
    _add_bar(figure, drawn_error, panels[:, 2:], f"error, {units}", shrink=0.9)
    date = str(example.initial_time.astype("datetime64[m]")).replace("T", " ")
    figure.suptitle(f"{title_of(example.channel)}, from {date} UTC", fontsize=12)
    figure.savefig(folder / f"map_{example.channel}.png", dpi=DOTS_PER_INCH)


def _add_bar(figure: Figure, drawn: Any, panels: Any, label: str, *, shrink: float) -> None:
    bar = figure.colorbar(
        drawn,
        ax=panels,
        orientation="horizontal",
        extend="both",
        shrink=shrink,
        aspect=30,
        pad=0.02,
    )
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)


def _draw(panel: Axes, cells: Cells, field: Field, style: Mapping[str, Any]) -> Any:
    """One field on the globe with its coastlines and outline."""
    x, y = cells.corners()
    mesh = panel.pcolormesh(x, y, cells.arrange(field), rasterized=True, **style)
    lines = [np.column_stack(equal_earth(*line.T)) for line in coastlines()]
    panel.add_collection(LineCollection(lines, colors="black", linewidths=0.4, alpha=0.7))
    edge = np.linspace(-90.0, 90.0, 91)
    for side in (-180.0, 180.0):
        panel.plot(*equal_earth(np.full_like(edge, side), edge), color="black", linewidth=0.6)
    for pole in (-90.0, 90.0):
        ends = np.array([-180.0, 180.0])
        panel.plot(*equal_earth(ends, np.full(2, pole)), color="black", linewidth=0.6)
    panel.set_aspect("equal")
    panel.set_axis_off()
    return mesh
