"""Ensembles of a small planet, as WeatherBench 2 lays them out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from support.noise import LEADS
from support.planets import Planet, write_forecast


def write_members(path: Path, planet: Planet, inits: Any, members: Any, name: str) -> None:
    """``members (member, time, lead, channel, latitude, longitude)`` as WeatherBench 2's."""
    singles = []
    for number, states in enumerate(members):
        single = path.with_name(f"{path.stem}-{number}.zarr")
        singles.append(write_forecast(single, planet, states, inits, LEADS))
    together = xr.concat(singles, xr.DataArray(np.arange(len(singles)), dims=name, name=name))
    together.transpose("time", name, "prediction_timedelta", ...).to_zarr(path, zarr_format=2)
