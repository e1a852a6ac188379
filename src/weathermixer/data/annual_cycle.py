"""Days of the year and hours of the day, as climatologies count them.

A climatology goes round the year. One of 365 days (or of some of them) counts the 366th day of a
leap year as the 365th; one of 366 has a day for it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weathermixer.data.time_steps import to_hours

DAYS_IN_YEAR = 365


def day_of_year(times: NDArray[np.datetime64] | np.datetime64) -> NDArray[np.int64]:
    """The day of the year of each time, from 1 to 366."""
    days = np.asarray(times, "datetime64[D]")
    return (days - days.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64) + 1


def hour_of_day(times: NDArray[np.datetime64] | np.datetime64) -> NDArray[np.float64]:
    """Hours since midnight, UTC, of each time."""
    since = np.asarray(times) - np.asarray(times, "datetime64[D]")
    return np.asarray(to_hours(since), np.float64)


def nearest_day(days: NDArray[np.integer], time: np.datetime64) -> int:
    """The index, among days of the year from 1, of the one nearest to a time, round the year."""
    length = max(DAYS_IN_YEAR, int(np.max(days)))
    apart = np.abs(np.asarray(days) - min(int(day_of_year(time)), length))
    return int(np.argmin(np.minimum(apart, length - apart)))


def last_hour(hours: NDArray[np.integer], time: np.datetime64) -> int:
    """The index, among hours of the day, of the last at or before a time, round the clock."""
    return int(np.argmin((float(hour_of_day(time)) - np.asarray(hours)) % 24))
