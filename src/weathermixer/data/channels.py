"""The variables of an atmospheric state: names, units, where they live, and what is plausible.

A *variable* is a physical quantity (``temperature``); a *channel* is one two-dimensional field of
it (``temperature_850``, ``2m_temperature``). Everything here is pure; nothing reads files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weathermixer.config import LEVELS_HPA as LEVELS_HPA
from weathermixer.config import Data
from weathermixer.errors import UserError

GRAVITY = 9.80665  # m s⁻², the constant that defines geopotential height


@dataclass(frozen=True)
class Variable:
    """A quantity, under its canonical name, in SI units.

    ``short_name`` is what forecasters write. ``lowest`` and ``highest`` bound every value ever seen
    in a global analysis, generously: they tell kelvin from degrees Celsius and pascal from
    hectopascal, not good weather from bad. ``on_levels`` tells whether it is given on pressure
    levels.
    """

    name: str
    short_name: str
    units: str
    lowest: float
    highest: float
    on_levels: bool


def _table(*variables: Variable) -> dict[str, Variable]:
    return {variable.name: variable for variable in variables}


PRESSURE_VARIABLES = _table(
    Variable("geopotential", "z", "m2 s-2", -2.0e4, 6.0e5, True),
    Variable("specific_humidity", "q", "kg kg-1", -5.0e-3, 0.06, True),
    Variable("temperature", "t", "K", 120.0, 360.0, True),
    Variable("u_component_of_wind", "u", "m s-1", -250.0, 250.0, True),
    Variable("v_component_of_wind", "v", "m s-1", -250.0, 250.0, True),
)
SURFACE_VARIABLES = _table(
    Variable("mean_sea_level_pressure", "msl", "Pa", 8.0e4, 1.2e5, False),
    Variable("10m_u_component_of_wind", "u10", "m s-1", -120.0, 120.0, False),
    Variable("10m_v_component_of_wind", "v10", "m s-1", -120.0, 120.0, False),
    Variable("2m_temperature", "t2m", "K", 150.0, 350.0, False),
)
DIAGNOSTIC_VARIABLES = _table(
    # Of water, accumulated until the time of the state; compression leaves some below zero.
    Variable("total_precipitation_6hr", "tp6h", "m", -1e-3, 2.0, False),
    Variable("total_precipitation_12hr", "tp12h", "m", -1e-3, 3.0, False),
    Variable("total_precipitation_24hr", "tp24h", "m", -1e-3, 4.0, False),
)
STATIC_VARIABLES = _table(
    Variable("land_sea_mask", "lsm", "1", -0.01, 1.01, False),
    Variable("soil_type", "slt", "1", -0.5, 100.0, False),
    Variable("geopotential_at_surface", "z_sfc", "m2 s-2", -2.0e4, 1.0e5, False),
)
PROGNOSTIC_VARIABLES = PRESSURE_VARIABLES | SURFACE_VARIABLES
PREDICTED_VARIABLES = PROGNOSTIC_VARIABLES | DIAGNOSTIC_VARIABLES
VARIABLES = PREDICTED_VARIABLES | STATIC_VARIABLES


@dataclass(frozen=True)
class Channel:
    """A field of the state: a variable, and its pressure level in hPa where it has one."""

    variable: str
    level_hpa: int | None = None

    @property
    def name(self) -> str:
        """The channel's name, as a store writes it: ``temperature_850``."""
        return self.variable if self.level_hpa is None else f"{self.variable}_{self.level_hpa}"

    @property
    def units(self) -> str:
        """The SI units of the channel's variable."""
        return VARIABLES[self.variable].units


def channels_of(variables: Iterable[str], levels: Sequence[int]) -> tuple[Channel, ...]:
    """The channels of some variables in the order given, pressure variables on every level in hPa.

    Raises UserError for a variable that is not known.
    """
    channels = []
    for name in variables:
        if name not in PREDICTED_VARIABLES:
            raise UserError(
                f"data.variables names {name!r}, which is none of "
                f"{', '.join(PREDICTED_VARIABLES)}: correct the name"
            )
        if PREDICTED_VARIABLES[name].on_levels:
            channels += [Channel(name, int(level)) for level in levels]
        else:
            channels.append(Channel(name))
    return tuple(channels)


def predicted_channels(data: Data) -> tuple[Channel, ...]:
    """The channels that a network predicts, in its order: the prognostic ones, then diagnostic."""
    return channels_of((*data.variables, *data.diagnostic), data.levels)


def in_canonical_order(channels: Iterable[Channel]) -> list[Channel]:
    """Predicted channels by variable, in the order of the table above, by increasing level."""
    order = list(PREDICTED_VARIABLES)
    return sorted(channels, key=lambda each: (order.index(each.variable), each.level_hpa or 0))


def parse_channel(name: str) -> Channel:
    """The channel of a name such as ``temperature_850``; UserError where it is not known."""
    if name in VARIABLES:
        return Channel(name)
    variable, _, level = name.rpartition("_")
    if variable in PRESSURE_VARIABLES and level.isdecimal():
        return Channel(variable, int(level))
    raise UserError(f"channel {name!r} is not one that WeatherMixer knows: correct its name")


def standard_height_m(level_hpa: float) -> float:
    """Height of a pressure level in the ICAO standard atmosphere (ISO 2533:1975), metres."""
    scale = GRAVITY * 0.0289644 / (8.314462618 * 0.0065)
    tropopause_hpa = 226.32
    if level_hpa >= tropopause_hpa:
        return 288.15 / 0.0065 * (1.0 - (level_hpa / 1013.25) ** (1.0 / scale))
    return 11000.0 + 8.314462618 * 216.65 / (GRAVITY * 0.0289644) * math.log(
        tropopause_hpa / level_hpa
    )


def implausibility(
    channel: Channel, field: NDArray[np.floating], *, is_global: bool = True
) -> str | None:
    """What is wrong with one ``field (latitude, longitude)`` of a channel; None where nothing is.

    Looked for are NaN, values beyond anything observed, and geopotential *height* in the place of
    geopotential, which differs by a factor of 9.8 in its mean aloft and in its spread near the
    ground; the latter is asked of fields that reach from pole to pole alone.
    """
    variable = VARIABLES[channel.variable]
    bad = int(field.size - np.isfinite(field).sum())
    if bad:
        return f"{bad} of {field.size} values are NaN or infinite"
    low, high = float(field.min()), float(field.max())
    if low < variable.lowest or high > variable.highest:
        return (
            f"values from {low:.6g} to {high:.6g} lie outside {variable.lowest:g} to "
            f"{variable.highest:g} {variable.units}: are they in {variable.units}?"
        )
    if channel.variable == "geopotential" and channel.level_hpa is not None:
        expected = GRAVITY * standard_height_m(channel.level_hpa)
        mean = float(field.mean())
        is_flat = is_global and 0.0 < float(field.std()) < 250.0
        if abs(mean - expected) > 0.25 * expected + 3000.0 or is_flat:
            return (
                f"mean {mean:.6g} and standard deviation {float(field.std()):.4g} are not those of "
                f"geopotential in m2 s-2 (about {expected:.4g} at {channel.level_hpa} hPa): "
                "is it geopotential height? Multiply it by 9.80665"
            )
    return None


def names(channels: Iterable[Channel]) -> tuple[str, ...]:
    """The names of channels, as a store writes them."""
    return tuple(channel.name for channel in channels)
