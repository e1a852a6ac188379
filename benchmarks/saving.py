"""How long a checkpoint holds up a training: written while it goes on, and written at once.

Checkpoints of both kinds are taken by turns, with as many steps after each. For each are given the
seconds in which steps were held up (``TrainingLoop.result().saving_seconds``) and the median step
while nothing was written and while something was, on the rank that was held up longest.

    python benchmarks/saving.py --ranks 2 --json saving.json
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from harness import on_ranks, parser, write_record
from inputs.saves import measure

from weathermixer.data.making.synthetic import write_synthetic


def main() -> None:
    """Measure, print the figures, and write them to a file where one is wanted."""
    options = parser(__doc__)
    options.add_argument("--ranks", type=int, default=2)
    options.add_argument("--channels", type=int, default=1024)
    options.add_argument("--repetitions", type=int, default=7)
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        write_synthetic(Path(name, "states.zarr"), times=20, grid=(32, 64), seed=0)
        figures = on_ranks(
            measure, chosen.ranks, "cpu", Path(name), chosen.channels, chosen.repetitions
        )
    held, steps = figures["held_up_seconds"], figures["step_seconds"]
    print(f"{figures['checkpoint_bytes'] / 1e6:.0f} MB on {chosen.ranks} ranks")
    print(f"steps held up {held['meanwhile']:.3f} s, {held['at once']:.3f} s when written at once")
    print(f"of a minute, {held['meanwhile'] / 60:.2%} and {held['at once'] / 60:.2%}")
    print(f"a step {steps['alone']:.3f} s, {steps['beside a write']:.3f} s beside a write")
    write_record(chosen.json, "cpu", **figures)


if __name__ == "__main__":
    main()
