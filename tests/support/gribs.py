"""GRIB files, message by message, as ECMWF's archive sends them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# ECMWF's numbers of parameters.
PARAMETERS = {
    "geopotential": 129,
    "temperature": 130,
    "u_component_of_wind": 131,
    "specific_humidity": 133,
    "mean_sea_level_pressure": 151,
    "10m_u_component_of_wind": 165,
    "2m_temperature": 167,
    "land_sea_mask": 172,
    "total_precipitation": 228,
}


@dataclass(frozen=True)
class Message:
    """One field ``(latitude, longitude)``, north first, at a time; ``keys`` are GRIB's own."""

    variable: str
    time: np.datetime64
    values: NDArray[np.floating]
    level_hpa: int | None = None
    keys: dict[str, Any] = field(default_factory=dict)


def write_grib(path: Path, messages: Iterable[Message], *, edition: int = 1) -> str:
    """Write global fields on a regular grid with rows at both poles, and of 32 bits a value."""
    import eccodes

    with path.open("wb") as file:
        for message in messages:
            kind = "sfc" if message.level_hpa is None else "pl"
            handle = eccodes.codes_grib_new_from_samples(f"regular_ll_{kind}_grib{edition}")
            rows, columns = message.values.shape
            time = str(message.time.astype("datetime64[m]"))
            keys: dict[str, Any] = {
                "paramId": PARAMETERS[message.variable],
                "dataDate": int(time[:10].replace("-", "")),
                "dataTime": int(time[11:16].replace(":", "")),
                "Ni": columns,
                "Nj": rows,
                "latitudeOfFirstGridPointInDegrees": 90.0,
                "longitudeOfFirstGridPointInDegrees": 0.0,
                "latitudeOfLastGridPointInDegrees": -90.0,
                "longitudeOfLastGridPointInDegrees": 360.0 - 360.0 / columns,
                "iDirectionIncrementInDegrees": 360.0 / columns,
                "jDirectionIncrementInDegrees": 180.0 / (rows - 1),
                "bitsPerValue": 24,
            }
            if message.level_hpa is not None:
                keys["level"] = message.level_hpa
            for key, value in (keys | message.keys).items():
                eccodes.codes_set(handle, key, value)
            eccodes.codes_set_values(handle, np.asarray(message.values, np.float64).ravel())
            eccodes.codes_write(handle, file)
            eccodes.codes_release(handle)
    return str(path)
