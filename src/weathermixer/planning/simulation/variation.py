"""How times vary from one operation, rank and step to the next: distributions to draw from.

Factors are log-normal with a mean of one: what a machine file holds are means.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from statistics import NormalDist

_NORMAL = NormalDist()


@dataclass(frozen=True)
class Variation:
    """Relative standard deviations of an operation's time, and of a rank's pace in a whole step.

    In a step, a rank is a straggler with ``straggler_probability``, and then computes
    ``straggler_factor`` times as long. Each rank stands for so many ``replicas``, all of which
    wait for the slowest, so that its pace is the slowest of theirs.
    """

    of_operation: float = 0.0
    of_rank: float = 0.0
    straggler_probability: float = 0.0
    straggler_factor: float = 1.0
    replicas: int = 1

    @property
    def is_none(self) -> bool:
        """Whether every step takes as long as every other."""
        straggles = self.straggler_probability > 0.0 and self.straggler_factor > 1.0
        return not (self.of_operation or self.of_rank or straggles)

    def rank_factor(self, generator: random.Random) -> float:
        """Draw how many times as long the slowest of a rank's replicas computes in a step."""
        # The largest of n draws lies where one draw lies at u ** (1 / n).
        place = generator.random() ** (1.0 / self.replicas)
        factor = _log_normal(self.of_rank, _NORMAL.inv_cdf(min(max(place, 1e-15), 1 - 1e-15)))
        all_keep_up = (1.0 - self.straggler_probability) ** self.replicas
        return factor if generator.random() < all_keep_up else factor * self.straggler_factor

    def operation_factor(self, generator: random.Random) -> float:
        """Draw how many times as long an operation takes."""
        if not self.of_operation:
            return 1.0
        return _log_normal(self.of_operation, generator.gauss())


def _log_normal(deviation: float, drawn: float) -> float:
    """A factor of mean one and of a relative standard deviation, for a standard normal draw."""
    width = math.sqrt(math.log1p(deviation**2))
    return math.exp(width * drawn - width**2 / 2)
