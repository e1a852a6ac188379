"""What ECMWF calls channels and their units, which are those of ERA5 and so the same."""

from __future__ import annotations

import re
from typing import Any

from weathermixer.data.channels import DIAGNOSTIC_VARIABLES, VARIABLES, parse_channel

_AT_SURFACE = {
    "mean_sea_level_pressure": "msl",
    "10m_u_component_of_wind": "10u",
    "10m_v_component_of_wind": "10v",
    "2m_temperature": "2t",
    "total_precipitation_6hr": "tp",
    "total_precipitation_12hr": "tp",
    "total_precipitation_24hr": "tp",
}


def anemoi_name(channel: str) -> str:
    """The name of a channel in anemoi's data sets, or of a variable on levels in ECMWF's archive.

    >>> anemoi_name("temperature_850"), anemoi_name("2m_temperature"), anemoi_name("temperature")
    ('t_850', '2t', 't')
    """
    level = parse_channel(channel).level_hpa
    return _param(channel) if level is None else f"{_param(channel)}_{level}"


def ecmwf_units(units: str) -> str:
    """Units as ECMWF spells them, and anemoi compares them, by their letters.

    >>> ecmwf_units("m2 s-2")
    'm**2 s**-2'
    """
    return re.sub(r"([a-z])(-?\d)", r"\1**\2", units)


def described(channel: str) -> dict[str, Any]:
    """A channel's ``variables_metadata``: its keys in ECMWF's archive, units, and time it is of."""
    parsed = parse_channel(channel)
    mars: dict[str, Any] = {"param": _param(channel), "levtype": "sfc"}
    if parsed.level_hpa is not None:
        mars |= {"levtype": "pl", "levelist": parsed.level_hpa}
    about: dict[str, Any] = {"mars": mars, "units": ecmwf_units(parsed.units)}
    if parsed.variable in DIAGNOSTIC_VARIABLES:
        hours = int(parsed.variable.rpartition("_")[2].removesuffix("hr"))
        about |= {"process": "accumulation", "period": [0, hours]}
    return about


def _param(channel: str) -> str:
    variable = parse_channel(channel).variable
    return _AT_SURFACE.get(variable, VARIABLES[variable].short_name)
