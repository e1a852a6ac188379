"""Channels as people look at them: a variable each, with its levels and attributes."""

from __future__ import annotations

from collections.abc import Sequence

from weathermixer.data.channels import VARIABLES, parse_channel


def variables_of(channels: Sequence[str]) -> dict[str, dict[int | None, int]]:
    """The places of channels among all, by variable and level in hPa; None at the surface.

    >>> variables_of(["temperature_500", "temperature_850", "2m_temperature"])
    {'temperature': {500: 0, 850: 1}, '2m_temperature': {None: 2}}
    """
    places: dict[str, dict[int | None, int]] = {}
    for place, name in enumerate(channels):
        channel = parse_channel(name)
        places.setdefault(channel.variable, {})[channel.level_hpa] = place
    return places


def attributes_of(variable: str) -> dict[str, str]:
    """The attributes by which xarray shows a variable: its units and its name in words."""
    return {"units": VARIABLES[variable].units, "long_name": variable.replace("_", " ")}
