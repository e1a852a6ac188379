"""How well networks forecast that learned from the same data, for the same time, in the same loop.

    python benchmarks/skill.py STORE --json FILE        # hours; goes on where it was stopped

WeatherMixer, a spherical Fourier neural operator, a vision transformer and a UNet of some two to
three million weights are trained with the recipe of examples/planet.yaml, each for the same
processor seconds of training on one thread, and forecast ten days from initial times all over the
test period.

* All compute in bfloat16 where the machine multiplies faster in it, as the demonstration does.
* Steps of the networks are timed, in turns, and the recipe is stretched to as many as fit into the
  time. Other work on the machine makes steps slower, so the least of all timings counts.
* The learning rate of each is doubled and halved until neither is better, by the errors at 72 h of
  forecasts from the validation period: in shorter trainings first, and from there on in whole ones,
  since what is best in a short training need not be in a long one. The recipe's own is
  WeatherMixer's.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from harness import MEGABYTE, machine, parser
from peers.networks import NETWORKS
from peers.networks.learning import (
    CONFIG,
    LEAD_HOURS,
    WEATHERMIXER,
    Learned,
    Recipe,
    learn,
    seconds_per_step,
)

from weathermixer.demo import faster_arithmetic
from weathermixer.planning.machine import ProductType
from weathermixer.verification.scores import CLIMATOLOGY, PERSISTENCE

ROUNDS = 2  # of timings
FACTORS = [2.0**power for power in range(-6, 7)]  # of learning rates, as far as they are tried

T = TypeVar("T")


@dataclass(frozen=True)
class Training:
    """A training of ``seconds`` with all rates multiplied by ``factor``, and what it came to."""

    network: str
    seconds: float
    factor: float
    seed: int
    is_tested: bool
    learned: Learned


class Record:
    """All timings and trainings so far, in a file that is written after each."""

    def __init__(self, path: Path, **conditions: Any) -> None:
        self._path, self._conditions = path, conditions
        self.seconds_per_step: dict[str, list[float]] = {}
        self.trainings: list[Training] = []
        if path.exists():
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["conditions"] != conditions:
                sys.exit(f"{path} was measured with another recipe or store: give another --json")
            self.seconds_per_step = values["seconds_per_step"]
            self.trainings = [
                Training(**{**row, "learned": Learned(**row["learned"])})
                for row in values["trainings"]
            ]

    def write(self) -> None:
        values = {
            "machine": machine("cpu"),
            "conditions": self._conditions,
            "seconds_per_step": self.seconds_per_step,
            "trainings": [asdict(row) for row in self.trainings],
        }
        partial = self._path.with_name(self._path.name + ".partial")
        partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        partial.replace(self._path)


class Experiment:
    """Timings and trainings on one store, each made once, in a process of its own."""

    def __init__(self, store: Path, record: Record, dtype: ProductType, num_forecasts: int) -> None:
        self._store, self._record = store, record
        self._dtype, self._num_forecasts = dtype, num_forecasts

    def time_steps(self, networks: Sequence[str]) -> None:
        """Time steps of each network, in turns, where that was not done before."""
        for number in range(ROUNDS):
            for network in networks:
                timings = self._record.seconds_per_step.setdefault(network, [])
                if len(timings) > number:
                    continue
                timings.append(apart(seconds_per_step, self._recipe(network)))
                self._record.write()
                print(f"{network}: {timings[-1]:.4f} s a step", file=sys.stderr, flush=True)

    def trained(
        self, network: str, seconds: float, factor: float, seed: int, *, is_tested: bool
    ) -> Learned:
        """What the training with these settings came to, made now unless it was before."""
        wanted = (network, seconds, factor, seed, is_tested)
        for row in self._record.trainings:
            if (row.network, row.seconds, row.factor, row.seed, row.is_tested) == wanted:
                return row.learned
        recipe = self._recipe(network)
        steps = max(2, round(seconds / min(self._record.seconds_per_step[network])))
        num_forecasts = self._num_forecasts if is_tested else 0
        learned = apart(learn, recipe, steps, factor, seed, num_forecasts)
        self._record.trainings.append(Training(*wanted, learned))
        self._record.write()
        print(
            f"{network}, rates × {factor:g}, seed {seed}, {steps} steps in "
            f"{learned.processor_seconds:.0f} processor seconds, "
            f"error in the validation period: {learned.validation}",
            file=sys.stderr,
            flush=True,
        )
        return learned

    def _recipe(self, network: str) -> Recipe:
        return Recipe(self._store, network, self._dtype)

    def tuned_factor(self, network: str, seconds: float, tuning_seconds: float, seed: int) -> float:
        """The factor of the rates that is best in trainings of ``seconds``.

        They begin with the best in trainings of ``tuning_seconds``, which need not be theirs.
        """

        def error(seconds: float, is_tested: bool, factor: float) -> float:
            return _error(self.trained(network, seconds, factor, seed, is_tested=is_tested))

        factor = better_than_neighbours(partial(error, tuning_seconds, False), 1.0)
        return better_than_neighbours(partial(error, seconds, True), factor)


def better_than_neighbours(error: Callable[[float], float], factor: float) -> float:
    """The first factor from here on that has less error than twice and than half of it."""
    for change in (2.0, 0.5):
        while factor * change in FACTORS and error(factor * change) < error(factor):
            factor *= change
    return factor


def _error(learned: Learned) -> float:
    return math.inf if learned.validation is None else learned.validation


def apart(work: Callable[..., T], *arguments: Any) -> T:
    """Do work in a fresh process of one thread."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(work, *arguments).result()


def main() -> None:
    names = (WEATHERMIXER, *NETWORKS)
    options = parser(__doc__)
    options.add_argument("store", type=Path, help="a prepared store with a climatology")
    options.add_argument("--json", type=Path, required=True, metavar="FILE")
    options.add_argument("--seconds", type=float, default=720.0, help="of a training")
    options.add_argument("--tuning-seconds", type=float, default=120.0, help="of one that tunes")
    options.add_argument("--forecasts", type=int, default=64, help="initial times of the test")
    options.add_argument("--networks", type=_list, default=names, metavar="A,B", help=str(names))
    options.add_argument("--seeds", type=_list, default=("0", "1", "2"), metavar="A,B")
    arguments = options.parse_args()
    unknown = sorted(set(arguments.networks) - set(names))
    if unknown:
        options.error(f"there is no network {', '.join(unknown)}: choose among {', '.join(names)}")
    seeds = [int(seed) for seed in arguments.seeds]
    dtype = faster_arithmetic()
    record = Record(
        arguments.json,
        recipe=CONFIG.read_text(encoding="utf-8"),
        store=str(arguments.store),
        dtype=dtype,
        forecasts=arguments.forecasts,
    )
    experiment = Experiment(arguments.store, record, dtype, arguments.forecasts)
    experiment.time_steps(arguments.networks)
    print_heading(arguments.seconds)
    for network in arguments.networks:
        factor = experiment.tuned_factor(
            network, arguments.seconds, arguments.tuning_seconds, seeds[0]
        )
        results = [
            experiment.trained(network, arguments.seconds, factor, seed, is_tested=True)
            for seed in seeds
        ]
        print_row(network, factor, results)


def print_heading(seconds: float) -> None:
    print(
        f"RMSE relative to persistence's / to climatology's, means over channels, seeds and test "
        f"period, after {seconds:g} processor seconds of training\n"
    )
    leads = " | ".join(f"{lead} h" for lead in LEAD_HOURS)
    costs = "parameters | rates | steps | training, s | a forecast, s | peak memory, MB"
    print(f"| network | {leads} | {costs} |")
    print(f"|{'---|' * (7 + len(LEAD_HOURS))}")


def print_row(network: str, factor: float, results: Sequence[Learned]) -> None:
    """Print a row of the table: means of all seeds, and the most memory."""
    errors = " | ".join(
        " / ".join(_mean_error(results, source, lead) for source in (PERSISTENCE, CLIMATOLOGY))
        for lead in LEAD_HOURS
    )
    forecast_seconds = [row.forecast_seconds for row in results if row.forecast_seconds]
    print(
        f"| {network} | {errors} | {results[0].parameters / 1e6:.2f} M | × {factor:g} | "
        f"{results[0].steps} | {statistics.fmean(row.processor_seconds for row in results):.0f} | "
        f"{statistics.fmean(forecast_seconds or [math.nan]):.2f} | "
        f"{max(row.peak_memory_bytes for row in results) / MEGABYTE:.0f} |",
        flush=True,
    )


def _mean_error(results: Sequence[Learned], source: str, lead: int) -> str:
    """The mean over seeds; a dash where a forecast of any became infinite, or is not defined."""
    found = [(row.relative_rmse or {}).get(source, {}).get(str(lead)) for row in results]
    values = [value for value in found if value is not None]
    return f"{statistics.fmean(values):.3f}" if len(values) == len(found) else "–"


def _list(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


if __name__ == "__main__":
    main()
