"""Which of many channels and lead times are shown first, and how they are called."""

from __future__ import annotations

import re
from collections.abc import Sequence

from weathermixer.data.channels import VARIABLES, parse_channel

CHANNELS = (
    "geopotential_500",
    "temperature_850",
    "specific_humidity_700",
    "u_component_of_wind_850",
    "2m_temperature",
    "mean_sea_level_pressure",
    "10m_u_component_of_wind",
    "10m_v_component_of_wind",
)
TABLE_HOURS = (6.0, 24.0, 72.0, 120.0, 168.0, 240.0)
MAP_HOURS = (24.0, 72.0, 120.0)

_WORDS = {
    "u_component_of_wind": "eastward wind",
    "v_component_of_wind": "northward wind",
    "10m_u_component_of_wind": "10 m eastward wind",
    "10m_v_component_of_wind": "10 m northward wind",
    "2m_temperature": "2 m temperature",
}
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def headline_channels(channels: Sequence[str]) -> list[str]:
    """Choose at most eight channels to show: the usual ones where there are any, else the first."""
    present = [name for name in CHANNELS if name in channels]
    return present or list(channels[: len(CHANNELS)])


def headline_leads(lead_hours: Sequence[float], usual: Sequence[float]) -> list[int]:
    """Choose lead times to show, by index: the usual ones, or evenly spread ones if under two."""
    present = [index for index, hours in enumerate(lead_hours) if hours in usual]
    if len(present) >= 2:
        return present
    last = len(lead_hours) - 1
    most = len(usual) - 1
    return sorted({round(last * step / most) for step in range(most + 1)})


def title_of(channel: str) -> str:
    """A channel in words: ``temperature, 850 hPa``."""
    parsed = parse_channel(channel)
    words = _WORDS.get(parsed.variable, parsed.variable.replace("_", " "))
    return words if parsed.level_hpa is None else f"{words}, {parsed.level_hpa} hPa"


def short_name(channel: str) -> str:
    """A channel as forecasters write it: ``t850``, ``t2m``."""
    parsed = parse_channel(channel)
    short = VARIABLES[parsed.variable].short_name
    return short if parsed.level_hpa is None else f"{short}{parsed.level_hpa}"


def shown_units(channel: str) -> tuple[str, float]:
    """The unit in which a channel is shown, and the factor to it from SI: ``m² s⁻²``, 1."""
    units = parse_channel(channel).units
    if units == "kg kg-1":
        return "g kg⁻¹", 1000.0
    return re.sub(r"-?\d+", lambda power: power[0].translate(_SUPERSCRIPTS), units), 1.0
