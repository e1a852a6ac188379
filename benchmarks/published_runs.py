"""The published runs, predicted: constants of the authors' machine, fitted to some of them.

    python benchmarks/published_runs.py                # fit to C3, leave sizes out, predict C4
    python benchmarks/published_runs.py --write        # and write the machine file of the package

Reads ``published_scaling.csv`` in the folder that WEATHERMIXER_TEST_DATA names: seconds of steps
of the authors' implementation on nodes of four A100, as ``planning/schemes/published.py`` has them.
Seven constants are fitted, to the rows ``C3`` alone; none is of a row. How well they predict shows
where all rows of one size are left out of the fit, and in the rows ``C4``, which no constant knows:
these load data and have replicas, so that network and storage matter, of which C3 says nothing.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from harness import parser, write_record
from scipy.optimize import least_squares
from scipy.stats import spearmanr

from weathermixer.jigsaw.layout import Layout
from weathermixer.model.architecture import Architecture
from weathermixer.planning.machine import Machine, ProductType
from weathermixer.planning.machine_files import find_machine, write_machine
from weathermixer.planning.schemes import find_scheme
from weathermixer.planning.schemes.description import StepDescription
from weathermixer.planning.step_kind import StepKind
from weathermixer.planning.step_time import StepTimer

BASE = "a100-40gb"
FITTED = Path(__file__).parents[1] / "src/weathermixer/planning/machines/a100-40gb-fitted.yaml"
SIZES = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
MESSAGES = (1e5, 1e6, 1e7, 1e8)
MESHES = {1: (1, 1), 2: (1, 2), 4: (2, 2)}
# What kernels reach of the memory's rate when each runs alone, half of them on operands that lie
# turned: assumed, since C3 cannot tell it from the rates of products of small sizes.
MEMORY_BYTES_PER_SECOND = 0.65 * 1.555e12
HALF_RATE_MESSAGE = 5e5
ADAPTER_RATE = 8e9
# An epoch of C4 has 100 steps, and begins with an empty loader: its first sample takes a process of
# the published loader 4 s of a core of 2.5 GHz, as measured, of which several ranks read a part.
EPOCH_STEPS = 100
SAMPLE_SECONDS = 4.0


@dataclass(frozen=True)
class Run:
    """A published run: what it computed, and its seconds per step."""

    case: str
    architecture: Architecture
    layout: Layout
    dtype: ProductType
    loads: bool
    seconds: float

    @property
    def size(self) -> str:
        """Which runs are of the same network, in one arithmetic or another."""
        return self.case.split("/")[2].split("_")[0]


@dataclass(frozen=True)
class Constants:
    """What is fitted: operations and bytes per second, and seconds.

    ``*_rate`` is reached by products of large matrices, half of it at ``*_half``, the harmonic mean
    of a product's dimensions. ``row_seconds`` is each row's in sums over very many rows,
    ``tap_seconds`` each latent element's for each tap of a convolution.
    """

    tf32_rate: float = 1.2e14
    tf32_half: float = 250.0
    float32_rate: float = 1.7e13
    float32_half: float = 60.0
    link_rate: float = 5e10
    row_seconds: float = 1.5e-8
    tap_seconds: float = 2e-12

    def logarithms(self) -> np.ndarray:
        """The logarithms of all constants, in their order: what is fitted."""
        return np.log([getattr(self, field.name) for field in fields(self)])

    @classmethod
    def of(cls, logarithms: Sequence[float]) -> Constants:
        """The constants whose logarithms were fitted."""
        return cls(*np.exp(logarithms).tolist())

    def machine(self) -> Machine:
        """The authors' machine, with these constants in place of what the datasheet gives."""
        values = find_machine(BASE).model_dump(mode="json", exclude_none=True)
        source = "fitted to the published runs C3 (benchmarks/published_runs.py)"
        computing: dict[str, Any] = values["computing"][0]
        for name, rate, half in (
            ("tf32", self.tf32_rate, self.tf32_half),
            ("float32", self.float32_rate, self.float32_half),
        ):
            reached = [float(f"{rate * size / (size + half):.4g}") for size in SIZES]
            computing["products"][name].update(
                sizes=SIZES, rates=reached, source=f"peak: datasheet; rates: {source}"
            )
        computing.update(
            memory_bytes_per_second=MEMORY_BYTES_PER_SECOND,
            seconds_per_element={
                "row_sum": float(f"{self.row_seconds:.4g}"),
                "convolution_tap": float(f"{self.tap_seconds:.4g}"),
            },
            source="memory: 0.65 of the datasheet, assumed for single kernels, many of which read "
            f"turned operands; launches: assumed; sums over rows, convolutions: {source}",
        )
        values["within_node"].update(
            messages={
                "sizes": MESSAGES,
                "rates": [
                    float(f"{self.link_rate * size / (size + HALF_RATE_MESSAGE):.4g}")
                    for size in MESSAGES
                ],
            },
            source=f"rate between two ranks, of 100 GB/s of the NVLinks that join them: {source}; "
            "time of a call, decline at small messages and slow-down assumed",
        )
        between: dict[str, Any] = values["between_nodes"]
        between["messages"] = {
            "sizes": MESSAGES,
            "rates": [ADAPTER_RATE * size / (size + HALF_RATE_MESSAGE) for size in MESSAGES],
        }
        between["source"] = (
            "16 GB/s a node in all-reduces, normal where adapters are attached to processors, "
            "however many there are: an author of NCCL in github.com/NVIDIA/nccl/issues/412; that "
            "those of these nodes are attached so, time of a call, decline at small messages and "
            "slow-down: assumed"
        )
        values["storage"] = {
            "rank_bytes_per_second": 2.7e9,
            "node_bytes_per_second": 1.0e10,
            "source": "a node: documentation of HoreKa's workspaces, 10 GB/s; a rank: 20 loader "
            "processes on 19 of 76 cores, 143 MB/s each, as a sample took 4 s of a core of 2.5 GHz "
            "where what the published loader does was repeated",
        }
        values.update(
            name="a100-40gb-fitted",
            source="a100-40gb, with constants fitted to the published runs C3",
        )
        return Machine.model_validate(values)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--write", action="store_true", help=f"write {FITTED.name}")
    options.add_argument("--json", type=Path, metavar="FILE", help="write constants and errors")
    arguments = options.parse_args()
    folder = os.environ.get("WEATHERMIXER_TEST_DATA")
    if not folder:
        sys.exit(
            "published_runs.py: set WEATHERMIXER_TEST_DATA to the folder of the published runs"
        )
    runs = read_runs(Path(folder) / "published_scaling.csv")
    strong = [run for run in runs if run.case.startswith("C3")]
    replicated = [run for run in runs if run.case.startswith("C4")]
    constants = fit(strong)
    for name, value in asdict(constants).items():
        print(f"{name:14} {value:.4g}")
    machine = constants.machine()
    errors = {
        "C3, fitted": relative_errors(machine, strong, show=True),
        "C3, sizes left out": left_out(strong, constants),
        "C4, predicted": relative_errors(machine, replicated, show=True),
    }
    for name, found in errors.items():
        print(f"{name:20} median {100 * np.median(np.abs(found)):5.1f}%", end=" ")
        print(f"largest {100 * np.max(np.abs(found)):5.1f}%  mean {100 * np.mean(found):+5.1f}%")
    predicted = predictions(machine, replicated)
    order = spearmanr(predicted, [run.seconds for run in replicated]).statistic
    print(f"C4: rank correlation {order:.2f}")
    if arguments.write:
        write_machine(machine, FITTED)
    write_record(
        arguments.json,
        "cpu",
        constants=asdict(constants),
        errors={name: found.tolist() for name, found in errors.items()},
    )


def read_runs(path: Path) -> list[Run]:
    """The published runs of a table."""
    runs = []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            ways, channels = int(row["way"]), int(row["hidden_dim"])
            domain, tensor = MESHES[ways]
            tokens = int(row["tokens"])
            architecture = Architecture(
                prognostic=69,
                static=3,
                grid=(720, 1440),
                patch=(1, 60),
                channels=channels,
                blocks=int(row["blocks"]),
                token_hidden=round(float(row["spatial_frac"]) * tokens),
                channel_hidden=round(float(row["feature_frac"]) * channels),
                dropout=0.001,
                prediction="state",
            )
            runs.append(
                Run(
                    row["case"],
                    architecture,
                    Layout(data=int(row["gpus"]) // ways, domain=domain, tensor=tensor),
                    "tf32" if "tf32" in row["precision"] else "float32",
                    row["loading"] == "load",
                    float(row["sec_per_step"]),
                )
            )
    return runs


def description_of(run: Run, machine: Machine) -> StepDescription:
    """A step of a run, as the published implementation takes it."""
    kind = StepKind(samples=1, dtype=run.dtype)
    return find_scheme("published").describe(run.architecture, run.layout, kind, machine)


def predictions(machine: Machine, runs: Sequence[Run]) -> np.ndarray:
    """Predicted seconds per step."""
    return np.array([seconds_of(run, description_of(run, machine), machine) for run in runs])


def seconds_of(run: Run, step: StepDescription, machine: Machine) -> float:
    """Predicted seconds of a run's step, with its share of the wait at the start of an epoch."""
    timer = StepTimer(machine, run.layout.world_size)
    seconds = step.seconds(timer, loads=run.loads).total
    if not run.loads:
        return seconds
    whole = 2.0 * 69 * 721 * 1440 * 4
    return seconds + SAMPLE_SECONDS * step.bytes_read / whole / EPOCH_STEPS


def relative_errors(machine: Machine, runs: Sequence[Run], *, show: bool = False) -> np.ndarray:
    """Predicted over measured, less one."""
    predicted = predictions(machine, runs)
    errors: np.ndarray = predicted / np.array([run.seconds for run in runs]) - 1.0
    if show:
        for run, seconds, error in zip(runs, predicted, errors, strict=True):
            print(f"{run.case:46} {run.seconds:7.3f} {seconds:7.3f} s {100 * error:+6.1f}%")
    return errors


def fit(runs: Sequence[Run], start: Constants | None = None) -> Constants:
    """Constants with the least sum of errors' logarithms, squared where small and else linear."""
    start = start or Constants()
    base = find_machine(BASE)
    described = [description_of(run, base) for run in runs]
    measured = np.log([run.seconds for run in runs])

    def errors(logarithms: np.ndarray) -> np.ndarray:
        machine = Constants.of(logarithms.tolist()).machine()
        seconds = [
            seconds_of(run, step, machine) for run, step in zip(runs, described, strict=True)
        ]
        return np.log(seconds) - measured

    ceilings = replace(
        Constants(),
        tf32_rate=1.56e14,
        float32_rate=1.95e13,
        link_rate=1e11,
        row_seconds=1e-6,
        tap_seconds=1e-9,
        tf32_half=4096.0,
        float32_half=4096.0,
    ).logarithms()
    floors = start.logarithms() - 5.0
    found = least_squares(
        errors,
        start.logarithms(),
        loss="soft_l1",
        f_scale=0.05,
        bounds=(floors, ceilings),
        x_scale=0.1,
        xtol=1e-4,
        ftol=1e-5,
        diff_step=1e-3,  # rates in machine files have four digits
    )
    return Constants.of(found.x.tolist())


def left_out(runs: Sequence[Run], start: Constants) -> np.ndarray:
    """Errors of the runs of each size, predicted from the runs of all others."""
    errors: dict[str, float] = {}
    for size in sorted({run.size for run in runs}):
        others = fit([run for run in runs if run.size != size], start)
        of_size = [run for run in runs if run.size == size]
        found = relative_errors(others.machine(), of_size)
        errors |= dict(zip((run.case for run in of_size), found.tolist(), strict=True))
    return np.array([errors[run.case] for run in runs])


if __name__ == "__main__":
    main()
