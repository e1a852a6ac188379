"""Distributions of times: what is drawn of them, against their known means and quantiles."""

from __future__ import annotations

import random
import statistics

import pytest

from weathermixer.planning.simulation.actions import Computes, Joins, Program, Waits
from weathermixer.planning.simulation.flows import Route
from weathermixer.planning.simulation.steps import simulate_step
from weathermixer.planning.simulation.variation import Variation


class Instant:
    """A network that takes no time."""

    in_order = False

    def message(self, sender: int, receiver: int, num_bytes: float) -> Route:
        return Route(0.0, 0.0)

    def collective(self, rank: int, exchange: Joins) -> Route:
        return Route(0.0, 0.0)


def draws(variation: Variation, count: int = 20_000) -> list[float]:
    generator = random.Random(0)
    return [variation.rank_factor(generator) for _ in range(count)]


def test_factors_have_a_mean_of_one_and_the_deviation_that_was_asked_for() -> None:
    of_ranks = draws(Variation(of_rank=0.2))
    assert statistics.fmean(of_ranks) == pytest.approx(1.0, abs=0.01)
    assert statistics.stdev(of_ranks) == pytest.approx(0.2, rel=0.05)
    generator = random.Random(0)
    of_operations = [Variation(of_operation=0.3).operation_factor(generator) for _ in range(20_000)]
    assert statistics.fmean(of_operations) == pytest.approx(1.0, abs=0.01)
    assert statistics.stdev(of_operations) == pytest.approx(0.3, rel=0.05)


def test_the_slowest_of_replicas_is_drawn_as_the_largest_of_so_many() -> None:
    single = draws(Variation(of_rank=0.1), count=160_000)
    largest = [max(single[first : first + 16]) for first in range(0, len(single), 16)]
    drawn = draws(Variation(of_rank=0.1, replicas=16), count=10_000)
    for share in (10, 50, 90):
        expected, got = (statistics.quantiles(each, n=100)[share - 1] for each in (largest, drawn))
        assert got == pytest.approx(expected, rel=0.01)


def test_one_straggler_among_replicas_is_enough() -> None:
    straggling = Variation(straggler_probability=0.1, straggler_factor=2.0, replicas=5)
    share = statistics.fmean(factor == 2.0 for factor in draws(straggling))
    assert share == pytest.approx(1 - 0.9**5, abs=0.02)


def test_steps_are_given_by_their_median_and_a_range_and_are_the_same_again() -> None:
    ranks = tuple(range(8))
    programs: dict[int, Program] = {
        rank: [Computes(1.0), Joins(0, ranks, 0.0), Waits(0)] for rank in ranks
    }
    even = simulate_step(programs, Instant(), sees_arrivals=True)
    assert (even.median, even.low, even.high, even.draws) == (1.0, 1.0, 1.0, 1)
    straggling = Variation(straggler_probability=0.05, straggler_factor=3.0)
    varied = [
        simulate_step(programs, Instant(), sees_arrivals=True, variation=straggling, draws=200)
        for _ in range(2)
    ]
    # Of eight ranks, one straggles in 1 − 0.95⁸ = 34% of the steps.
    assert (varied[0].low, varied[0].median, varied[0].high) == (1.0, 1.0, 3.0)
    assert varied[0] == varied[1]
