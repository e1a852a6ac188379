"""Hours become time differences of whole seconds, and come back."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from weathermixer.data.time_steps import to_hours, to_seconds, to_timedelta


@pytest.mark.parametrize("hours", [0.25, 1.0, 6.0, 1.0 / 3.0, 0.1, 240.0, 8766.0])
def test_hours_become_the_seconds_of_the_standard_library(hours: float) -> None:
    expected = round(timedelta(hours=hours).total_seconds())
    assert to_timedelta(hours) == np.timedelta64(expected, "s")
    assert to_timedelta(np.array([hours, 6.0]))[0] == np.timedelta64(expected, "s")


@pytest.mark.parametrize("unit", ["h", "m", "s", "ms", "ns"])
def test_differences_of_any_unit_become_hours(unit: str) -> None:
    difference = np.timedelta64(90, "m").astype(f"timedelta64[{unit}]")
    expected = 1.0 if unit == "h" else 1.5  # NumPy cuts to whole units
    hours = to_hours(difference)
    assert isinstance(hours, float)
    assert hours == expected
    np.testing.assert_array_equal(to_hours(np.array([difference] * 2)), [expected] * 2)


def test_times_and_differences_of_any_unit_become_whole_seconds() -> None:
    differences = np.array([90, -1], dtype="timedelta64[m]")
    np.testing.assert_array_equal(to_seconds(differences), [5400, -60])
    times = np.datetime64("1970-01-02", "D") + differences.astype("timedelta64[ns]")
    np.testing.assert_array_equal(to_seconds(times), [86400 + 5400, 86400 - 60])
