"""From an archive's own names, dimensions and levels to the canonical ones."""

from __future__ import annotations

import numpy as np
import xarray as xr

from weathermixer.data.channels import ALIASES, VARIABLES
from weathermixer.errors import UserError

RENAMED = {
    "lat": "latitude",
    "lon": "longitude",
    "isobaricInhPa": "level",
    "pressure_level": "level",
    "plev": "level",
    "valid_time": "time",
    "member": "number",
    "realization": "number",
}
DIMENSIONS = ("time", "level", "latitude", "longitude")


def with_valid_time(dataset: xr.Dataset, name: str) -> xr.Dataset:
    """The data set with the time that its states are valid at as its ``time``."""
    if "valid_time" not in dataset.variables:
        return dataset
    valid = dataset["valid_time"]
    if valid.ndim > 1:
        # Of several forecast lead times, not one is meant.
        raise UserError(
            f"{name} has times along {' × '.join(map(str, valid.dims))}, as forecasts have: "
            "choose one lead time first"
        )
    dataset = dataset.drop_vars(["time", "valid_time", "step"], errors="ignore")
    if valid.ndim == 1 and valid.dims[0] != "time":
        dataset = dataset.rename({valid.dims[0]: "time"})
    return dataset.assign_coords(time=(valid.dims and ("time",), valid.values))


def known_variables(dataset: xr.Dataset, name: str) -> dict[str, str]:
    """The archive's own names of the variables that WeatherMixer knows, by canonical name."""
    found: dict[str, str] = {}
    for own in map(str, dataset.data_vars):
        variable = ALIASES.get(own, own)
        if variable == "geopotential" and "level" not in dataset[own].coords:
            variable = "geopotential_at_surface"  # archives call both of them z
        if variable in VARIABLES:
            found[variable] = own
    if not found:
        raise UserError(
            f"{name} holds none of the variables that WeatherMixer knows; it has "
            f"{', '.join(map(str, dataset.data_vars)) or 'none at all'}: choose another source"
        )
    return found


def choose_member(
    dataset: xr.Dataset, variables: dict[str, str], name: str, member: int | None
) -> xr.Dataset:
    """The data set without dimensions of one element, and of an ensemble the chosen member."""
    dataset = dataset[list(variables.values())]
    alone = [dim for dim, size in dataset.sizes.items() if size == 1 and dim not in DIMENSIONS]
    dataset = dataset.isel(dict.fromkeys(alone, 0))
    if "number" not in dataset.dims:
        return dataset
    members = dataset["number"].values.tolist()
    if member not in members:
        said = "" if member is None else f"no member {member}, but "
        raise UserError(
            f"{name} holds {said}{len(members)} ensemble members, "
            f"{', '.join(map(str, members))}: choose one with --member"
        )
    return dataset.isel(number=members.index(member))


def levels_hpa(dataset: xr.Dataset, name: str) -> list[int | None]:
    """Pressure of each level in hPa; None where it is not a whole number, as no channel is."""
    if "level" not in dataset.variables:
        return [None]
    level = dataset["level"]
    values = np.atleast_1d(level.values).astype(np.float64)
    units = str(level.attrs.get("units", "hPa"))
    if units.lower() in ("pa", "pascal"):
        values = values / 100.0
    elif units.lower() not in ("hpa", "millibars", "millibar", "mbar", "mb"):
        raise UserError(f"{name} has levels in {units!r}, not in hPa: choose pressure levels")
    return [round(value) if abs(value - round(value)) < 1e-6 else None for value in values]
