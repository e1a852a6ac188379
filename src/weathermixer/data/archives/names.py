"""What archives call variables and dimensions, and which of them is meant.

The names are those of WeatherBench 2, of the Copernicus Climate Data Store, of ECMWF's own tools
and of CMIP. A variable that no name or attribute makes certain is left out with the reason; nothing
is concluded from what a file does not say.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import xarray as xr

from weathermixer.data.archives.units import Conversion, conversion
from weathermixer.data.channels import GRAVITY, VARIABLES

_VARIABLES: dict[str, tuple[str, ...]] = {
    "geopotential": ("z", "gh", "zg", "geopotential_height"),
    "specific_humidity": ("q", "hus", "qv"),
    "temperature": ("t", "ta", "air_temperature"),
    "u_component_of_wind": ("u", "ua", "eastward_wind"),
    "v_component_of_wind": ("v", "va", "northward_wind"),
    "mean_sea_level_pressure": ("msl", "mslp", "psl", "prmsl", "pmsl"),
    "10m_u_component_of_wind": ("u10", "10u", "uas", "u10m", "u_10m", "var_10u"),
    "10m_v_component_of_wind": ("v10", "10v", "vas", "v10m", "v_10m", "var_10v"),
    "2m_temperature": ("t2m", "2t", "tas", "t_2m", "var_2t"),
    # No short name: "tp" says nothing of the hours over which it is accumulated.
    "total_precipitation_6hr": (),
    "total_precipitation_12hr": (),
    "total_precipitation_24hr": (),
    "land_sea_mask": ("lsm",),
    "soil_type": ("slt",),
    "geopotential_at_surface": ("z_sfc", "orog", "orography", "surface_geopotential"),
}
# In lower case: some archives write T and MSL.
_CANONICAL_NAMES = {
    name: variable for variable, others in _VARIABLES.items() for name in (variable, *others)
}
# Names of heights, in metres, where the variable is the geopotential: height times gravity.
_HEIGHTS = ("gh", "zg", "geopotential_height", "orog", "orography")
# Names that say nothing of units; what they hold has to be plausible.
_NO_UNITS = ("", "~", "unknown", "none", "undefined")

TIME, LEAD, MEMBER = "time", "prediction_timedelta", "number"
LEVEL, LATITUDE, LONGITUDE = "level", "latitude", "longitude"
HOUR, DAY_OF_YEAR = "hour", "dayofyear"

_DIMENSIONS: dict[str, tuple[str, ...]] = {
    TIME: ("valid_time", "init_time", "initial_time", "forecast_reference_time", "reference_time"),
    LEAD: ("step", "lead_time", "lead", "leadtime", "forecast_period"),
    MEMBER: ("member", "realization", "realisation", "ensemble", "ensemble_member", "sample"),
    LEVEL: (
        *("isobaricInhPa", "isobaricInPa", "pressure_level", "plev", "pressure", "lev"),
        *("levelist", "isobaric", "air_pressure"),
    ),
    LATITUDE: ("lat", "nav_lat"),
    LONGITUDE: ("lon", "nav_lon"),
    HOUR: (),
    DAY_OF_YEAR: ("day_of_year",),
}
_ROLES = {name.lower(): role for role, others in _DIMENSIONS.items() for name in (role, *others)}


class Unusable(Exception):
    """A variable of an archive cannot be used; the message is the reason, as a predicate.

    ``is_known`` tells a variable that this project knows, but cannot use as it is, from others.
    """

    def __init__(self, reason: str, *, is_known: bool = True) -> None:
        super().__init__(reason)
        self.is_known = is_known


@dataclass(frozen=True)
class Meaning:
    """Which variable an array holds, and the conversion to its SI units.

    Where the file states no units, ``has_units`` is false: its values have to be plausible.
    """

    variable: str
    conversion: Conversion
    has_units: bool


def canonical_name(name: str) -> str | None:
    """The canonical name of an archive's variable; None of a variable that is not known."""
    return _CANONICAL_NAMES.get(name.lower())


def role_of(name: Hashable, dataset: xr.Dataset) -> str | None:
    """The canonical name of a dimension or coordinate, such as ``latitude``; None if untold.

    Its name tells, or else its attributes after the CF conventions.
    """
    known = _ROLES.get(str(name).lower())
    attributes = dataset[name].attrs if name in dataset.variables else {}
    standard_name = str(attributes.get("standard_name", "")).lower()
    if standard_name.startswith("grid_"):
        return None  # degrees of a rotated pole
    if known is not None:
        return known
    units = str(attributes.get("units", "")).lower()
    if standard_name in (LATITUDE, LONGITUDE):
        return standard_name
    if units in ("degrees_north", "degree_north", "degrees_n"):
        return LATITUDE
    if units in ("degrees_east", "degree_east", "degrees_e"):
        return LONGITUDE
    if standard_name == "air_pressure":
        return LEVEL
    if standard_name in ("time", "forecast_reference_time"):
        return TIME
    return LEAD if standard_name == "forecast_period" else None


def meaning_of(name: str, array: xr.DataArray, roles: Mapping[Hashable, str]) -> Meaning:
    """The variable and the units that an array of an archive holds.

    ``roles`` are those of its dimensions and coordinates. Raises Unusable where it cannot be told.
    """
    variable = canonical_name(name)
    if variable is None:
        raise Unusable("WeatherMixer does not use it", is_known=False)
    if VARIABLES[variable].on_levels and LEVEL not in roles.values():
        if variable != "geopotential" or not _is_at_surface(array):
            raise Unusable(_without_level(variable, array))
        variable = "geopotential_at_surface"
    units = str(array.attrs.get("units", "")).strip()
    has_units = units.lower() not in _NO_UNITS
    to_si = _conversion(name, units if has_units else None, variable)
    if to_si is None:
        raise Unusable(f"is in {units!r}, not in {VARIABLES[variable].units}: convert it first")
    return Meaning(variable, to_si, has_units)


def _conversion(name: str, units: str | None, variable: str) -> Conversion | None:
    target = VARIABLES[variable].units
    if name.lower() in _HEIGHTS:
        to_metres = conversion(units or "m", "m")
        if to_metres is not None:
            return Conversion(GRAVITY * to_metres.factor)
    return Conversion() if units is None else conversion(units, target)


def _is_at_surface(array: xr.DataArray) -> bool:
    """Whether a geopotential without a pressure level is said to be the ground's."""
    attributes: Mapping[str, Any] = array.attrs
    words = f"{attributes.get('standard_name', '')} {attributes.get('long_name', '')}".lower()
    return (
        attributes.get("GRIB_typeOfLevel") == "surface"
        or "surface" in array.coords
        or "surface" in words
        or "orography" in words
    )


def _without_level(variable: str, array: xr.DataArray) -> str:
    other = [str(dim) for dim in array.dims if role_of(dim, xr.Dataset()) is None]
    if other:
        return f"is on {' × '.join(other)}, not on pressure levels: interpolate it first"
    if variable == "geopotential":
        return (
            "has no level, so it may be of a pressure level or of the ground: name its level in a "
            "coordinate 'level', or call it geopotential_at_surface"
        )
    return "has no pressure level: name it in a coordinate 'level' with units"
