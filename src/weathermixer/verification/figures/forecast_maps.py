"""Maps of a forecast, of what happened, of the difference and, of an ensemble, of its spread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from weathermixer.data.grid import area_name
from weathermixer.verification.comparison import Comparison
from weathermixer.verification.figures.colour_classes import ColourClasses
from weathermixer.verification.figures.map_canvas import MapCanvas
from weathermixer.verification.figures.map_pictures import (
    MapPictures,
    Picture,
    draw_pictures,
    fullest_initial_time,
)
from weathermixer.verification.figures.panels import DOTS_PER_INCH
from weathermixer.verification.headline import MAP_HOURS, headline_leads, shown_units, title_of
from weathermixer.verification.regions import over_region

_CHANNELS = ("geopotential_500", "2m_temperature")
_PANEL_INCHES = 4.0  # the larger side


def draw_maps(comparison: Comparison, folder: Path) -> None:
    """Write ``map_CHANNEL.png`` for a few channels, from the initial time with the most leads."""
    time, scored = fullest_initial_time(comparison)
    hours = [comparison.lead_hours[lead] for lead in scored]
    leads = [scored[index] for index in headline_leads(hours, MAP_HOURS)]
    canvas = MapCanvas.of(comparison.grid)
    present = [name for name in _CHANNELS if name in comparison.channels]
    for channel in present or comparison.channels[:1]:
        pictures = draw_pictures(comparison, canvas, channel=channel, time=time, leads=leads)
        shown_hours = [comparison.lead_hours[lead] for lead in leads]
        figure = _figure(canvas, pictures, shown_hours, comparison.initial_times[time])
        figure.savefig(folder / f"map_{channel}.png", dpi=DOTS_PER_INCH)


def _figure(
    canvas: MapCanvas, pictures: MapPictures, hours: list[float], initial_time: np.datetime64
) -> Figure:
    """Lead times downwards; forecast, truth, error and, of an ensemble, spread across."""
    units, _ = shown_units(pictures.channel)
    width, height = (
        _PANEL_INCHES * side / max(canvas.width, canvas.height)
        for side in (canvas.width, canvas.height)
    )
    columns = [
        ("forecast", pictures.forecasts, pictures.state_classes),
        ("truth", pictures.truths, pictures.state_classes),
        ("forecast − truth", pictures.errors, pictures.error_classes),
    ]
    if pictures.spreads:
        columns[0] = ("mean of members", *columns[0][1:])
        columns[2] = ("mean − truth", *columns[2][1:])
        columns.append(("spread of members", pictures.spreads, pictures.spread_classes))
    figure = Figure(
        figsize=(max(len(columns) * width, 7.0), height * len(hours) + 1.1), layout="constrained"
    )
    panels = figure.subplots(len(hours), len(columns), squeeze=False)
    for column, (name, shown, classes) in enumerate(columns):
        for panel, picture in zip(panels[:, column], shown, strict=True):
            _draw(panel, canvas, picture, classes)
        panels[0, column].set_title(name, fontsize=11)
    for panel, lead_hours in zip(panels[:, 0], hours, strict=True):
        panel.text(
            -0.02,
            0.5,
            f"{lead_hours:g} h",
            rotation=90,
            horizontalalignment="right",
            verticalalignment="center",
            transform=panel.transAxes,
            fontsize=11,
        )
    _add_bar(figure, panels[:, :2], pictures.state_classes, units, shrink=0.45)
    _add_bar(figure, panels[:, 2:3], pictures.error_classes, f"error, {units}", shrink=0.9)
    if pictures.spreads:
        label = f"standard deviation, {units}"
        _add_bar(figure, panels[:, 3:], pictures.spread_classes, label, shrink=0.9)
    date = str(initial_time.astype("datetime64[m]")).replace("T", " ")
    title = f"{title_of(pictures.channel)}, from {date} UTC"
    if not canvas.grid.is_global:
        title += f", {over_region(area_name(canvas.grid))}"
    figure.suptitle(title, fontsize=12)
    return figure


def _add_bar(
    figure: Figure, panels: Any, classes: ColourClasses, label: str, *, shrink: float
) -> None:
    norm, colours = _scale(classes)
    bar = figure.colorbar(
        ScalarMappable(norm, colours),
        ax=panels,
        orientation="horizontal",
        shrink=shrink,
        aspect=30,
        pad=0.02,
        spacing="uniform",
    )
    labelled = [(b, text) for b, text in zip(classes.bounds, classes.labels, strict=True) if text]
    bar.set_ticks([bound for bound, _ in labelled], labels=[text for _, text in labelled])
    bar.ax.minorticks_off()
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)


def _draw(panel: Axes, canvas: MapCanvas, picture: Picture, classes: ColourClasses) -> None:
    """Draw one picture with the coastlines and the outline of what the canvas shows."""
    norm, colours = _scale(classes)
    image = panel.imshow(
        np.ma.masked_invalid(picture),
        cmap=colours,
        norm=norm,
        interpolation="nearest",
        extent=(0.0, canvas.width, canvas.height, 0.0),
    )
    outline = Polygon(canvas.outline(), closed=True, fill=False, color="black", linewidth=0.6)
    outline.set_clip_on(False)
    panel.add_patch(outline)
    coasts = LineCollection(canvas.coastlines(), colors="black", linewidths=0.4, alpha=0.7)
    panel.add_collection(coasts)
    for artist in (image, coasts):
        artist.set_clip_path(outline)
    panel.set_aspect("equal")
    panel.set_xlim(0.0, canvas.width)
    panel.set_ylim(canvas.height, 0.0)
    panel.set_axis_off()


def _scale(classes: ColourClasses) -> tuple[BoundaryNorm, ListedColormap]:
    norm = BoundaryNorm(classes.bounds, len(classes.colours), extend="both")
    return norm, ListedColormap(classes.colours)
