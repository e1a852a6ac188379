"""A real training in this process, taken step by step: the trainer's own step, timed."""

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
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.feeding.read_ahead import AHEAD, Batch, StateReader, read_ahead
from weathermixer.data.store.store import Store
from weathermixer.jigsaw import mesh as meshes
from weathermixer.jigsaw.layout import Layout
from weathermixer.runs.run import Run
from weathermixer.training.beginning import begin_run, training_windows
from weathermixer.training.interrupt import StopRequest
from weathermixer.training.trainer import _Trainer


@dataclass(frozen=True)
class Steps:
    """Seconds of each step on the slowest rank, and processor time on this one.

    ``cpu_seconds`` are of the whole process, step by step; ``reading_cpu_s`` is, per step, of all
    Python threads but the one that trains.
    """

    seconds: list[float]
    cpu_seconds: list[float]
    reading_cpu_s: float


class Training:
    """A training of one sample per step, on this rank of a mesh of all ranks."""

    def __init__(self, config: Config, folder: Path, layout: Layout) -> None:
        store = Store.open(config.data.store)
        self.samples = training_windows(config, store)
        mesh = meshes.connect(layout)
        if meshes.is_first_rank():
            begin_run(config, folder, store, resume=False)
        meshes.wait_for_all()
        nothing = np.empty((0, 2), dtype=np.int64)
        self._run = Run.open(folder)
        self._trainer = _Trainer(config, self._run, store, mesh, self.samples, nothing)
        self._stop = StopRequest()

    def reader(self, store: Store, *, whole: bool = False) -> StateReader:
        """Reads this rank's part, or with ``whole`` all, of states; keeps none in memory."""
        part = self._trainer.part
        normalisation: Normalisation = self._run.normalisation
        return StateReader(
            store,
            normalisation if whole else part.of(normalisation),
            torch.float32,
            num_states=len(store.times),
            longitudes=slice(None) if whole else part.longitudes,
            memory_bytes=0,
        )

    def own_part(self, batch: Batch) -> Batch:
        """This rank's part of a batch that was read whole."""
        part = self._trainer.part
        states = batch.states[:, :, part.channels, :, part.longitudes]
        return Batch(states, batch.indices, batch.bytes_read)

    @property
    def share(self) -> float:
        """The fraction of a sample's values that this rank's part has."""
        return self._trainer.part.share(self._run.normalisation)

    @property
    def flops_per_step(self) -> float:
        """Operations of this rank's matrix products, as counted in the steps so far."""
        return self._trainer.history.flops / self._trainer.state.step

    def plan(self, count: int) -> Iterator[NDArray[np.int64]]:
        """The times ``(1, 2)`` of so many samples, the same on all ranks."""
        return itertools.islice(itertools.cycle(self.samples[:, None, :]), count)

    def loading(
        self, reader: StateReader, count: int, *, whole: bool = False, ahead: int = AHEAD
    ) -> Steps:
        """``count`` steps whose samples are read while others are computed.

        A step before them fills the buffer and is not counted. At each of them one sample more is
        asked for, so that reading does not slow down towards the end; all are read in the end.
        """
        num_samples = 1 + count + ahead
        with closing(read_ahead(reader, self.plan(num_samples), ahead=ahead)) as batches:
            steps = self._timed(map(self.own_part, batches) if whole else batches, count)
            for _ in batches:
                pass
        return steps

    def repeating(self, batch: Batch, count: int) -> Steps:
        """``count`` steps with one sample that is in memory, after one that is not counted."""
        return self._timed(itertools.repeat(batch), count)

    def _timed(self, batches: Iterator[Batch], count: int) -> Steps:
        self._trainer._step(next(batches), None, self._stop)
        meshes.wait_for_all()
        reading = reading_cpu_seconds()
        seconds, cpu_seconds = [], []
        for _ in range(count):
            start, cpu_start = time.perf_counter(), time.process_time()
            self._trainer._step(next(batches), None, self._stop)
            seconds.append(time.perf_counter() - start)
            cpu_seconds.append(time.process_time() - cpu_start)
        reading = reading_cpu_seconds() - reading
        slowest = [max(ranks) for ranks in zip(*meshes.gather_objects(seconds), strict=True)]
        return Steps(slowest, cpu_seconds, reading / count)


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


def configuration(store: Path, *, model: dict[str, Any], **data: Any) -> Config:
    """One sample per step, float32, and a learning rate at which no step can diverge."""
    return Config.model_validate(
        {
            "model": {"dropout": 0.001, **model},
            "data": {"store": store, **data},
            "training": {"instance_batch": 1, "learning_rate": 1e-6, "warmup_steps": 0},
        }
    )
