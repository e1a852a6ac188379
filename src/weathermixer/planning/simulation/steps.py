"""The time of a step as it is simulated: once, or as often as its distribution needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from weathermixer.planning.machine import Machine
from weathermixer.planning.simulation.actions import Program
from weathermixer.planning.simulation.engine import RankTimes, simulate
from weathermixer.planning.simulation.transport import Network
from weathermixer.planning.simulation.variation import Variation

DRAWS = 25
# The expected range of five draws of a normal distribution, in standard deviations: about as many
# measurements of the same thing lie behind the spread of a machine file.
_RANGE_OF_FIVE = 2.326


@dataclass(frozen=True)
class SimulatedStep:
    """Seconds of steps that were simulated: their median, and what one in ten is below and above.

    ``slowest`` are the times of the rank that ends last, where nothing varies.
    """

    median: float
    low: float
    high: float
    draws: int
    slowest: RankTimes

    def to_json(self) -> dict[str, Any]:
        """The step as an object of JSON."""
        return {
            "seconds_per_step": self.median,
            "low": self.low,
            "high": self.high,
            "draws": self.draws,
            "computed": self.slowest.computed,
            "waited": self.slowest.waited,
            "launching": self.slowest.launching,
        }

    def render(self) -> str:
        """The step as people read it."""
        text = f"{self.median:.3g} s a step"
        if self.draws > 1:
            text += f", {self.low:.3g} to {self.high:.3g} in 8 of 10"
        times = self.slowest
        text += f"; without variation {times.computed:.3g} s computing, {times.waited:.3g} waiting"
        return text + (f", {times.launching:.3g} for its host" if times.launching else "")


def simulate_step(
    programs: Mapping[int, Program],
    network: Network,
    *,
    sees_arrivals: bool,
    variation: Variation | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> SimulatedStep:
    """Simulate a step of all ranks, as often as so many ``draws`` where something varies."""
    even = simulate(programs, network, sees_arrivals=sees_arrivals)
    slowest = max(even.ranks.values(), key=lambda times: times.end)
    if variation is None or variation.is_none:
        return SimulatedStep(even.seconds, even.seconds, even.seconds, 1, slowest)
    seconds = [
        simulate(
            programs,
            network,
            sees_arrivals=sees_arrivals,
            variation=variation,
            seed=seed + number,
        ).seconds
        for number in range(draws)
    ]
    low, median, high = np.quantile(seconds, (0.1, 0.5, 0.9)).tolist()
    return SimulatedStep(median, low, high, draws, slowest)


def variation_of(machine: Machine, *, replicas: int = 1) -> Variation:
    """How ranks of a machine vary from step to step, from the spread of its measurements.

    Nothing that varies faster, or rarely, is in a machine file.
    """
    return Variation(of_rank=(machine.spread or 0.0) / _RANGE_OF_FIVE, replicas=replicas)
