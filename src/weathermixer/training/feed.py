"""A rank's samples, read ahead: those of the steps to come, and those of a validation."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, closing
from functools import partial

import numpy as np
from numpy.typing import NDArray

from weathermixer.config import Data, Training
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.feeding.read_ahead import Batch, StateReader, kept_states_bytes, read_ahead
from weathermixer.data.feeding.samples import (
    Windows,
    evenly_spaced,
    require_windows,
    training_period,
    training_plan,
    validation_period,
    windows,
)
from weathermixer.data.states import States
from weathermixer.data.time_steps import to_timedelta
from weathermixer.errors import UserError
from weathermixer.job import Job
from weathermixer.model.arithmetic import Arithmetic
from weathermixer.training.ensemble import sampling_layout
from weathermixer.training.state import TrainingState


class Feed:
    """This rank's parts of a training's samples, normalised and on its way to the device.

    ``windows`` are the samples to learn from, ``validation_samples (sample, times)`` the time
    indices of those to validate on, and ``normalisation`` is that of the whole states.
    """

    def __init__(
        self,
        job: Job,
        normalisation: Normalisation,
        windows: Windows,
        validation_samples: NDArray[np.int64],
    ) -> None:
        self._training, self._mesh = job.config.training, job.mesh
        self._input_times = job.architecture.input_times
        self._windows, self._validation_samples = windows, validation_samples
        needed = windows.states()
        needed[validation_samples] = True
        self._reader = StateReader(
            job.states,
            job.part.of(normalisation),
            Arithmetic.of(self._training.dtype).states,
            num_states=int(needed.sum()),
            longitudes=job.part.longitudes,
            forcings=job.part.forcings_of(job.config.data, normalisation),
            input_times=self._input_times,
            memory_bytes=kept_states_bytes(job.ranks_on_machine),
        )
        self._batches: Generator[Batch, None, None] | None = None

    def next_batch(self, state: TrainingState, skipped: list[range]) -> Batch:
        """The samples of the next step in the plan, once they are read.

        The first one after ``close``, or of all, is that of the step after ``state``; samples that
        are ``skipped`` are left out. Raises UserError where the store is damaged there.
        """
        if self._batches is None:
            training = self._training
            plan = training_plan(
                self._windows,
                seed=training.seed,
                batch=training.instance_batch,
                layout=sampling_layout(self._mesh.layout, training.pool),
                steps=range(state.step, training.steps),
                samples=state.samples,
                leads_at=partial(training.leads_at, input_times=self._input_times),
                skipped=skipped,
            )
            self._batches = read_ahead(self._reader, plan, device=self._mesh.device)
        return next(self._batches)

    def validation(self) -> AbstractContextManager[Generator[Batch, None, None]]:
        """The batches of a validation that this replica computes, while it is entered."""
        size, data = self._training.samples_at_once, self._mesh.data
        firsts = range(data.index * size, len(self._validation_samples), data.size * size)
        plan = (self._validation_samples[first : first + size] for first in firsts)
        return closing(read_ahead(self._reader, plan, device=self._mesh.device))

    def close(self) -> None:
        """End the threads that read ahead."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None


def training_windows(data: Data, training: Training, store: States) -> Windows:
    """All samples to learn from: input times, and as many as the farthest forecast has steps.

    Raises UserError where the training period holds none.
    """
    return require_windows(
        store,
        data.step_hours,
        training.window_length(data),
        training_period(data, store),
        key="data.train",
    )


def validation_windows(data: Data, training: Training, store: States) -> NDArray[np.int64]:
    """The samples of a validation, as time indices ``(sample, input times + rollout)``.

    They are forecast as far as any sample of the training, and the period goes on after each to the
    last of ``training.validation_leads``. A validation period that was asked for must hold some
    (UserError), and so must that by default where there are such lead times.
    """
    period = validation_period(data, store)
    hours, longest = data.step_hours, training.longest
    length = training.window_length(data)
    farthest = max(training.validation_leads, default=0.0)
    reach = max(length, data.input_times - 1 + round(farthest / hours))
    num_states = data.input_times + longest.steps
    samples: Windows | NDArray[np.int64] = np.empty((0, num_states), dtype=np.int64)
    if period is not None:
        if data.validation is not None:
            require_windows(store, hours, length, period, key="data.validation")
        samples = windows(store.times, hours, reach, period)
    if farthest and not len(samples):
        within = "which holds none" if period is None else f"{period[0]} to {period[1]}"
        raise UserError(
            f"training.validation_leads reaches {farthest:g} h, and no sample of the validation "
            f"period ({within}) has states on every step so far ahead: list shorter lead times, or "
            "set a longer data.validation"
        )
    chosen = evenly_spaced(samples, training.validation_samples)
    return chosen[:, longest.leads(data.input_times)]


def scored_states(
    data: Data, training: Training, store: States, samples: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The states at ``training.validation_leads`` after each of the ``samples (sample, times)``.

    They are time indices ``(sample, lead time)``.
    """
    leads = to_timedelta(np.array(training.validation_leads))
    return np.searchsorted(store.times, store.times[samples[:, data.input_times - 1, None]] + leads)
