"""Plumes: what each member of a forecast says at a place, beside what happened there.

Read from the forecast and the truth that a verification names, an initial time at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weathermixer.data.points import Point
from weathermixer.report.formatting import date_text, label_of, units_of, values_to_draw
from weathermixer.verification.comparison import Comparison
from weathermixer.verification.headline import headline_channels
from weathermixer.verification.truth import State, Truth

Values = NDArray[np.float64]

_CHANNELS = (
    "2m_temperature",
    "mean_sea_level_pressure",
    "geopotential_500",
    "total_precipitation_6hr",
)
_WIND = ("10m_u_component_of_wind", "10m_v_component_of_wind")
_FEWEST_PANELS = 4
_MOST_TIMES = 30
_DIGITS = 6  # of a pressure in Pa


@dataclass(frozen=True)
class PlumePanel:
    """What a chart shows: a channel, or the speed of the wind of which two are the components."""

    label: str
    channels: tuple[str, ...]

    @property
    def units(self) -> str:
        """The unit in which it is shown."""
        return units_of(self.channels[0])[0]

    def of(self, states: Values, channels: Sequence[str]) -> Values:
        """What is shown of ``states (..., channel, member)``, in shown units: ``(..., member)``."""
        own = [states[..., channels.index(name), :] for name in self.channels]
        values = own[0] if len(own) == 1 else np.hypot(*own)
        return units_of(self.channels[0])[1] * values


@dataclass(frozen=True)
class PlumeSection:
    """What the page shows at some places, of forecasts from ``num_shown`` of all initial times.

    ``points`` say which grid point is shown for which place; ``num_times`` initial times were
    verified. ``members`` is how many there are, None of a single forecast. ``data`` is for the
    page's script.
    """

    points: tuple[str, ...]
    num_shown: int
    num_times: int
    members: int | None
    has_climatology: bool
    data: dict[str, Any]

    @classmethod
    def read(cls, comparison: Comparison, points: Sequence[Point]) -> PlumeSection:
        """Read the forecasts and the truth at the grid points nearest to some places.

        Of more than thirty initial times that were verified, thirty are taken, evenly spread.
        Raises UserError where a place is not covered, or fields cannot be read.
        """
        grid, scored = comparison.grid, comparison.times
        number = min(_MOST_TIMES, len(scored))
        times = scored[np.round(np.linspace(0, len(scored) - 1, number)).astype(int)].tolist()
        panels = _panels(comparison.channels)
        channels = list(dict.fromkeys(name for panel in panels for name in panel.channels))
        truth = comparison.truth.for_channels(channels)
        wanted = list(dict.fromkeys(points))
        places = [point.nearest(grid) for point in wanted]
        nearest = [Point.on(grid, *place) for place in places]
        return cls(
            points=tuple(
                f"{point}: nearest grid point {at}, {point.distance_km(at):.0f} km away"
                for point, at in zip(wanted, nearest, strict=True)
            ),
            num_shown=len(times),
            num_times=len(scored),
            members=comparison.forecast.members,
            has_climatology=truth.has_climatology,
            data={
                "hours": list(comparison.lead_hours),
                "times": [date_text(comparison.initial_times[time]) for time in times],
                "points": [str(point) for point in wanted],
                "nearest": [f"nearest grid point {at}" for at in nearest],
                "panels": [{"label": panel.label, "units": panel.units} for panel in panels],
                "members": comparison.forecast.members,
                "plumes": _plumes(comparison, truth, times, panels, channels, places),
            },
        )


def _panels(channels: Sequence[str]) -> list[PlumePanel]:
    """What is shown of a forecast of some channels: the weather at the surface, and z500."""
    panels = [PlumePanel(label_of(name), (name,)) for name in _CHANNELS if name in channels]
    has_wind = all(name in channels for name in _WIND)
    if has_wind:
        panels.append(PlumePanel("10 m wind speed", _WIND))
    shown = {name for panel in panels for name in panel.channels}
    others = [name for name in headline_channels(channels) if name not in shown]
    missing = max(0, _FEWEST_PANELS - len(panels))
    return panels + [PlumePanel(label_of(name), (name,)) for name in others[:missing]]


def _plumes(
    comparison: Comparison,
    truth: Truth,
    times: Sequence[int],
    panels: Sequence[PlumePanel],
    channels: Sequence[str],
    places: Sequence[tuple[int, int]],
) -> list[list[list[dict[str, Any]]]]:
    """The lines of each panel, by place and initial time; truth and climatology begin with it."""
    rows, columns = np.array(places).T

    def series(read: Callable[[np.datetime64], State], valid: NDArray[np.datetime64]) -> Values:
        """Values ``(place, time, channel, 1)``."""
        fields = [read(time)[:, rows, columns] for time in valid]
        return np.stack(fields).transpose(2, 0, 1)[..., None].astype(np.float64)

    by_place: list[list[list[dict[str, Any]]]] = [[] for _ in places]
    for time in times:
        forecasts = comparison.forecasts_at(time, channels, places).astype(np.float64)
        start = comparison.initial_times[time]
        valid = np.concatenate([[start], start + comparison.lead_times])
        known = truth.has(valid)
        happened = np.full((len(places), len(valid), len(channels), 1), np.nan)
        happened[:, known] = series(truth.at, valid[known])
        expected = series(truth.climatology_at, valid) if truth.has_climatology else None
        for number, plumes in enumerate(by_place):
            plumes.append(
                [
                    _lines(
                        panel.of(forecasts[number], channels),
                        panel.of(happened[number], channels),
                        # Of components alone the mean speed does not follow.
                        None
                        if expected is None or len(panel.channels) > 1
                        else panel.of(expected[number], channels),
                        is_ensemble=comparison.forecast.members is not None,
                    )
                    for panel in panels
                ]
            )
    return by_place


def _lines(
    forecast: Values, truth: Values, climatology: Values | None, *, is_ensemble: bool
) -> dict[str, Any]:
    """The lines of a panel from values ``(time, member)``, as the page's script draws them."""
    lines: dict[str, Any] = {"mean": _drawn(forecast.mean(axis=-1)), "truth": _drawn(truth[:, 0])}
    if is_ensemble:
        lines["members"] = [_drawn(member) for member in forecast.T]
    if climatology is not None:
        lines["climatology"] = _drawn(climatology[:, 0])
    return lines


def _drawn(series: Values) -> list[Any]:
    return values_to_draw(series.tolist(), digits=_DIGITS)
