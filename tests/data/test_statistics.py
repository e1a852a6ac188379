"""Statistics of one pass agree with two passes, however the data are cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracles.store_statistics import area_weights, increments, mean_and_std
from weathermixer.data.statistics import (
    MOMENTS,
    cell_area_weights,
    field_moments,
    merge_moments,
)
from weathermixer.errors import UserError

HOUR = np.timedelta64(1, "h")
START = np.datetime64("2020-01-01", "s")


def make(seed: int, times: int, rows: int = 6, columns: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """States ``(time, 2, rows, columns)`` far from zero, and latitudes."""
    random = np.random.default_rng(seed)
    states = 1.0e5 + 50.0 * random.standard_normal((times, 2, rows, columns))
    latitude = np.sort(random.uniform(-90, 90, rows))[::-1]
    return states.astype(np.float32), latitude


def moments_of(states: np.ndarray, latitude: np.ndarray, steps: int) -> np.ndarray:
    weights = cell_area_weights(latitude)
    return np.stack(
        [
            field_moments(state, states[index - steps] if index >= steps else None, weights)
            for index, state in enumerate(states)
        ]
    )


@given(st.integers(0, 1000), st.integers(2, 40), st.booleans())
def test_area_weights_are_those_of_the_cells(seed: int, rows: int, ascending: bool) -> None:
    latitude = np.sort(np.random.default_rng(seed).uniform(-90, 90, rows))
    latitude = latitude if ascending else latitude[::-1]
    weights = cell_area_weights(latitude)
    np.testing.assert_allclose(weights, area_weights(latitude), rtol=1e-12, atol=1e-15)
    assert weights.sum() == pytest.approx(1.0, rel=1e-12)


@given(st.integers(0, 1000), st.integers(3, 12), st.integers(1, 2))
def test_merged_moments_are_the_statistics_of_the_whole(seed: int, count: int, steps: int) -> None:
    states, latitude = make(seed, count)
    times = START + np.arange(count) * 6 * HOUR
    merged = merge_moments(
        moments_of(states, latitude, steps), times, (times[0], times[-1]), steps * 6 * HOUR
    )
    for channel in range(2):
        fields = states[:, channel].astype(np.float64)
        mean, std = mean_and_std(fields, latitude)
        changes = increments(fields, times.tolist(), steps * 6)
        _, step_std = mean_and_std(changes, latitude)
        assert merged.mean[channel] == pytest.approx(mean, rel=1e-6)
        assert merged.std[channel] == pytest.approx(std, rel=1e-6)
        assert merged.step_std[channel] == pytest.approx(step_std, rel=1e-6)


@given(st.integers(0, 1000), st.integers(4, 12), st.data())
def test_any_period_gives_the_statistics_of_its_own_times(
    seed: int, count: int, data: st.DataObject
) -> None:
    states, latitude = make(seed, count)
    times = START + np.arange(count) * 6 * HOUR
    first = data.draw(st.integers(0, count - 2))
    last = data.draw(st.integers(first + 1, count - 1))
    merged = merge_moments(
        moments_of(states, latitude, 1), times, (times[first], times[last]), 6 * HOUR
    )
    inside = slice(first, last + 1)
    fields = states[inside, 0].astype(np.float64)
    _, std = mean_and_std(fields, latitude)
    _, step_std = mean_and_std(increments(fields, times[inside].tolist(), 6), latitude)
    assert merged.std[0] == pytest.approx(std, rel=1e-6)
    assert merged.step_std[0] == pytest.approx(step_std, rel=1e-6)


@given(st.integers(0, 1000), st.permutations(range(8)))
def test_order_of_merging_does_not_matter(seed: int, order: list[int]) -> None:
    states, latitude = make(seed, 8)
    times = START + np.arange(8) * 6 * HOUR
    moments = moments_of(states, latitude, 1)
    period = (times[0], times[-1])
    straight = merge_moments(moments, times, period, 6 * HOUR)
    mixed = merge_moments(moments[order], times[order], period, 6 * HOUR)
    np.testing.assert_allclose(mixed.std, straight.std, rtol=1e-12)
    np.testing.assert_allclose(mixed.step_std, straight.step_std, rtol=1e-12)


def test_means_far_beyond_the_spread_lose_no_digits() -> None:
    states, latitude = make(0, 5)
    far = moments_of(states + np.float32(1.0e7), latitude, 1)
    near = moments_of((states + np.float32(1.0e7)) - np.float32(1.0e7), latitude, 1)
    variance = MOMENTS.index("variance")
    # A difference of mean squares would agree to 1e-6 only.
    np.testing.assert_allclose(far[:, variance], near[:, variance], rtol=1e-10)


def test_states_without_an_earlier_one_have_no_increment() -> None:
    states, latitude = make(0, 1)
    moments = field_moments(states[0], None, cell_area_weights(latitude))
    assert np.isfinite(moments[:2]).all()
    assert np.isnan(moments[2:]).all()


def test_constant_channel_has_standard_deviations_of_one() -> None:
    _, latitude = make(0, 3)
    states = np.full((3, 2, 6, 7), 280.0, dtype=np.float32)
    times = START + np.arange(3) * 6 * HOUR
    merged = merge_moments(moments_of(states, latitude, 1), times, (times[0], times[-1]), 6 * HOUR)
    np.testing.assert_array_equal(merged.std, 1.0)
    np.testing.assert_array_equal(merged.step_std, 1.0)


@pytest.mark.parametrize(
    ("period", "said"),
    [
        (("1990-01-01", "1990-12-31"), "holds none of the 3 times"),
        (("2020-01-01T00", "2020-01-01T03"), "are exactly one step apart"),
    ],
)
def test_period_that_cannot_have_statistics_is_refused(period: tuple[str, str], said: str) -> None:
    states, latitude = make(0, 3)
    times = START + np.arange(3) * 6 * HOUR
    span = (np.datetime64(period[0], "s"), np.datetime64(period[1], "s"))
    with pytest.raises(UserError, match=said):
        merge_moments(moments_of(states, latitude, 1), times, span, 6 * HOUR)
