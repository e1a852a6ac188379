"""Days of the year and hours of the day, at the ends of years and in leap years."""

from __future__ import annotations

import calendar
from datetime import date, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weathermixer.data.annual_cycle import day_of_year, hour_of_day, last_hour, nearest_day

ALL_OF_366, ALL_OF_365 = np.arange(1, 367), np.arange(1, 366)
EVERY_FIFTH = np.arange(1, 366, 5)


@given(st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)))
def test_days_and_hours_are_those_of_the_calendar(moment: datetime) -> None:
    time = np.datetime64(moment, "us")
    assert day_of_year(time) == moment.timetuple().tm_yday
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    assert hour_of_day(time) == pytest.approx((moment - midnight).total_seconds() / 3600)


@pytest.mark.parametrize(
    ("time", "of_366", "of_365"),
    [
        ("2020-01-01", 1, 1),
        ("2020-02-28", 59, 59),
        ("2020-02-29", 60, 60),
        ("2020-03-01", 61, 61),
        ("2020-12-30", 365, 365),
        ("2020-12-31", 366, 365),
        ("2021-03-01", 60, 60),
        ("2021-12-31", 365, 365),
        ("1999-12-31T23:59:59", 365, 365),
    ],
)
def test_a_climatology_of_366_days_has_one_for_the_last_of_a_leap_year(
    time: str, of_366: int, of_365: int
) -> None:
    assert ALL_OF_366[nearest_day(ALL_OF_366, np.datetime64(time))] == of_366
    assert ALL_OF_365[nearest_day(ALL_OF_365, np.datetime64(time))] == of_365


@given(st.dates(date(1950, 1, 1), date(2050, 1, 1)))
def test_the_nearest_of_some_days_is_found_round_the_year(wanted: date) -> None:
    time = np.datetime64(wanted, "s")
    day = min(int(day_of_year(time)), 365)
    chosen = EVERY_FIFTH[nearest_day(EVERY_FIFTH, time)]
    apart = [min(abs(kept - day), 365 - abs(kept - day)) for kept in EVERY_FIFTH.tolist()]
    assert min(abs(chosen - day), 365 - abs(chosen - day)) == min(apart)


def test_the_last_days_of_a_year_may_be_nearest_to_its_first() -> None:
    kept = np.array([1, 181])
    assert nearest_day(kept, np.datetime64("2021-12-30")) == 0
    assert nearest_day(kept, np.datetime64("2020-12-31")) == 0
    assert calendar.isleap(2020)


@pytest.mark.parametrize(
    ("kept", "hour", "chosen"),
    [
        ((0, 6, 12, 18), 0, 0),
        ((0, 6, 12, 18), 5.9, 0),
        ((0, 6, 12, 18), 6, 6),
        ((0, 6, 12, 18), 23, 18),
        ((6, 18), 3, 18),
        ((0,), 23, 0),
        ((18, 0, 6, 12), 7, 6),
    ],
)
def test_of_the_hours_kept_the_last_one_applies(
    kept: tuple[int, ...], hour: float, chosen: int
) -> None:
    time = np.datetime64("2021-01-01", "s") + np.timedelta64(round(3600 * hour), "s")
    assert kept[last_hour(np.array(kept), time)] == chosen
