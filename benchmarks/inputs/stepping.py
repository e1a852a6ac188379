"""A real training in this process, taken step by step and timed: the training loop's own step."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from weathermixer.config import Config
from weathermixer.data.feeding.read_ahead import AHEAD, Batch, StateReader, read_ahead
from weathermixer.data.store.store import Store
from weathermixer.jigsaw import mesh as meshes
from weathermixer.jigsaw.layout import Layout
from weathermixer.training.loop import TrainingLoop
from weathermixer.training.notices import Notices


@dataclass(frozen=True)
class TimedSteps:
    """Seconds of each step on the slowest rank, and processor time on this one.

    ``cpu_seconds`` are of the whole process, step by step; ``reading_cpu_s`` is, per step, of all
    Python threads but the one that trains.
    """

    seconds: list[float]
    cpu_seconds: list[float]
    reading_cpu_s: float


class TimedTraining:
    """A training of one sample per step, on this rank of the mesh that ``config`` asks for."""

    def __init__(self, config: Config, run: Path) -> None:
        # That so few times leave none to validate on is known.
        self.loop = TrainingLoop.begin(config, run, notices=Notices(lambda _: None))

    def reader(self, store: Store) -> StateReader:
        """A reader of this rank's part of states, which keeps none."""
        part, normalisation = self.loop.job.part, self.loop.run.normalisation
        return StateReader(
            store,
            part.of(normalisation),
            torch.float32,
            num_states=len(store.times),
            longitudes=part.longitudes,
            memory_bytes=0,
        )

    def plan(self, count: int) -> Iterator[NDArray[np.int64]]:
        """Yield the time indices ``(1, 2)`` of ``count`` samples, the same on all ranks."""
        return itertools.islice(itertools.cycle(self.loop.windows[:][:, None, :]), count)

    def loading(self, reader: StateReader, count: int) -> TimedSteps:
        """Take and time ``count`` steps whose samples are read while others are computed.

        A step before them fills the buffer and is not counted. At each of them one sample more is
        asked for, so that reading does not slow down towards the end; all are read in the end.
        """
        with closing(read_ahead(reader, self.plan(1 + count + AHEAD))) as batches:
            steps = self._timed(batches, count)
            for _ in batches:
                pass
        return steps

    def repeating(self, batch: Batch, count: int) -> TimedSteps:
        """Take and time ``count`` steps with a sample in memory, after one that is not counted."""
        return self._timed(itertools.repeat(batch), count)

    def _timed(self, batches: Iterator[Batch], count: int) -> TimedSteps:
        self.loop.step(next(batches))
        meshes.wait_for_all()
        reading = reading_cpu_seconds()
        seconds, cpu_seconds = [], []
        for _ in range(count):
            start, cpu_start = time.perf_counter(), time.process_time()
            self.loop.step(next(batches))
            seconds.append(time.perf_counter() - start)
            cpu_seconds.append(time.process_time() - cpu_start)
        reading = reading_cpu_seconds() - reading
        slowest = [max(ranks) for ranks in zip(*meshes.gather_objects(seconds), strict=True)]
        return TimedSteps(slowest, cpu_seconds, reading / count)


def reading_cpu_seconds() -> float:
    """Processor time so far of this process's Python threads but the main one.

    They are the threads of ``read_ahead`` and those in which Zarr reads and decodes for them.
    """
    main = threading.main_thread()
    return sum(
        time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
        for thread in threading.enumerate()
        if thread is not main and thread.ident is not None
    )


def configuration(store: Path, layout: Layout, *, model: dict[str, Any], **data: Any) -> Config:
    """A configuration of one sample per step in float32, whose learning rate cannot diverge."""
    return Config.model_validate(
        {
            "model": {"dropout": 0.001, **model},
            "data": {"store": store, **data},
            "parallel": {"domain": layout.domain, "tensor": layout.tensor},
            "training": {"instance_batch": 1, "learning_rate": 1e-6, "warmup_steps": 0},
        }
    )
