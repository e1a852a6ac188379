"""What a network learns in batches of 1 to 64 samples, at equal samples and at equal time.

    python benchmarks/global_batch.py STORE --json FILE        # hours; goes on where it was stopped

The publication of the scheme (arXiv 2507.05753) holds that model parallelism, which keeps the
global batch small on many accelerators, reaches a lower loss than data parallelism. Here one
network learns from one store

* at equal samples: for each batch the learning rate is doubled and halved until neither is better,
  and the best is repeated with other seeds;
* at equal time on two ranks: steps of each batch are timed on two replicas and on one instance cut
  in two, in turns, and each batch learns from as many samples as the faster of the two meshes gets
  through while the fastest batch of all gets through its own.

What is compared are loss and errors at six hours on the validation period, the errors relative to
persistence's and averaged over channels.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import machine, parser, training_seconds
from rich.console import Console

from weathermixer.config import read_config
from weathermixer.training.trainer import train

BATCHES = (1, 2, 4, 8, 16, 32, 64)
SEEDS = (0, 1, 2)
LARGEST_RATE = 8e-3  # with which the search for the best begins, for the largest batch
NETWORK = (
    "--model.channels=160",
    "--model.blocks=2",
    "--model.token_hidden=1",
    "--model.overlap=0",
    "--model.smoothing=0",
    "--training.small_scales=0",
    "--data.input_times=1",
)
CONFIG = Path(__file__).parent.parent / "examples" / "planet.yaml"
MESHES = {"2x1x1": (2, 1), "1x2x1": (1, 2)}  # of data and domain
TIMED_STEPS, ROUNDS = 24, 3


@dataclass(frozen=True)
class Learned:
    """A training of ``samples`` samples in steps of ``batch``, and its validation at the end."""

    batch: int
    rate: float
    seed: int
    samples: int
    loss: float
    relative_rmse: float


class Record:
    """All trainings and timings so far, in a file that is written after each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.trainings: list[Learned] = []
        self.samples_per_second: dict[str, dict[str, list[float]]] = {}
        if path.exists():
            values = json.loads(path.read_text(encoding="utf-8"))
            self.trainings = [Learned(**row) for row in values["trainings"]]
            self.samples_per_second = values["samples_per_second"]

    def write(self) -> None:
        values = {
            "machine": machine("cpu"),
            "network": NETWORK,
            "trainings": [asdict(row) for row in self.trainings],
            "samples_per_second": self.samples_per_second,
        }
        partial = self._path.with_name(self._path.name + ".partial")
        partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        partial.replace(self._path)


class Experiment:
    """Trainings and timings on one store, each made once."""

    def __init__(self, store: Path, record: Record) -> None:
        self._store, self._record = store, record

    def learned(self, batch: int, rate: float, seed: int, samples: int) -> Learned:
        """The training with these settings, made now unless it was before."""
        for row in self._record.trainings:
            if (row.batch, row.rate, row.seed, row.samples) == (batch, rate, seed, samples):
                return row
        row = self._train(batch, rate, seed, samples)
        self._record.trainings.append(row)
        self._record.write()
        print(
            f"batch {batch}, rate {rate:.2e}, seed {seed}, {samples} samples: loss {row.loss:.4f}, "
            f"errors {row.relative_rmse:.4f} of persistence's",
            file=sys.stderr,
            flush=True,
        )
        return row

    def tuned_rate(self, batch: int, first: float, samples: int) -> float:
        """The best of learning rates a factor two apart, of which neither neighbour is better."""
        best = self.learned(batch, first, SEEDS[0], samples)
        for factor in (0.5, 2.0):
            while True:
                other = self.learned(batch, best.rate * factor, SEEDS[0], samples)
                if not other.loss < best.loss:
                    break
                best = other
        return best.rate

    def time_batches(self) -> None:
        """Time steps of each batch on each mesh, in turns, where that was not done before."""
        for number in range(ROUNDS):
            for batch in BATCHES:
                for mesh, (data, domain) in MESHES.items():
                    found = self._record.samples_per_second.setdefault(str(batch), {})
                    rates = found.setdefault(mesh, [])
                    if batch % data or len(rates) > number:
                        continue
                    rates.append(self._samples_per_second(batch, data, domain))
                    self._record.write()
                    print(f"batch {batch} on {mesh}: {rates[-1]:.1f} samples/s", file=sys.stderr)

    def _settings(self, batch: int, steps: int) -> list[str]:
        return [
            *NETWORK,
            f"--data.store={self._store}",
            f"--training.instance_batch={batch}",
            f"--training.steps={steps}",
            "--training.rollout=1",
            "--training.validation_samples=128",
            f"--training.validate_every={steps}",
            f"--checkpoint.every={steps}",
            "--logging.tensorboard=false",
            "--parallel.tensor=1",
        ]

    def _train(self, batch: int, rate: float, seed: int, samples: int) -> Learned:
        steps = samples // batch
        config = read_config(
            CONFIG,
            [
                *self._settings(batch, steps),
                f"--training.warmup_steps={steps // 20}",
                f"--training.learning_rate={rate}",
                f"--training.seed={seed}",
            ],
        )
        with tempfile.TemporaryDirectory() as folder:
            result = train(config, Path(folder) / "run", console=Console(quiet=True))
        scores = result.validation[steps]
        return Learned(batch, rate, seed, samples, scores.loss, scores.mean_relative_rmse)

    def _samples_per_second(self, batch: int, data: int, domain: int) -> float:
        settings = [
            *self._settings(batch // data, TIMED_STEPS),
            f"--parallel.data={data}",
            f"--parallel.domain={domain}",
        ]
        seconds = training_seconds(CONFIG, settings, ranks=2, threads=1)
        return batch / statistics.median(seconds[TIMED_STEPS // 3 :])


def main() -> None:
    options = parser(__doc__)
    options.add_argument("store", type=Path, help="a prepared store")
    options.add_argument("--json", type=Path, required=True, metavar="FILE")
    options.add_argument("--samples", type=int, default=8192, help="that each training sees")
    options.add_argument("--without-timing", action="store_true", help="only at equal samples")
    arguments = options.parse_args()
    record = Record(arguments.json)
    experiment = Experiment(arguments.store, record)
    rates, rate = {}, LARGEST_RATE
    for batch in reversed(BATCHES):
        rate = rates[batch] = experiment.tuned_rate(batch, rate, arguments.samples)
    samples = dict.fromkeys(BATCHES, arguments.samples)
    print_table("at equal samples", experiment, rates, samples)
    if not arguments.without_timing:
        experiment.time_batches()
        speeds = {
            batch: max(
                statistics.median(times)
                for times in record.samples_per_second[str(batch)].values()
                if times
            )
            for batch in BATCHES
        }
        fastest = max(speeds.values())
        for batch, speed in speeds.items():
            samples[batch] = round(arguments.samples * speed / fastest / 64) * 64
        print_table("at equal time on two ranks", experiment, rates, samples)


def print_table(
    title: str, experiment: Experiment, rates: dict[int, float], samples: dict[int, int]
) -> None:
    """Print loss and errors of each batch, of all seeds, as rows of a Markdown table."""
    print(f"{title}\n\n| batch | samples | learning rate | loss | errors, of persistence's |")
    print("|---|---|---|---|---|")
    for batch, rate in rates.items():
        rows = [experiment.learned(batch, rate, seed, samples[batch]) for seed in SEEDS]
        loss, errors = [row.loss for row in rows], [row.relative_rmse for row in rows]
        print(
            f"| {batch} | {samples[batch]} | {rate:.1e} | {spread(loss)} | {spread(errors)} |",
            flush=True,
        )
    print()


def spread(values: list[float]) -> str:
    """The mean of values, and between which they lie."""
    return f"{statistics.fmean(values):.4f} ({min(values):.4f} to {max(values):.4f})"


if __name__ == "__main__":
    main()
