"""Default periods partition the times; given ones are kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weathermixer.config import parse_period
from weathermixer.data.feeding.periods import periods
from weathermixer.errors import UserError


def days(count: int) -> np.ndarray:
    return np.datetime64("2000-01-01", "s") + np.arange(count) * np.timedelta64(1, "D")


def test_defaults_are_four_fifths_a_tenth_and_a_tenth() -> None:
    times = days(100)
    found = periods(times)
    assert found.train == (times[0], times[79])
    assert found.validation == (times[80], times[89])
    assert found.test == (times[90], times[99])


@given(st.integers(1, 300))
def test_defaults_share_no_time_and_leave_none_out(count: int) -> None:
    times = days(count)
    spans = [span for span in periods(times) if span is not None]
    inside = [(times >= start) & (times <= stop) for start, stop in spans]
    np.testing.assert_array_equal(np.sum(inside, axis=0), 1)


@given(st.integers(1, 4))
def test_very_few_times_all_train(count: int) -> None:
    times = days(count)
    assert periods(times) == ((times[0], times[-1]), None, None)


def test_testing_keeps_only_times_after_the_given_periods() -> None:
    times = days(100)
    train = parse_period("2000-01-01/2000-01-31")
    validation = (times[80], times[94])
    found = periods(times, train, validation)
    assert found.train == train
    assert found.validation == validation
    assert found.test == (times[95], times[99])
    assert periods(times, train, (times[80], times[99])).test is None


def test_default_that_overlaps_the_given_period_is_refused() -> None:
    times = days(100)
    with pytest.raises(UserError, match=r"overlap: set both data.train and data.validation"):
        periods(times, train=(times[0], times[99]))
    with pytest.raises(UserError, match="overlap"):
        periods(times, validation=(times[10], times[20]))
