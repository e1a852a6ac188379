from __future__ import annotations

import numpy as np
import pytest

from weathermixer.config.dates import parse_period, periods_overlap


def test_a_period_includes_both_of_its_ends() -> None:
    start, stop = parse_period("1979-01-01/2016-12-31")
    assert start == np.datetime64("1979-01-01T00:00:00")
    assert stop == np.datetime64("2016-12-31T23:59:59")
    assert parse_period("2001-01-01/2001-01-02T06")[1] == np.datetime64("2001-01-02T06:59:59")


def test_spaces_and_the_letter_of_utc_change_nothing() -> None:
    assert parse_period("2001-01-01T00Z / 2001-01-02T06:00Z") == parse_period(
        "2001-01-01T00/2001-01-02T06:00"
    )


@pytest.mark.parametrize(
    "text",
    [
        "2001",
        "2001-01-01/",
        "/2001-01-01",
        "NaT/NaT",
        "today/now",
        "20010101/20011231",
        "2001-13-01/2002-01-01",
        "2001-02-29/2001-03-01",
        "2001-01-01T00+01:00/2002-01-01",
        "2001-01-01/2002-01-01/2003-01-01",
    ],
)
def test_what_is_no_period_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not START/STOP, such as 1979"):
        parse_period(text)


def test_a_period_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(ValueError, match="ends before it starts"):
        parse_period("2002-01-01/2001-01-01")


@pytest.mark.parametrize(
    ("other", "overlap"),
    [
        ("2000-01-01/2000-12-31", False),
        ("2000-01-01/2001-01-01", True),
        ("2001-06-01/2001-06-02", True),
        ("2001-12-31T23/2002-06-01", True),
        ("2002-01-01/2002-06-01", False),
    ],
)
def test_periods_that_share_a_moment_overlap(other: str, overlap: bool) -> None:
    year = parse_period("2001-01-01/2001-12-31")
    assert periods_overlap(year, parse_period(other)) is overlap
    assert periods_overlap(parse_period(other), year) is overlap
