"""The table of a scaling experiment: what was measured of each case, and what follows from it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from weathermixer.planning.plan import layout_json
from weathermixer.scaling.cases import Case
from weathermixer.scaling.measuring import Measured


@dataclass(frozen=True)
class Row:
    """A case as it was measured so far.

    ``seconds`` of a step are the median over all rounds, between the least and the most.
    ``operations_per_rank``, None where nobody counts them, and ``bytes_sent`` are of the rank with
    the most in a step. Speed-up and efficiency compare the network's operations a second with those
    of the fastest contender on the fewest ranks: the former in all, the latter for each rank.
    """

    case: Case
    machine: str
    seconds: float
    seconds_min: float
    seconds_max: float
    operations_per_rank: int | None
    bytes_sent: int
    rounds: tuple[Measured, ...]
    speed_up: float | None = None
    efficiency: float | None = None
    predicted_speed_up: float | None = None
    predicted_efficiency: float | None = None

    @property
    def samples_per_second(self) -> float:
        """Samples a second, of all ranks."""
        return self.case.samples / self.seconds

    @property
    def operations_per_second(self) -> float:
        """The network's operations a second on each rank."""
        return self.case.operations / self.case.ranks / self.seconds

    @property
    def predicted_operations_per_second(self) -> float:
        """The same, as predicted."""
        return self.case.operations / self.case.ranks / self.case.planned_seconds

    @property
    def intensity(self) -> float | None:
        """Operations for each byte that goes through a rank's memory, as planned."""
        moved = self.case.planned_bytes_moved
        return None if moved is None else self.case.planned_operations / moved

    def to_json(self, kind: str) -> dict[str, Any]:
        """The row as an object of JSON."""
        case = self.case
        return {
            "case": case.key,
            "kind": kind,
            "growth": case.growth,
            "contender": case.contender,
            "ranks": case.ranks,
            "mesh": layout_json(case.layout),
            "dtype": case.config.training.dtype,
            "channels": case.config.model.channels,
            "samples_per_step": case.samples,
            "seconds": self.seconds,
            "seconds_min": self.seconds_min,
            "seconds_max": self.seconds_max,
            "predicted_seconds": case.planned_seconds,
            "samples_per_second": self.samples_per_second,
            "speed_up": self.speed_up,
            "efficiency": self.efficiency,
            "predicted_speed_up": self.predicted_speed_up,
            "predicted_efficiency": self.predicted_efficiency,
            "operations_per_step": case.operations,
            "operations_per_rank": self.operations_per_rank,
            "planned_operations_per_rank": case.planned_operations,
            "operations_per_second": self.operations_per_second,
            "intensity": self.intensity,
            "bytes_sent": self.bytes_sent,
            "planned_bytes_sent": case.planned_bytes_sent,
            "machine": self.machine,
            "rounds": [asdict(each) for each in self.rounds],
        }


def tabulate(
    kind: str, cases: Sequence[Case], rounds: Mapping[str, Sequence[Measured]], machine: str
) -> list[Row]:
    """The rows of all cases of which there is a round, in order.

    ``rounds`` are those of each case by its key; ``machine`` names what was planned for. Without
    any round on the fewest ranks, and for a roofline, nothing is compared.
    """
    rows = [_row(case, rounds[case.key], machine) for case in cases if rounds.get(case.key)]
    fewest = min(case.ranks for case in cases)
    first = [row for row in rows if row.case.ranks == fewest]
    if kind == "roofline" or not first:
        return rows
    base = max(first, key=lambda row: row.operations_per_second)
    return [_compared(row, base) for row in rows]


def _row(case: Case, rounds: Sequence[Measured], machine: str) -> Row:
    seconds = [each for measured in rounds for each in measured.seconds]
    return Row(
        case,
        machine,
        statistics.median(seconds),
        min(seconds),
        max(seconds),
        rounds[0].operations,
        rounds[0].bytes_sent,
        tuple(rounds),
    )


def _compared(row: Row, base: Row) -> Row:
    more = row.case.ranks / base.case.ranks
    efficiency = row.operations_per_second / base.operations_per_second
    predicted = row.predicted_operations_per_second / base.predicted_operations_per_second
    return replace(
        row,
        speed_up=efficiency * more,
        efficiency=efficiency,
        predicted_speed_up=predicted * more,
        predicted_efficiency=predicted,
    )
