"""Fields that calendar and sun determine: computed for any time, not read.

They are given to the network beside the state from which a step begins. Everything here is pure,
and normalised by constants, so that a forecast needs no more than its valid times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weathermixer.data.time_steps import to_hours

SOLAR_CONSTANT = 1360.8  # W m⁻², Kopp and Lean 2011, https://doi.org/10.1029/2010GL045777

_J2000 = np.datetime64("2000-01-01T12:00:00", "s")
_TROPICAL_YEAR_DAYS = 365.2422
_TURN = 2.0 * np.pi

# Mean and standard deviation of the instantaneous flux over the sphere, in solar constants: the
# cosine of the zenith distance is uniform in 0..1 on the day side and 0 on the other.
_MEAN_FLUX = SOLAR_CONSTANT / 4.0
_STD_FLUX = SOLAR_CONSTANT * np.sqrt(1.0 / 6.0 - 1.0 / 16.0)

_FIELDS = {
    "hour_of_day": ("hour_of_day_sine", "hour_of_day_cosine"),
    "day_of_year": ("day_of_year_sine", "day_of_year_cosine"),
    "toa_solar_radiation": ("toa_solar_radiation",),
}


def forcing_fields(forcings: Sequence[str]) -> tuple[str, ...]:
    """The names of the fields of some forcings, in the order in which the network is given them.

    >>> forcing_fields(["day_of_year", "toa_solar_radiation"])
    ('day_of_year_sine', 'day_of_year_cosine', 'toa_solar_radiation')
    """
    return tuple(field for forcing in forcings for field in _FIELDS[forcing])


@dataclass(frozen=True)
class Forcings:
    """The forcings of a grid, or of a part of one, under the names of their ``fields``.

    ``latitude`` and ``longitude`` are in degrees; ``step_hours`` is the lead time of a step.
    """

    fields: tuple[str, ...]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    step_hours: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of fields, latitudes and longitudes."""
        return len(self.fields), len(self.latitude), len(self.longitude)

    def fill(self, slot: NDArray[np.floating], time: np.datetime64) -> None:
        """Write the fields of a step that begins at ``time`` (UTC) into a slot of ``shape``."""
        for own, name in zip(slot, self.fields, strict=True):
            own[:] = _COMPUTED[name](time, self)


def mean_insolation(
    time: np.datetime64,
    hours: float,
    latitude: NDArray[np.float64],
    longitude: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Mean solar radiation at the top of the atmosphere over ``hours`` from ``time``, in W m⁻².

    ``(latitude, longitude)``, on a horizontal surface. The integral of the cosine of the zenith
    distance over the hour angle ``h``, where it is positive, is exact:

        ∫ max(0, a + b cos h) dh,  a = sin φ sin δ,  b = cos φ cos δ.

    The sun's declination ``δ``, its distance and the equation of time are those of the middle of
    the interval.
    """
    middle = time + np.timedelta64(round(hours * 1800.0), "s")
    declination, equation_of_time, distance = _sun(middle)
    phi = np.deg2rad(latitude)[:, None]
    a = np.sin(phi) * np.sin(declination)
    b = np.cos(phi) * np.cos(declination)
    sunset = np.arccos(np.clip(-a / b, -1.0, 1.0))
    half_day = a * sunset + b * np.sin(sunset)

    def integral(hour_angle: NDArray[np.float64]) -> NDArray[np.float64]:
        turns = np.floor(hour_angle / _TURN + 0.5)
        lit = np.clip(hour_angle - turns * _TURN, -sunset, sunset)
        found: NDArray[np.float64] = 2.0 * turns * half_day + a * lit + b * np.sin(lit)
        return found

    begin = np.deg2rad(longitude) + _TURN * (_day_fraction(time) - 0.5) + equation_of_time
    width = _TURN * hours / 24.0
    mean = (integral(begin + width) - integral(begin)) / width
    return SOLAR_CONSTANT / distance**2 * mean


def _sun(time: np.datetime64) -> tuple[float, float, float]:
    """The sun's declination and the equation of time, in radians, and its distance, in au.

    The low-precision formulas of the Astronomical Almanac, within 0.01° from 1950 to 2050
    (Michalsky 1988, https://doi.org/10.1016/0038-092X(88)90045-X).
    """
    days = _days_since(_J2000, time)
    mean_longitude = np.deg2rad((280.460 + 0.9856474 * days) % 360.0)
    anomaly = np.deg2rad((357.528 + 0.9856003 * days) % 360.0)
    ecliptic_longitude = mean_longitude + np.deg2rad(
        1.915 * np.sin(anomaly) + 0.020 * np.sin(2.0 * anomaly)
    )
    obliquity = np.deg2rad(23.439 - 4e-7 * days)
    right_ascension = np.arctan2(
        np.cos(obliquity) * np.sin(ecliptic_longitude), np.cos(ecliptic_longitude)
    )
    declination = np.arcsin(np.sin(obliquity) * np.sin(ecliptic_longitude))
    equation_of_time = (mean_longitude - right_ascension + np.pi) % _TURN - np.pi
    distance = 1.00014 - 0.01671 * np.cos(anomaly) - 0.00014 * np.cos(2.0 * anomaly)
    return float(declination), float(equation_of_time), float(distance)


def _solar_radiation(time: np.datetime64, on: Forcings) -> NDArray[np.float64]:
    flux = mean_insolation(time, on.step_hours, on.latitude, on.longitude)
    return (flux - _MEAN_FLUX) / _STD_FLUX


def _local_hour(time: np.datetime64, on: Forcings) -> NDArray[np.float64]:
    """The phase of the day, local mean solar time: the sun's hour, wherever a grid point lies."""
    return np.deg2rad(on.longitude) + _TURN * _day_fraction(time)


def _season(time: np.datetime64) -> float:
    """The phase of the year: of the tropical one, in which no leap day makes a jump."""
    return _TURN * _days_since(_J2000, time) / _TROPICAL_YEAR_DAYS


def _day_fraction(time: np.datetime64) -> float:
    return _days_since(time.astype("datetime64[D]"), time)


def _days_since(origin: np.datetime64, time: np.datetime64) -> float:
    return to_hours(time - origin) / 24.0


_COMPUTED: dict[str, Callable[[np.datetime64, Forcings], NDArray[np.float64] | np.floating]] = {
    "hour_of_day_sine": lambda time, on: np.sin(_local_hour(time, on)),
    "hour_of_day_cosine": lambda time, on: np.cos(_local_hour(time, on)),
    "day_of_year_sine": lambda time, on: np.sin(_season(time)),
    "day_of_year_cosine": lambda time, on: np.cos(_season(time)),
    "toa_solar_radiation": _solar_radiation,
}
