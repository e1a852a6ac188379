"""What reading ahead adds to a training step from a store that the machine has in its cache."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from harness import MEGABYTE, Rank

from inputs.stepping import TimedTraining, configuration
from weathermixer.config import Config
from weathermixer.data.feeding.read_ahead import Batch, StateReader, read_ahead
from weathermixer.data.making.synthetic import write_synthetic
from weathermixer.data.store.store import Store
from weathermixer.jigsaw import mesh as meshes
from weathermixer.jigsaw.layout import Layout

GRID = (181, 360)  # of which the row at the south pole is dropped
# 30 × 36 tokens: three blocks of 1080 tokens × 2160 channels, 1080 hidden tokens.
MODEL = {"patch": (6, 10), "channels": 2160, "blocks": 3, "token_hidden": 1.0}
TIMES = 12
ROUNDS = 6
STEPS_PER_ROUND = 4


@dataclass(frozen=True)
class Overhead:
    """Seconds per step with one sample repeated and with every sample read, on the slowest rank.

    ``alone_cpu_s`` is the processor time that a sample takes to read while nothing is computed,
    ``reading_cpu_s`` that of the reading threads in a step beside the computation. Other processor
    times are of the whole process, medians per step. All are of the rank with the most.
    ``sample_mb`` is a rank's part of a sample, in float32.
    """

    ranks: int
    sample_mb: float
    alone_cpu_s: float
    reading_cpu_s: float
    repeated_cpu_s: float
    loading_cpu_s: float
    repeated_median_s: float
    repeated_minimum_s: float
    loading_median_s: float
    loading_minimum_s: float

    @property
    def expected_at_most(self) -> float:
        """The share of a step that reading would add if it shared one core with the computation."""
        return self.alone_cpu_s / self.repeated_minimum_s

    @property
    def measured(self) -> float:
        """The share of a step's time that reading adds, by medians."""
        return self.loading_median_s / self.repeated_median_s - 1.0

    @property
    def measured_cpu(self) -> float:
        """The share of a step's processor time that reading adds, which others disturb little."""
        return self.loading_cpu_s / self.repeated_cpu_s - 1.0


def prepare(folder: Path, ranks: int) -> Config:
    """Make the store, once, and the configuration for so many ranks."""
    store = folder / "overhead.zarr"
    if not store.exists():
        write_synthetic(store, times=TIMES, grid=GRID)
    return configuration(store, Layout(domain=ranks), model=MODEL)


def measure(rank: Rank, config: Config, run: Path) -> Overhead:
    """Time rounds of a few steps, with one sample repeated and with every sample read in turn."""
    training = TimedTraining(config, run)
    reader = training.reader(Store.open(config.data.store))
    alone_cpu_s, repeated_batch = _read_alone(training, reader)
    repeated, loading = [], []
    for _ in range(ROUNDS):
        repeated.append(training.repeating(repeated_batch, STEPS_PER_ROUND))
        loading.append(training.loading(reader, STEPS_PER_ROUND))
    mine = (
        repeated_batch.bytes_read / MEGABYTE,
        alone_cpu_s,
        statistics.mean(steps.reading_cpu_s for steps in loading),
        statistics.median(second for steps in repeated for second in steps.cpu_seconds),
        statistics.median(second for steps in loading for second in steps.cpu_seconds),
    )
    sample_mb, alone, beside, repeated_cpu, loading_cpu = (
        max(ranks) for ranks in zip(*meshes.gather_objects(mine), strict=True)
    )
    repeated_s = [second for steps in repeated for second in steps.seconds]
    loading_s = [second for steps in loading for second in steps.seconds]
    return Overhead(
        ranks=rank.world_size,
        sample_mb=sample_mb,
        alone_cpu_s=alone,
        reading_cpu_s=beside,
        repeated_cpu_s=repeated_cpu,
        loading_cpu_s=loading_cpu,
        repeated_median_s=statistics.median(repeated_s),
        repeated_minimum_s=min(repeated_s),
        loading_median_s=statistics.median(loading_s),
        loading_minimum_s=min(loading_s),
    )


def _read_alone(training: TimedTraining, reader: StateReader) -> tuple[float, Batch]:
    """Processor time of reading a sample, once Zarr has got going, and the first one read."""
    (first,) = read_ahead(reader, training.plan(1))
    before = time.process_time()
    for _ in read_ahead(reader, training.plan(TIMES)):
        pass
    return (time.process_time() - before) / TIMES, first
