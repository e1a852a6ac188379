"""Maps of one forecast, of what happened and of the difference, at up to ten lead times.

Read from the forecast and the truth that a verification names, a channel and a time at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weathermixer.data.channels import parse_channel
from weathermixer.data.statistics import cell_area_weights
from weathermixer.report import raster
from weathermixer.report.numbers import date, lead_in_words, short, units_of
from weathermixer.report.raster import Bands
from weathermixer.report.scoring import label_of
from weathermixer.verification.comparison import Comparison
from weathermixer.verification.headline import headline_channels

_CHANNELS = (
    "geopotential_500",
    "2m_temperature",
    "mean_sea_level_pressure",
    "u_component_of_wind_850",
)
_MOST_LEADS = 10
_LABELS_OF_LEGEND = 6


@dataclass(frozen=True)
class Swatch:
    """A class of a legend; ``label`` is of its upper bound, empty where it is not written."""

    colour: str
    label: str


@dataclass(frozen=True)
class Panel:
    """One strip of maps, a lead time below the other: forecast, truth or error."""

    name: str
    image: str
    legend: tuple[Swatch, ...]


@dataclass(frozen=True)
class Channel:
    """The maps of a channel; ``errors`` is by lead time this forecast's RMSE, in words."""

    name: str
    label: str
    units: str
    panels: tuple[Panel, ...]
    errors: tuple[str, ...]


@dataclass(frozen=True)
class Lead:
    """A lead time, and the time that it is a forecast of."""

    label: str
    valid: str


@dataclass(frozen=True)
class MapPart:
    """What the page shows on maps. Sizes are in pixels of one map."""

    initial_time: str
    leads: tuple[Lead, ...]
    channels: tuple[Channel, ...]
    width: int
    height: int
    grid: str
    edge: str
    land: str
    graticule: str

    @classmethod
    def read(cls, forecast: str, truth: str) -> MapPart:
        """Raises UserError where the two do not fit together or cannot be read."""
        comparison = Comparison.open(forecast, truth)
        # The forecast of which most can be compared, the first of several.
        time = int(comparison.pairs.sum(axis=1).argmax())
        scored = np.flatnonzero(comparison.pairs[time])
        hours = [comparison.lead_hours[index] for index in scored]
        leads = [int(scored[index]) for index in leads_of_maps(hours)]
        known = comparison.channels
        usual = [name for name in _CHANNELS if name in known]
        wanted = list(dict.fromkeys([*usual, *headline_channels(known)]))[: len(_CHANNELS)]
        return cls(
            initial_time=date(comparison.initial_times[time]),
            leads=tuple(
                Lead(
                    lead_in_words(comparison.lead_hours[index]),
                    date(comparison.valid_time(time, index)),
                )
                for index in leads
            ),
            channels=tuple(_channel(comparison, name, time, leads) for name in wanted),
            width=raster.WIDTH,
            height=raster.globe().height,
            grid=" × ".join(map(str, comparison.grid.shape)),
            edge=raster.edge_path(),
            land=raster.land_path(),
            graticule=raster.grid_path(),
        )


def leads_of_maps(hours: Sequence[float]) -> list[int]:
    """Whole days where two to ten of them are there; else up to ten, evenly spread."""
    days = [index for index, one in enumerate(hours) if one % 24.0 == 0.0]
    if 2 <= len(days) <= _MOST_LEADS:
        return days
    chosen = days if len(days) > _MOST_LEADS else list(range(len(hours)))
    number = min(_MOST_LEADS, len(chosen))
    return [chosen[round(at)] for at in np.linspace(0, len(chosen) - 1, number)]


def _channel(comparison: Comparison, name: str, time: int, leads: Sequence[int]) -> Channel:
    units, factor = units_of(name)
    latitude, longitude = comparison.grid.latitude, comparison.grid.longitude
    weights = cell_area_weights(latitude)
    drawn: dict[str, list[NDArray[np.float64]]] = {"Forecast": [], "Truth": [], "Error": []}
    errors = []
    for index in leads:
        forecast, truth = (
            factor * field.astype(np.float64) for field in comparison.fields(time, index, name)
        )
        difference = forecast - truth
        errors.append(short(float(np.sqrt(np.mean(difference**2, axis=1) @ weights))))
        for panel, field in zip(drawn, (forecast, truth, difference), strict=True):
            drawn[panel].append(raster.globe().draw(field, latitude, longitude))
    states = np.stack(drawn["Forecast"] + drawn["Truth"])
    variable = parse_channel(name).variable
    of_states = raster.bands_of(states[np.isfinite(states)], variable)
    differences = np.stack(drawn["Error"])
    of_errors = raster.error_bands_of(differences[np.isfinite(differences)])
    panels = tuple(
        Panel(
            panel,
            raster.strip(pictures, of_errors if panel == "Error" else of_states),
            legend(of_errors if panel == "Error" else of_states),
        )
        for panel, pictures in drawn.items()
    )
    return Channel(name, label_of(name), units, panels, tuple(errors))


def legend(bands: Bands) -> tuple[Swatch, ...]:
    """The classes, with a label at as many of their bounds as there is room for.

    Bounds on both sides of zero are labelled in pairs.
    """
    bounds = bands.bounds
    every = -(-len(bounds) // _LABELS_OF_LEGEND)
    is_symmetric = all(low == -high for low, high in zip(bounds, reversed(bounds), strict=True))
    labels = []
    for index, bound in enumerate(bounds):
        place = min(index, len(bounds) - 1 - index) if is_symmetric else index
        labels.append(f"{bound:g}".replace("-", "−") if place % every == 0 else "")
    return tuple(
        Swatch(colour, label) for colour, label in zip(bands.colours, [*labels, ""], strict=True)
    )
