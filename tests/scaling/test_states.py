"""States of measurements: parts of generated ones, and the rate at which throttled ones arrive."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from weathermixer.config import Data
from weathermixer.data.store.reading_cost import ReadingCost
from weathermixer.scaling.generated_states import GeneratedStates
from weathermixer.scaling.throttle import BURST_SECONDS, Bucket, throttled

DATA = Data.model_validate({"store": "absent", "levels": [500, 850], "step_hours": 12})


def set_clock(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> None:
    """Let these functions stand for those of ``time`` where bytes are throttled."""
    monkeypatch.setattr("weathermixer.scaling.throttle.time", SimpleNamespace(**functions))


def test_parts_of_generated_states_are_those_of_whole_ones() -> None:
    states = GeneratedStates(DATA, (6, 8))
    assert states.grid == (6, 8) and len(states.channels) == 5 * 2 + 4
    whole = states.read(5)
    assert whole.shape == (14, 6, 8) and whole.dtype == np.float32
    own = states.channel_indices(states.channels[3:7])
    part = states.read(5, own, slice(2, 5))
    np.testing.assert_array_equal(part, whole[3:7, :, 2:5])
    assert not np.array_equal(whole, states.read(6))
    assert np.unique(whole[:, 0, 0]).size == 14  # no two channels are alike
    assert 0.1 < whole.std() < 2.0
    assert (np.diff(states.times) == np.timedelta64(12, "h")).all()


def test_a_bucket_hands_out_bytes_at_its_rate_after_what_it_may_save_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    set_clock(monkeypatch, monotonic=lambda: now)
    bucket = Bucket(50.0)
    # 100 bytes take 2 s, less what was saved up; the next wait behind them.
    assert bucket.seconds_until_delivered(100) == pytest.approx(2.0 - BURST_SECONDS)
    assert bucket.seconds_until_delivered(25) == pytest.approx(2.5 - BURST_SECONDS)
    now += 1.0
    assert bucket.seconds_until_delivered(0) == pytest.approx(1.5 - BURST_SECONDS)
    now += 1000.0  # no more is saved up in any time
    assert bucket.seconds_until_delivered(100) == pytest.approx(2.0 - BURST_SECONDS)


def test_throttled_states_are_the_same_and_arrive_by_their_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    set_clock(monkeypatch, monotonic=lambda: 0.0, sleep=slept.append)
    states = GeneratedStates(DATA, (6, 8))
    slow = throttled(states, 1000.0)
    np.testing.assert_array_equal(slow.read(1, slice(0, 2)), states.read(1, slice(0, 2)))
    assert slow.grid == states.grid
    assert slept == [pytest.approx(2 * 6 * 8 * 4 / 1000.0 - BURST_SECONDS)]


def test_throttled_states_wait_for_the_whole_of_their_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    set_clock(monkeypatch, monotonic=lambda: 0.0, sleep=slept.append)
    states = GeneratedStates(DATA, (6, 8))
    monkeypatch.setattr(states, "reading_cost", lambda *part: ReadingCost(32, 4000))
    throttled(states, 1000.0).read(1, slice(0, 1), slice(0, 1))
    assert slept == [pytest.approx(4.0 - BURST_SECONDS)]
