from __future__ import annotations

import math

import pytest

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
