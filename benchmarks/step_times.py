"""Predicted and measured seconds of steps on this machine, side by side.

    python benchmarks/step_times.py [--rounds 5] [--json FILE]     # two minutes a round

Each round measures the machine anew (``weathermixer bench machine``) and then takes the steps that
it predicts: of the mixer blocks of ``compare.py`` on one, two and four ranks of a thread each, and
of the demonstration's network in a training, on one rank with two threads and on two ranks. What is
given is the median over rounds, and of each round the error: a machine that others share is not the
same from one minute to the next.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

from compare import BLOCKS
from harness import on_ranks, parser, run_program, training_seconds, write_record
from peers.blocks import BlockSizes
from peers.jigsaw import cheapest_layout, stack
from peers.measuring import time_schemes
from scipy.stats import spearmanr

from weathermixer.demo import GRID, demo_config
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.architecture import architecture_of
from weathermixer.planning.machine import Machine
from weathermixer.planning.machine_files import read_machine
from weathermixer.planning.plan import Planner, layout_text
from weathermixer.planning.step_phases import has_link, stack_phases
from weathermixer.planning.step_time import StepTimer

RANKS = (1, 2, 4)
# Of the demonstration's network, with the threads of each rank.
MESHES = ((Layout(), 2), (Layout(data=2), 1), (Layout(domain=2), 1), (Layout(tensor=2), 1))
STEPS, WARM_UP = 40, 15  # in which each state of the store is read once and kept


@dataclass(frozen=True)
class Comparison:
    """Medians over rounds: seconds of a step, and by how much the prediction is off, relative."""

    what: str
    ranks: int
    predicted_s: float
    measured_s: float
    error: float
    errors: list[float]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--json", type=Path, metavar="FILE", help="write machine, date and rows")
    arguments = options.parse_args()
    found: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    spreads = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_program("data", "synthetic", folder / "states.zarr", "--grid", "32x64", "--times", "60")
        for number in range(arguments.rounds):
            machine = measured_machine(folder)
            spreads.append(machine.spread)
            for what, ranks, predicted, measured in (*blocks(machine), *trainings(folder, machine)):
                found[what, ranks].append((predicted, measured))
                print(
                    f"round {number + 1}: {what} on {ranks}: {predicted:.4f} predicted, "
                    f"{measured:.4f} measured",
                    file=sys.stderr,
                )
    rows = [summary(what, ranks, pairs) for (what, ranks), pairs in found.items()]
    print("| step | ranks | predicted | measured | error | of each round |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        each = ", ".join(f"{100 * error:+.0f}%" for error in row.errors)
        print(
            f"| {row.what} | {row.ranks} | {row.predicted_s:.3f} | {row.measured_s:.3f} | "
            f"{100 * row.error:+.0f}% | {each} |"
        )
    typical = statistics.median(abs(row.error) for row in rows)
    order = spearmanr([row.predicted_s for row in rows], [row.measured_s for row in rows]).statistic
    print(f"median of the errors' sizes {100 * typical:.1f}%, rank correlation {order:.3f}")
    write_record(
        arguments.json,
        "cpu",
        rounds=arguments.rounds,
        spreads=spreads,
        rank_correlation=order,
        rows=[asdict(row) for row in rows],
    )


def summary(what: str, ranks: int, pairs: list[tuple[float, float]]) -> Comparison:
    errors = [predicted / measured - 1.0 for predicted, measured in pairs]
    predicted, measured = (statistics.median(values) for values in zip(*pairs, strict=True))
    return Comparison(what, ranks, predicted, measured, statistics.median(errors), errors)


def measured_machine(folder: Path) -> Machine:
    """Measure this machine on as many ranks as are compared."""
    path = folder / "machine.yaml"
    run_program("bench", "machine", "--nproc", max(RANKS), "--out", path)
    return read_machine(path)


def blocks(machine: Machine) -> list[tuple[str, int, float, float]]:
    """Blocks, number of ranks, and their seconds as predicted and as measured."""
    rows = []
    for ranks in RANKS:
        measured = on_ranks(time_schemes, ranks, "cpu", BLOCKS, ["jigsaw"], 5)
        for row in measured:
            assert row.median_s is not None
            seconds = predicted_seconds(BLOCKS[row.block], ranks, machine)
            rows.append((f"blocks {row.block}", ranks, seconds, row.median_s))
    return rows


def predicted_seconds(sizes: BlockSizes, ranks: int, machine: Machine) -> float:
    """Seconds of a forward and backward pass of blocks, of the slowest rank."""
    timer = StepTimer(machine, ranks, threads=1)
    layout = cheapest_layout(sizes, ranks)
    times = []
    for corner in layout.corners():
        mesh = Mesh.describe(corner, has_link=has_link(machine))
        model = stack(sizes, mesh, "meta")
        phases = stack_phases(model, samples=1, dtype="float32", mesh=mesh, machine=machine)
        times.append(timer.step(phases).total)
    return max(times)


def trainings(folder: Path, machine: Machine) -> list[tuple[str, int, float, float]]:
    """The same for steps of the demonstration's network in trainings, on several meshes."""
    config = demo_config(folder / "states.zarr", steps=STEPS, seed=0)
    architecture = architecture_of(config.data, config.model, GRID)
    rows = []
    for layout, threads in MESHES:
        candidate = Planner(config, architecture, machine, threads=threads).candidate(layout)
        what = f"demonstration {layout_text(layout)}"
        rows.append((what, layout.world_size, candidate.time.total, trained(folder, layout)))
    return rows


def trained(folder: Path, layout: Layout) -> float:
    """The median seconds of a step of a training on a mesh."""
    axes = [f"--parallel.{axis}={getattr(layout, axis)}" for axis in ("data", "domain", "tensor")]
    settings = [f"--data.store={folder / 'states.zarr'}", *axes]
    settings += [f"--training.steps={STEPS}", "--training.rollout=1"]
    settings += ["--training.warmup_steps=2", "--training.validation_samples=4"]
    config = Path(__file__).parents[1] / "examples/planet.yaml"
    seconds = training_seconds(config, settings, ranks=layout.world_size)
    return statistics.median(seconds[WARM_UP:])


if __name__ == "__main__":
    main()
