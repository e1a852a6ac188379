from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weathermixer.errors import UserError
from weathermixer.forecast.initial_times import parse_initial_times


def _times(*texts: str) -> list[np.datetime64]:
    return [np.datetime64(text, "s") for text in texts]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2020-01-31", _times("2020-01-31T00")),
        ("2020-01-31T12", _times("2020-01-31T12")),
        ("2020-01-31T12:30:15Z", _times("2020-01-31T12:30:15")),
        ("2020-01-31 12:30", _times("2020-01-31T12:30")),
        ("2020-02-01T06, 2020-01-31", _times("2020-01-31T00", "2020-02-01T06")),
        ("2020-01-31/2020-01-31/12h", _times("2020-01-31T00", "2020-01-31T12")),
        ("2020-01-31T06/2020-02-01T06/1d", _times("2020-01-31T06", "2020-02-01T06")),
        ("2020-01-31T00/2020-01-31T11/PT6H", _times("2020-01-31T00", "2020-01-31T06")),
        ("2020-01-31/2020-02-02T00/P1DT12H", _times("2020-01-31T00", "2020-02-01T12")),
        ("2020-01-31T00Z/2020-01-31T00:30Z/30min", _times("2020-01-31T00", "2020-01-31T00:30")),
        ("2020-01-31T00/2020-01-31T01/1h", _times("2020-01-31T00", "2020-01-31T01")),
        ("2020-01-31T00/2020-01-31T00/30min", _times("2020-01-31T00")),
        ("2020-01-31/2020-02-03/P2D", _times("2020-01-31", "2020-02-02")),
    ],
)  # fmt: skip
def test_times_are_read_as_they_are_written(text: str, expected: list[np.datetime64]) -> None:
    parsed = parse_initial_times(text)
    assert parsed.dtype == "datetime64[s]"
    assert parsed.tolist() == [time.item() for time in expected]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not a time"),
        ("tomorrow", "'tomorrow' is not a time"),
        ("now", "'now' is not a time"),
        ("2020", "is not a time"),
        ("2020-13-01", "'2020-13-01' is not a time"),
        ("2020-01-31T12+01:00", "is not a time"),
        ("2020-01-01,,2020-01-02", "'' is not a time"),
        ("2020-01-01,2020-01-01T00", "names a time twice"),
        ("2020-01-01/2020-01-02", "is not START/STOP/STEP"),
        ("2020-01-01/2020-01-02/6h/1d", "is not START/STOP/STEP"),
        ("2020-01-02/2020-01-01/6h", "ends before it starts"),
        ("2020-01-01/later/6h", "'later' is not a time"),
        ("2020-01-01/2020-01-02/6", "'6' is not an interval"),
        ("2020-01-01/2020-01-02/0h", "'0h' is not an interval"),
        ("2020-01-01/2020-01-02/-6h", "'-6h' is not an interval"),
        ("2020-01-01/2020-01-02/P", "'P' is not an interval"),
        ("2020-01-01/2020-01-02/PT", "'PT' is not an interval"),
        ("2020-01-01/2020-01-02/6 weeks", "'6 weeks' is not an interval"),
    ],
)
def test_what_is_no_time_is_refused_with_a_reason(text: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        parse_initial_times(text)
    assert "--init" in str(caught.value)


@given(
    start=st.datetimes(
        min_value=datetime(1950, 1, 1),
        max_value=datetime(2050, 1, 1),
    ),
    count=st.integers(1, 40),
    hours=st.integers(1, 48),
)
def test_a_range_holds_its_ends_and_equal_steps(start: datetime, count: int, hours: int) -> None:
    first = np.datetime64(start, "s")
    last = first + (count - 1) * np.timedelta64(hours, "h")
    parsed = parse_initial_times(f"{first}/{last}/{hours}h")
    assert len(parsed) == count
    assert (parsed[0], parsed[-1]) == (first, last)
    assert (np.diff(parsed) == np.timedelta64(hours, "h")).all()
