"""Coordinates of archives as exact numbers: whole seconds, whole hectopascals, degrees.

Files keep them as fractions of days, in pascals, as 32-bit floats, in either direction. Whatever
is not plausible, or whose unit is not known, is refused.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from weathermixer.data.archives.names import Unusable
from weathermixer.data.archives.units import conversion
from weathermixer.data.grid import Grid
from weathermixer.data.time_steps import to_hours
from weathermixer.errors import UserError

# Of ERA5's and CMIP's pressure levels, hPa: what levels must be among where no unit is stated.
_USUAL_LEVELS = {
    *(1, 2, 3, 5, 7, 10, 20, 30, 50, 70, *range(100, 300, 25), *range(300, 800, 50)),
    *range(750, 1001, 25),
    600,
}
# Words about levels of other kinds, which may be numbered as pressures are.
_OTHER_LEVELS = ("hybrid", "sigma", "model level", "model_level", "height", "altitude", "theta")
_NAMES_OF_LEVELS = ("standard_name", "long_name", "GRIB_typeOfLevel")
_UNITS_IN_NAMES = {"isobaricInhPa": "hPa", "isobaricInPa": "Pa"}
_SECONDS_PER_UNIT = {
    **dict.fromkeys(("nanoseconds", "nanosecond", "ns"), 1e-9),
    **dict.fromkeys(("microseconds", "microsecond", "us"), 1e-6),
    **dict.fromkeys(("milliseconds", "millisecond", "ms"), 1e-3),
    **dict.fromkeys(("seconds", "second", "sec", "s"), 1.0),
    **dict.fromkeys(("minutes", "minute", "min", "m"), 60.0),
    **dict.fromkeys(("hours", "hour", "hr", "hrs", "h"), 3600.0),
    **dict.fromkeys(("days", "day", "d"), 86400.0),
}
_HALF_A_SECOND = np.timedelta64(500_000, "us")
_LARGEST_RADIANS = 1.5708


def whole_seconds(times: NDArray[np.datetime64]) -> NDArray[np.datetime64]:
    """Round times to the nearest second.

    Decoded fractions of days or hours are a few microseconds off; cutting them to seconds would
    make 00:59:59 of one o'clock.
    """
    exact = times.astype("datetime64[us]") + _HALF_A_SECOND
    return exact.astype("datetime64[s]")


def exact_times(coordinate: xr.DataArray, source: str) -> xr.DataArray:
    """A coordinate of times, of any shape, as exact times to the second.

    Raises UserError where times are missing, of another calendar, or kept so coarsely that hours
    cannot be told.
    """
    values = coordinate.values
    if not values.size:
        raise UserError(f"{source} holds no times: {coordinate.name} is empty")
    if not np.issubdtype(values.dtype, np.datetime64) or np.isnat(values).any():
        raise UserError(
            f"{source} has times ({coordinate.name}) that are missing or not of the usual "
            "calendar: give it a time coordinate in the standard (Gregorian) calendar"
        )
    return coordinate.copy(data=whole_seconds(_without_coarseness(values, coordinate, source)))


def exact_lead_times(coordinate: xr.DataArray, source: str) -> xr.DataArray:
    """A coordinate of lead times, of any shape, to the second.

    Raises UserError where it has no unit of time, or where values are missing.
    """
    values = coordinate.values
    if values.dtype.kind == "m":
        seconds = values.astype("timedelta64[us]").astype(np.float64) * 1e-6
        is_missing = np.isnat(values)
    else:
        unit = _SECONDS_PER_UNIT.get(str(coordinate.attrs.get("units", "")).strip().lower())
        if values.dtype.kind not in "iuf" or unit is None:
            raise UserError(
                f"{source}: {coordinate.name} is not a duration: give it units such as 'hours'"
            )
        seconds = values.astype(np.float64) * unit
        is_missing = ~np.isfinite(seconds)
    if is_missing.any():
        raise UserError(f"{source}: {coordinate.name} has missing values: give each a duration")
    return coordinate.copy(data=np.round(seconds).astype("timedelta64[s]"))


def refuse_repeated(instants: NDArray[Any], source: str) -> None:
    """Raises UserError where a time or a lead time is there more than once."""
    distinct, counts = np.unique(instants, return_counts=True)
    repeated = distinct[counts > 1]
    if not len(repeated):
        return
    what = str(repeated[0])
    if repeated.dtype.kind == "m":
        what = f"lead time {to_hours(repeated[0]):g} h"
    more = f" (and {len(repeated) - 1} other repeated times)" if len(repeated) > 1 else ""
    raise UserError(f"{source} holds {what} more than once{more}: drop the duplicates first")


def levels_of(coordinate: xr.DataArray) -> tuple[int | None, ...]:
    """The levels of a coordinate in whole hPa; None for one that is not whole, as no channel's is.

    Where no unit is stated, levels are known only if all of them are usual pressure levels, in hPa
    or in Pa. Raises Unusable where they are not known.
    """
    values = np.atleast_1d(coordinate.values)
    is_pressure = values.dtype.kind in "iuf" and np.isfinite(values) & (values > 0)
    if not np.all(is_pressure):
        raise Unusable(
            f"has levels {', '.join(map(str, values.tolist()))}, not all of which are pressures"
        )
    words = " ".join(str(coordinate.attrs.get(key, "")) for key in _NAMES_OF_LEVELS).lower()
    if any(word in words for word in _OTHER_LEVELS):
        raise Unusable(f"has levels that are called {words.strip()!r}: choose pressure levels")
    pressures = values.astype(np.float64)
    units = str(coordinate.attrs.get("units", "")).strip()
    if not units and str(coordinate.name) in _UNITS_IN_NAMES:
        units = _UNITS_IN_NAMES[str(coordinate.name)]
    if units:
        to_hpa = conversion(units, "hPa")
        if to_hpa is None:
            raise Unusable(f"has levels in {units!r}, not in hPa: choose pressure levels")
        pressures = to_hpa.factor * pressures
    elif not set(pressures) <= _USUAL_LEVELS:
        pressures = pressures / 100.0
        if not set(pressures) <= _USUAL_LEVELS:
            raise Unusable(
                f"has levels {values.min():g} to {values.max():g} without units, not all of which "
                "are usual pressure levels: state their units"
            )
    if len(np.unique(pressures)) < len(pressures):
        raise Unusable("has a level more than once: drop the duplicates first")
    return tuple(round(p) if abs(p - round(p)) < 1e-6 * p else None for p in pressures)


def grid_of(latitude: xr.DataArray, longitude: xr.DataArray, source: str) -> Grid:
    """The grid of two coordinates, in degrees and in the order of the archive.

    Raises UserError where coordinates are not plausible as degrees, repeated or out of order.
    """
    for coordinate in (latitude, longitude):
        values = coordinate.values
        if values.ndim > 1 or values.dtype.kind not in "iuf" or not np.isfinite(values).all():
            raise UserError(
                f"{source} has {coordinate.name} that is no sequence of degrees: correct it first"
            )
        if "rad" in str(coordinate.attrs.get("units", "")).lower():
            raise UserError(f"{source} has {coordinate.name} in radians: give it in degrees")
    rows = np.atleast_1d(latitude.values).astype(np.float64)
    columns = np.atleast_1d(longitude.values).astype(np.float64)
    highest = float(np.abs(rows).max())
    if highest > 90.0 + 1e-6:
        raise UserError(
            f"{source} has latitudes from {rows.min():g} to {rows.max():g}, beyond the poles: "
            "give them in degrees north, from -90 to 90"
        )
    if len(rows) > 2 and np.abs(columns).max() < 2.0001 * np.pi and highest < _LARGEST_RADIANS:
        raise UserError(
            f"{source} has latitudes from {rows.min():g} to {rows.max():g} and longitudes from "
            f"{columns.min():g} to {columns.max():g}: are they radians? Give them in degrees"
        )
    if np.abs(columns).max() > 720.0:
        raise UserError(
            f"{source} has longitudes from {columns.min():g} to {columns.max():g}: give them in "
            "degrees east"
        )
    rises = np.diff(rows)
    eastward = np.diff(columns) % 360.0  # across 360 once at most, if they go round once
    if not (np.all(rises > 0) or np.all(rises < 0)) or not (
        _goes_round_once(eastward) or _goes_round_once(360.0 - eastward)
    ):
        raise UserError(
            f"{source} has latitudes or longitudes that are repeated or out of order: "
            "sort them first, and drop longitude 360 where 0 is there too"
        )
    return Grid(rows, columns)


def covers_globe(grid: Grid) -> bool:
    """Whether columns go round in even steps, and rows reach both poles but for one spacing."""
    columns, rows = np.sort(_from_zero(grid.longitude)), grid.latitude
    if len(rows) < 2:
        return False
    steps = np.diff(columns, append=columns[:1] + 360.0)
    is_even = np.abs(steps - 360.0 / len(steps)).max() <= 0.01 * 360.0 / len(steps)
    return bool(is_even and np.all(_reach(rows) <= 1.01 * np.abs(np.diff(rows)).max()))


def global_grid(grid: Grid, source: str) -> Grid:
    """The grid as stores keep it: longitudes from 0 eastward, rows to be shared evenly.

    Rows keep their direction; of an odd number that reaches both poles, the one at the south pole
    is dropped. Raises UserError where the grid does not cover the whole globe.
    """
    columns, rows = np.sort(_from_zero(grid.longitude)), grid.latitude
    if not covers_globe(grid):
        raise UserError(
            f"{source} spans latitudes {rows.min():g} to {rows.max():g} and longitudes "
            f"{columns[0]:g} to {columns[-1]:g}, not the whole globe in even steps: choose a "
            "global source"
        )
    is_dropped = len(rows) % 2 == 1 and bool(np.all(_reach(rows) < 1e-6))
    return Grid(rows[rows > rows.min()] if is_dropped else rows, columns)


def _reach(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far the outermost rows are from the poles, degrees."""
    return 90.0 - np.abs(rows[[0, -1]])


def _from_zero(longitude: NDArray[np.float64]) -> NDArray[np.float64]:
    """Longitudes wrapped to 0 to 360 degrees, exclusive."""
    eastward = longitude % 360.0
    eastward[eastward > 360.0 - 1e-6] = 0.0
    return eastward


def _goes_round_once(steps: NDArray[np.float64]) -> bool:
    return bool(np.all(steps % 360.0 > 1e-6) and (steps % 360.0).sum() < 360.0 - 1e-6)


def _without_coarseness(
    times: NDArray[np.datetime64], coordinate: xr.DataArray, source: str
) -> NDArray[np.datetime64]:
    """Times that were kept in 32 bits, to the hour or minute that all of them are near."""
    units = str(coordinate.encoding.get("units", ""))
    unit = _SECONDS_PER_UNIT.get(units.partition(" ")[0].lower())
    origin_text = re.search(r"since\s+(\d+)-(\d+)-(\d+)", units)
    if coordinate.encoding.get("dtype") != np.float32 or unit is None or not times.size:
        return times
    if origin_text is None:
        raise UserError(f"{source} keeps times in 32 bits {units}: write them in 64 bits")
    exact = times.astype("datetime64[us]").astype(np.int64)
    year, month, day = map(int, origin_text.groups())
    origin = np.datetime64(f"{year:04}-{month:02}-{day:02}", "us").astype(np.int64)
    largest = np.abs(exact - origin).max() / (1e6 * unit)
    error = 1e6 * unit * np.spacing(np.float32(largest))  # microseconds
    if error <= 500_000:
        return times
    for step in (3_600_000_000, 60_000_000):
        near = (exact + step // 2) // step * step
        if np.abs(near - exact).max() <= error < step // 2:
            return near.astype("datetime64[us]")
    # Times further apart than the error, all of them whole hours, are not what rounding makes.
    if np.abs(exact % 3_600_000_000).max() == 0 and _least_spacing(exact) > error:
        return times
    raise UserError(
        f"{source} keeps times in 32 bits, to {error / 1e6:.3g} s, and they are near no whole "
        "hours or minutes: write them in 64 bits"
    )


def _least_spacing(exact: NDArray[np.int64]) -> int:
    spacings = np.diff(np.unique(exact))
    return int(spacings.min()) if len(spacings) else 0
