from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weathermixer.config import Training
from weathermixer.training.schedule import learning_rate


def _training(**values: object) -> Training:
    return Training.model_validate(
        {
            "steps": 1000,
            "learning_rate": 1e-3,
            "warmup_steps": 100,
            "warmup_learning_rate": 1e-5,
            "final_learning_rate": 2e-5,
            **values,
        }
    )


def test_warm_up_is_linear_and_ends_at_the_highest_rate() -> None:
    training = _training()
    assert learning_rate(0, training) == 1e-5
    assert learning_rate(50, training) == pytest.approx((1e-5 + 1e-3) / 2)
    assert learning_rate(100, training) == pytest.approx(1e-3)


def test_without_cycles_one_cosine_lasts_to_the_end() -> None:
    training = _training()
    assert learning_rate(550, training) == pytest.approx((1e-3 + 2e-5) / 2)
    angle = math.pi * (700 - 100) / 900
    assert learning_rate(700, training) == pytest.approx(
        2e-5 + (1e-3 - 2e-5) * (1 + math.cos(angle)) / 2
    )
    assert learning_rate(999, training) == pytest.approx(2e-5, rel=1e-2)
    rates = [learning_rate(step, training) for step in range(100, 1000)]
    assert rates == sorted(rates, reverse=True)


def test_each_cycle_starts_at_half_the_height_of_the_one_before() -> None:
    training = _training(cycle_steps=200)
    assert learning_rate(299, training) == pytest.approx(2e-5, rel=1e-2)
    for cycle in range(5):
        start = learning_rate(100 + 200 * cycle, training)
        assert start == pytest.approx(max(1e-3 * 0.5**cycle, 2e-5))


def test_no_cycle_rises_from_below_where_it_ends() -> None:
    training = _training(cycle_steps=10)
    assert all(learning_rate(step, training) >= 2e-5 for step in range(100, 1000))


def test_without_warm_up_it_starts_at_the_top() -> None:
    assert learning_rate(0, _training(warmup_steps=0)) == 1e-3


def test_a_constant_rate_stays_where_warm_up_ended() -> None:
    training = _training(schedule="constant")
    assert learning_rate(50, training) == pytest.approx((1e-5 + 1e-3) / 2)
    assert {learning_rate(step, training) for step in range(100, 1000)} == {1e-3}


def test_a_cooldown_falls_at_the_end_by_the_square_root() -> None:
    training = _training(schedule="cooldown", cooldown_steps=400)
    assert {learning_rate(step, training) for step in range(100, 601)} == {1e-3}
    assert learning_rate(700, training) == pytest.approx(2e-5 + (1e-3 - 2e-5) / 2)
    assert learning_rate(825, training) == pytest.approx(2e-5 + (1e-3 - 2e-5) / 4)
    # A fifth of the steps where nothing is set, and no more than warm-up leaves.
    default = _training(schedule="cooldown")
    assert learning_rate(800, default) == 1e-3
    assert learning_rate(850, default) == pytest.approx(2e-5 + (1e-3 - 2e-5) / 2)
    assert _training(schedule="cooldown", cooldown_steps=5000).cooldown_length == 900


@given(
    schedule=st.sampled_from(["cosine", "constant", "cooldown"]),
    steps=st.integers(2, 400),
    warmup=st.floats(0.0, 0.99),
    highest=st.floats(1e-6, 1.0),
    others=st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)),
    falling=st.none() | st.integers(1, 500),
    cycle=st.none() | st.integers(1, 500),
)
def test_the_rate_stays_within_its_bounds_and_jumps_nowhere_but_at_a_restart(
    schedule: str,
    steps: int,
    warmup: float,
    highest: float,
    others: tuple[float, float],
    falling: int | None,
    cycle: int | None,
) -> None:
    start, end = (highest * share for share in others)
    training = Training.model_validate(
        {
            "schedule": schedule,
            "steps": steps,
            "warmup_steps": int(warmup * steps),
            "learning_rate": highest,
            "warmup_learning_rate": start,
            "final_learning_rate": end,
            "cycle_steps": cycle,
            "cooldown_steps": falling,
        }
    )
    rates = [learning_rate(step, training) for step in range(steps)]
    slack = 1e-12 * highest
    assert all(min(start, end) - slack <= rate <= highest + slack for rate in rates)
    begin = training.warmup_steps
    assert rates[begin] == pytest.approx(highest)
    for step in range(1, steps):
        rise = rates[step] - rates[step - 1]
        if step <= begin:
            assert rise + slack >= 0.0 and rise <= (highest - start) / begin + slack
        elif schedule == "constant":
            assert rise == 0.0
        elif schedule == "cooldown":
            assert -(highest - end) / training.cooldown_length**0.5 - slack <= rise <= 0.0
        else:
            length = cycle or steps - begin
            if (step - begin) % length:
                # Half a cosine is steepest at its middle.
                assert -(highest - end) * math.pi / 2 / length - slack <= rise <= slack
