"""Training steps in bfloat16 and in float32, on one rank and on two, of a thread each.

    python benchmarks/precision.py [--rounds 5] [--json FILE]     # two minutes a round

The network has the blocks L of ``compare.py`` (4,320 tokens, 2,160 channels, as many hidden tokens
and hidden channels), an encoder and a decoder of 69 variables, and AdamW; a step takes one sample.
The four trainings take turns in every round. Weights, optimizer, encoder and the addition to the
state are in float32 either way. Whether bfloat16 is faster depends on the processor, which
has to have instructions for it.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from harness import parser, run_program, training_seconds, write_record

GRID, PATCH = "120x144", 2
NETWORK = {
    "model.patch": f"[{PATCH},{PATCH}]",
    "model.channels": 2160,
    "model.blocks": 1,
    "model.token_hidden": 0.5,
    "model.channel_hidden": 1.0,
    "model.overlap": 0,
    "model.smoothing": 0,
    "training.small_scales": 0.0,
    "data.input_times": 1,
}
RUNS = [(dtype, ranks) for ranks in (1, 2) for dtype in ("float32", "bfloat16")]
STEPS, WARM_UP = 8, 3


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--json", type=Path, metavar="FILE", help="write machine, date and rows")
    arguments = options.parse_args()
    found: dict[tuple[str, int], list[float]] = {run: [] for run in RUNS}
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "states.zarr")
        run_program("data", "synthetic", store, "--grid", GRID, "--times", "16")
        for number in range(arguments.rounds):
            for dtype, ranks in RUNS:
                found[dtype, ranks].append(step_seconds(store, dtype, ranks))
                print(
                    f"round {number + 1}: {dtype} on {ranks}: {found[dtype, ranks][-1]:.3f} s",
                    file=sys.stderr,
                )
    medians = {run: statistics.median(seconds) for run, seconds in found.items()}
    print("| arithmetic | ranks | seconds of a step | range | float32 / this | one rank / this |")
    print("|---|---|---|---|---|---|")
    rows = []
    for (dtype, ranks), median in medians.items():
        seconds = found[dtype, ranks]
        faster, speed_up = medians["float32", ranks] / median, medians[dtype, 1] / median
        print(
            f"| {dtype} | {ranks} | {median:.3f} | {min(seconds):.3f} – {max(seconds):.3f} | "
            f"{faster:.2f} | {speed_up:.2f} |"
        )
        rows.append({"dtype": dtype, "ranks": ranks, "seconds": seconds})
    write_record(arguments.json, "cpu", network=NETWORK, grid=GRID, rows=rows)


def step_seconds(store: Path, dtype: str, ranks: int) -> float:
    """The median seconds of a step of a training."""
    settings = {
        **NETWORK,
        "data.store": store,
        "training.dtype": dtype,
        "training.steps": STEPS,
        "training.instance_batch": 1,
        "training.rollout": 1,
        "training.validation_samples": 1,
        "parallel.data": 1,
    }
    words = [f"--{name}={value}" for name, value in settings.items()]
    config = Path(__file__).parents[1] / "examples/planet.yaml"
    return statistics.median(training_seconds(config, words, ranks=ranks, threads=1)[WARM_UP:])


if __name__ == "__main__":
    main()
