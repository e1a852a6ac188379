"""The sun from another series than the package's, and its radiation by a sum over minutes.

Position and distance are those of Meeus, Astronomical Algorithms (1991), chapters 25 and 28, as in
NOAA's solar calculator; the flux is that of each minute, averaged.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SOLAR_CONSTANT = 1360.8  # W m-2


def mean_flux(
    time: np.datetime64, hours: float, latitude: NDArray[np.float64], longitude: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean flux on a horizontal surface over some hours from ``time``, W m-2, ``(lat, lon)``."""
    minutes = round(hours * 60)
    total = np.zeros((len(latitude), len(longitude)))
    for minute in range(minutes):
        total += flux(time + np.timedelta64(60 * minute + 30, "s"), latitude, longitude)
    return total / minutes


def flux(
    time: np.datetime64, latitude: NDArray[np.float64], longitude: NDArray[np.float64]
) -> NDArray[np.float64]:
    days = (time - np.datetime64("2000-01-01T12:00:00", "s")) / np.timedelta64(1, "D")
    century = days / 36525.0
    mean_longitude = 280.46646 + century * (36000.76983 + 0.0003032 * century)
    anomaly = np.deg2rad(357.52911 + century * (35999.05029 - 0.0001537 * century))
    eccentricity = 0.016708634 - century * (0.000042037 + 0.0000001267 * century)
    centre = (
        np.sin(anomaly) * (1.914602 - century * (0.004817 + 0.000014 * century))
        + np.sin(2 * anomaly) * (0.019993 - 0.000101 * century)
        + np.sin(3 * anomaly) * 0.000289
    )
    true_anomaly = anomaly + np.deg2rad(centre)
    distance = 1.000001018 * (1 - eccentricity**2) / (1 + eccentricity * np.cos(true_anomaly))
    node = np.deg2rad(125.04 - 1934.136 * century)
    apparent = np.deg2rad(mean_longitude + centre - 0.00569 - 0.00478 * np.sin(node))
    seconds = 21.448 - century * (46.815 + century * (0.00059 - 0.001813 * century))
    obliquity = np.deg2rad(23 + (26 + seconds / 60) / 60 + 0.00256 * np.cos(node))
    declination = np.arcsin(np.sin(obliquity) * np.sin(apparent))
    y, mean = np.tan(obliquity / 2) ** 2, np.deg2rad(mean_longitude)
    equation_minutes = 4 * np.rad2deg(
        y * np.sin(2 * mean)
        - 2 * eccentricity * np.sin(anomaly)
        + 4 * eccentricity * y * np.sin(anomaly) * np.cos(2 * mean)
        - y**2 * np.sin(4 * mean) / 2
        - 5 * eccentricity**2 * np.sin(2 * anomaly) / 4
    )
    since_midnight = (time - time.astype("datetime64[D]")) / np.timedelta64(60, "s")
    hour_angle = np.deg2rad((since_midnight + equation_minutes + 4 * longitude) / 4 - 180)
    phi = np.deg2rad(latitude)[:, None]
    cosine = np.sin(phi) * np.sin(declination)
    cosine = cosine + np.cos(phi) * np.cos(declination) * np.cos(hour_angle)
    return SOLAR_CONSTANT / distance**2 * np.maximum(cosine, 0.0)
