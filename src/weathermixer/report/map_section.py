"""Maps of one forecast, of what happened and of the difference, at up to ten lead times.

Of an ensemble they are of its mean, and beside the error stands the spread of its members. Read
from the forecast and the truth that a verification names, a channel and a time at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from weathermixer.errors import UserError
from weathermixer.report.formatting import (
    date_text,
    label_of,
    lead_in_words,
    short_number,
    units_of,
)
from weathermixer.verification.comparison import Comparison
from weathermixer.verification.figures.colour_classes import ColourClasses
from weathermixer.verification.figures.map_canvas import MapCanvas, as_image, as_svg_path
from weathermixer.verification.figures.map_pictures import (
    MapPictures,
    draw_pictures,
    fullest_initial_time,
)
from weathermixer.verification.headline import headline_channels

_CHANNELS = (
    "geopotential_500",
    "2m_temperature",
    "mean_sea_level_pressure",
    "u_component_of_wind_850",
)
_MOST_LEADS = 10


@dataclass(frozen=True)
class Swatch:
    """A colour of a legend; ``label`` is its class's upper bound, empty where it is not written."""

    colour: str
    label: str


@dataclass(frozen=True)
class MapStrip:
    """A strip of maps of the forecast, the truth, the error or the spread, by lead time downwards.

    ``name`` says which it is, and ``note`` how it is computed, where that needs words. ``image`` is
    a ``data:`` URL, and ``legend`` its colours.
    """

    name: str
    note: str
    image: str
    legend: tuple[Swatch, ...]


@dataclass(frozen=True)
class ChannelMaps:
    """The maps of a channel, ``label``: a strip each of forecasts, truth and errors.

    ``errors`` are the RMSE of this forecast by lead time, as text in ``units``; ``spreads``, of an
    ensemble, root mean squares of its spread.
    """

    label: str
    units: str
    strips: tuple[MapStrip, ...]
    errors: tuple[str, ...]
    spreads: tuple[str, ...]

    @classmethod
    def of(cls, pictures: MapPictures) -> ChannelMaps:
        """The maps of a channel from its pictures."""
        states, errors = pictures.state_classes, pictures.error_classes
        is_ensemble = bool(pictures.spreads)
        forecast, error = (
            ("mean of the members", "mean − truth") if is_ensemble else ("", "forecast − truth")
        )
        shown = [
            ("Forecast", forecast, pictures.forecasts, states),
            ("Truth", "", pictures.truths, states),
            ("Error", error, pictures.errors, errors),
        ]
        if is_ensemble:
            note = "standard deviation of the members"
            shown.append(("Spread", note, pictures.spreads, pictures.spread_classes))
        return cls(
            label_of(pictures.channel),
            units_of(pictures.channel)[0],
            tuple(
                MapStrip(name, note, as_image(drawn, classes), legend(classes))
                for name, note, drawn, classes in shown
            ),
            tuple(map(short_number, pictures.rmse)),
            tuple(map(short_number, pictures.spread)),
        )


@dataclass(frozen=True)
class MapLead:
    """A lead time in words, ``label``, and the time that it is a forecast of, ``valid``."""

    label: str
    valid: str


@dataclass(frozen=True)
class MapSection:
    """What the page shows on maps: ``channels`` at some ``leads`` after an ``initial_time``.

    ``width`` and ``height`` are in pixels of one map; ``edge``, ``land`` and ``graticule`` are SVG
    paths; ``grid`` is the size of the data's grid, as text.
    """

    initial_time: str
    leads: tuple[MapLead, ...]
    channels: tuple[ChannelMaps, ...]
    width: int
    height: int
    grid: str
    edge: str
    land: str
    graticule: str

    @classmethod
    def of(cls, comparison: Comparison) -> MapSection:
        """Draw the maps of a forecast beside the truth.

        Raises UserError where fields cannot be read or have no area.
        """
        if not comparison.grid.has_area:
            raise UserError(
                f"{comparison.forecast.path} has a single row or column: verify it for its scores "
                "alone"
            )
        time, scored = fullest_initial_time(comparison)
        hours = [comparison.lead_hours[index] for index in scored]
        leads = [scored[index] for index in leads_of_maps(hours)]
        known = comparison.channels
        usual = [name for name in _CHANNELS if name in known]
        wanted = list(dict.fromkeys([*usual, *headline_channels(known)]))[: len(_CHANNELS)]
        canvas = MapCanvas.of(comparison.grid)
        return cls(
            initial_time=date_text(comparison.initial_times[time]),
            leads=tuple(
                MapLead(
                    lead_in_words(comparison.lead_hours[index]),
                    date_text(comparison.valid_time(time, index)),
                )
                for index in leads
            ),
            channels=tuple(
                ChannelMaps.of(
                    draw_pictures(comparison, canvas, channel=name, time=time, leads=leads)
                )
                for name in wanted
            ),
            width=canvas.width,
            height=canvas.height,
            grid=" × ".join(map(str, comparison.grid.shape)),
            edge=as_svg_path([canvas.outline()]) + "z",
            land=as_svg_path(canvas.coastlines()),
            graticule=as_svg_path(canvas.graticule()),
        )


def leads_of_maps(hours: Sequence[float]) -> list[int]:
    """Choose the lead times to draw, by their indices.

    Whole days where there are two to ten of them; else up to ten lead times, evenly spread.
    """
    days = [index for index, lead in enumerate(hours) if lead % 24.0 == 0.0]
    if 2 <= len(days) <= _MOST_LEADS:
        return days
    chosen = days if len(days) > _MOST_LEADS else list(range(len(hours)))
    number = min(_MOST_LEADS, len(chosen))
    return [chosen[round(at)] for at in np.linspace(0, len(chosen) - 1, number)]


def legend(classes: ColourClasses) -> tuple[Swatch, ...]:
    """The swatches of classes, with labels at as many bounds as there is room for."""
    return tuple(
        Swatch(colour, label)
        for colour, label in zip(classes.colours, [*classes.labels, ""], strict=True)
    )
