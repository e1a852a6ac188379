"""What Earth2Studio calls channels, whose units are those of ERA5 and so the same."""

from __future__ import annotations

from weathermixer.data.channels import VARIABLES, parse_channel

_AT_SURFACE = {
    "mean_sea_level_pressure": "msl",
    "10m_u_component_of_wind": "u10m",
    "10m_v_component_of_wind": "v10m",
    "2m_temperature": "t2m",
    "total_precipitation_6hr": "tp06",
    "total_precipitation_12hr": "tp12",
    "total_precipitation_24hr": "tp24",
}


def earth2studio_name(channel: str) -> str:
    """The name of a channel in Earth2Studio's vocabulary.

    >>> earth2studio_name("temperature_850"), earth2studio_name("2m_temperature")
    ('t850', 't2m')
    """
    parsed = parse_channel(channel)
    if parsed.level_hpa is None:
        return _AT_SURFACE[parsed.variable]
    return f"{VARIABLES[parsed.variable].short_name}{parsed.level_hpa}"
