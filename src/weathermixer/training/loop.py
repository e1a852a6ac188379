"""The training loop, to be driven step by step: read, forecast, compare, step.

``trainer.train`` drives it as the command line does, and adds what watches a training: its log, its
progress, and when it validates and saves.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from weathermixer import console
from weathermixer.config import Config
from weathermixer.data.feeding.read_ahead import Batch
from weathermixer.data.feeding.samples import consumed_by
from weathermixer.errors import UserError
from weathermixer.jigsaw import mesh as meshes
from weathermixer.model.arithmetic import Arithmetic
from weathermixer.model.compiling import compile_between_products, require_compiler
from weathermixer.model.mixer import WeatherMixer
from weathermixer.model.other_network import NetworkBuilder
from weathermixer.runs.building import build_network
from weathermixer.runs.inheritance import inherit_weights
from weathermixer.training.beginning import Beginning, begin_together
from weathermixer.training.divergence import Diverged, Divergence
from weathermixer.training.effort import StepMeter
from weathermixer.training.ensemble import EQUAL_MEMBERS, Ensemble, members_can_differ
from weathermixer.training.feed import Feed
from weathermixer.training.finite import find_cause, not_finite_error
from weathermixer.training.history import History, StepReport
from weathermixer.training.interrupt import StopRequest
from weathermixer.training.notices import Notices
from weathermixer.training.passes import Objective
from weathermixer.training.result import TrainResult
from weathermixer.training.saving import Saver
from weathermixer.training.state import TrainingState
from weathermixer.training.step import Outcome, take_step
from weathermixer.training.validation import Validation, validate


class TrainingLoop:
    """A training on this rank, from the state that it is in to the last of its steps.

    ::

        with TrainingLoop.begin(config, Path("run")) as loop:
            for step in loop:
                print(step.number, step.loss)
                if step.number % 100 == 0:
                    loop.begin_save()
                    print(loop.validate().mean_relative_rmse)
            loop.save()

    Every rank of the mesh does the same at the same time. ``job`` holds the settings and the mesh,
    ``run`` the folder, ``normalisation`` what describes this rank's part of states and static
    fields, ``state`` weights, optimizer and steps taken, ``history`` what the steps came to,
    ``checkpoint`` the newest that is whole, ``saver`` what writes it, and ``divergence`` which
    samples are left out. ``windows`` are the samples to learn from, and ``validation_samples
    (sample, times)`` the time indices of those to validate on. While ``stop_request`` is entered, a
    signal ends the iteration after the step in hand.
    """

    def __init__(self, beginning: Beginning, notices: Notices | None = None) -> None:
        """Begin with the newest checkpoint that is not damaged, or else with first weights.

        Those are drawn, or those of the run that this one begins with.
        """
        job, run = beginning.job, beginning.run
        self.normalisation = job.part.of(run.normalisation)
        self.job, self.run = job, run.without_static_fields()
        self.windows, self.validation_samples = beginning.windows, beginning.validation_samples
        self.history = History()
        self.stop_request = StopRequest()
        self.notices = notices or Notices(console.say)
        self._held, self._forecasts = beginning.held, beginning.forecasts
        self._training, self._mesh = job.config.training, job.mesh
        model = build_network(
            job.architecture,
            self._training,
            run.normalisation,
            mesh=job.mesh,
            draws_weights=not beginning.checkpoints,
            network=job.network,
        )
        if isinstance(model, WeatherMixer):
            if beginning.source is not None:
                for sentence in inherit_weights(model, job.config, beginning.source):
                    self.notices.say(sentence)
            if self._training.compile:
                require_compiler(job.mesh.device)
                compile_between_products(model)
        self.state = TrainingState.initial(model, job.mesh, self._training, job.config.parallel)
        noise = job.architecture.drawn
        if self._training.members > 1 and not members_can_differ(job.config):
            self.notices.say(f"Note: the training {EQUAL_MEMBERS}: set model.local_noise")
        self._objective = Objective.of(
            self._training,
            self.normalisation,
            job.architecture,
            job.mesh,
            share=job.part.share(run.normalisation) * self._training.pool / job.mesh.layout.data,
            ensemble=Ensemble.of(self._training, noise),
        )
        self._step_objective = self._objective
        if self._training.pool > 1:
            pooled = Ensemble.of(self._training, noise, job.mesh)
            self._step_objective = self._objective.pooled(pooled)
        elif self._training.compile:
            self._step_objective = self._objective.compiled()
        self._feed = Feed(job, self.run.normalisation, self.windows, self.validation_samples)
        self.divergence = Divergence(self._training, run.divergence)
        self.saver = Saver(
            run, job.config.checkpoint, self.state, self.notices, begins=self._keep_recent_losses
        )
        if beginning.checkpoints:
            self._load(beginning.checkpoints)

    @classmethod
    def begin(
        cls,
        config: Config,
        out: Path,
        *,
        resume: bool = False,
        source: Path | None = None,
        device: torch.device | str | None = None,
        notices: Notices | None = None,
        network: NetworkBuilder | None = None,
    ) -> Self:
        """Begin a new run in ``out``, or continue one that is resumed where it was saved.

        A new one begins with the weights of the run ``source``, where one is given, as far as they
        fit.

        Each rank that was started calls this. ``device`` is the accelerator where there is one, by
        default; ``notices`` say what is worth knowing, on the first rank. ``network`` makes what is
        trained in WeatherMixer's place, if anything is.

        Raises UserError where store and configuration do not fit together or ranks differ in them,
        where the last states to learn from cannot be read, and where ``out`` holds another run, is
        in use or cannot be written; LayoutError where the mesh does not fit.
        """
        # What an earlier training of this process left refers to itself in circles, and the
        # collector, which counts objects and not their bytes, may leave it for long.
        gc.collect()
        notices = notices or Notices(console.say)
        if not meshes.is_first_rank():
            notices = Notices(lambda _: None)
        beginning = begin_together(
            config,
            out,
            resume=resume,
            source=source,
            device=device,
            notices=notices,
            network=network,
        )
        with ExitStack() as held:
            held.push(beginning.held)
            loop = cls(beginning, notices)
            if loop.checkpoint is not None:
                notices.say(f"continuing from {loop.checkpoint}")
            held.pop_all()
        return loop

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[StepReport]:
        """Take the steps that are left, one at a time, until one is stopped by a signal."""
        while self.state.step < self._training.steps:
            report = self.step()
            yield report
            if report.stopped_by is not None:
                return

    def close(self) -> None:
        """End the threads that read and write, and let another training write into the run.

        What was begun to be saved is no checkpoint unless ``finish_saving`` or ``save`` was called.
        """
        self._feed.close()
        self.saver.close()
        self._held.close()

    @property
    def checkpoint(self) -> Path | None:
        """The newest checkpoint that is whole, if there is one."""
        return self.saver.newest

    def next_batch(self) -> Batch:
        """This rank's samples of the next step in the plan, once they are read.

        Raises UserError where the store is damaged there.
        """
        return self._feed.next_batch(self.state, self.divergence.skipped)

    def step(self, batch: Batch | None = None) -> StepReport:
        """Take one optimizer step, on ``batch`` or else on the next in the plan.

        Raises UserError, and leaves the weights alone, where loss or gradient is NaN or infinite,
        and where the loss is a spike. In the plan, where ``training.on_divergence`` is ``skip``, it
        goes back to the newest checkpoint instead, and takes the first step after that.
        """
        while True:
            try:
                return self._take_step(batch)
            except Diverged as diverged:
                if batch is not None or self.checkpoint is None or not self.divergence.may_go_back:
                    raise
                self._go_back(diverged)

    def _take_step(self, batch: Batch | None) -> StepReport:
        meter = StepMeter(self._mesh)
        training, state = self._training, self.state
        batch = self.next_batch() if batch is None else batch
        meter.data_came()
        first, num_samples = state.samples, len(batch.states) * self._mesh.layout.data
        num_samples //= training.pool
        stop = int(consumed_by(first, num_samples, self.divergence.skipped)[-1]) + 1
        states = batch.states.to(self._mesh.device, non_blocking=True)
        outcome = take_step(
            state,
            self._mesh,
            training,
            states,
            self._step_objective,
            batch.forcings.to(self._mesh.device, non_blocking=True),
            stopping=self.stop_request.received is not None,
            has_saved=self.saver.has_written,
        )
        if not outcome.is_taken:
            self.saver.finish()
            raise self._not_finite(outcome, batch, states, stop)
        state.samples = stop
        self._require_no_spike(outcome.loss, stop)
        self.saver.go_on(round(outcome.saved))
        effort = meter.effort(bytes_read=batch.bytes_read)
        stopped_by = self.stop_request.received or "a signal to another rank"
        report = StepReport(
            state.step,
            loss=outcome.loss,
            grad_norm=outcome.grad_norm,
            seconds=effort.seconds,
            stopped_by=stopped_by if outcome.stops else None,
        )
        self.history.add(report, effort)
        return report

    def validate(self) -> Validation:
        """Compute loss and errors on the validation samples; nothing of the training changes.

        Where an average of the weights is kept, they are those of the average.

        Raises UserError, alike on all ranks, where there are no such samples, where any rank cannot
        read its part of them, and where the loss is NaN or infinite.
        """
        if not len(self.validation_samples):
            raise UserError("the validation period holds no sample that can be read")
        forecasts = None
        if self._forecasts is not None:
            forecasts = self._forecasts.begin(
                self.state.model, self.job, whole=self.run.normalisation, own=self.normalisation
            )
        self.saver.hold_back()  # an average takes the place of weights that may be being copied
        with (
            self._feed.validation() as batches,
            Arithmetic.of(self._training.dtype).in_force(),
            self.state.averaged_weights(),
        ):
            scores = validate(
                self.state.model,
                batches,
                self._objective,
                self.run.normalisation,
                self.job.part,
                self._mesh,
                latent=self._training.longest.latent,
                forecasts=forecasts,
            )
        self.history.add_validation(self.state.step, scores)
        return scores

    def keep_if_best(self, scores: Validation) -> None:
        """Begin to save this step where ``scores`` are the best so far by ``checkpoint.best``.

        Raises UserError as ``begin_save``.
        """
        self.saver.consider(scores)

    def begin_save(self) -> None:
        """Begin to write a checkpoint of this step, unless there is one, while training goes on.

        The steps that follow carry it on; it is whole a few of them later, and ``checkpoint`` is
        its path then. A step or the next checkpoint raises UserError, on all ranks, with the
        checkpoint before kept, where it cannot be written.
        """
        self.saver.begin()

    def save(self) -> Path:
        """Write a checkpoint of this step, unless there is one, and keep the newest few.

        Raises UserError, with the one before kept, where it cannot be written.
        """
        self.begin_save()
        self.saver.finish()
        assert self.checkpoint is not None, "it was just written"
        return self.checkpoint

    def finish_saving(self) -> None:
        """Wait until what was begun to be saved is written; UserError where it cannot be."""
        self.saver.finish()

    def load(self, checkpoint: Path) -> None:
        """Take over what was saved in ``checkpoint``, on any mesh; UserError if it does not fit."""
        self._load([checkpoint])

    def _load(self, checkpoints: Sequence[Path]) -> None:
        self._feed.close()
        self.saver.load(checkpoints)
        # As the first rank sees it: the others need not look into the run.
        self.divergence = meshes.from_first_rank(self.divergence.read)
        self.divergence.return_to(self.state.step)
        self.history = History(start_step=self.state.step)

    def result(self, *, stopped_by: str | None = None) -> TrainResult:
        """Sum up the training so far, which must have been saved; all ranks call this together."""
        assert self.checkpoint is not None, "a result names the checkpoint that it led to"
        return self.history.result(
            self.state,
            self._mesh,
            dtype=self._training.dtype,
            checkpoint=self.checkpoint,
            saving_seconds=self.saver.seconds,
            stopped_by=stopped_by,
        )

    def _keep_recent_losses(self) -> None:
        """Keep them with the checkpoint that is begun."""
        if self.divergence.remember(self.state.step):
            meshes.from_first_rank(self.divergence.write)

    def _require_no_spike(self, loss: float, stop: int) -> None:
        what = self.divergence.spike(self.state.step, loss)
        if what is not None:
            # Which checkpoint a run goes back to must not depend on the disk.
            self.saver.finish()
            raise self.divergence.spiked(
                what, step=self.state.step, stop=stop, checkpoint=self.checkpoint
            )

    def _go_back(self, diverged: Diverged) -> None:
        """Return to the newest checkpoint, and leave out the samples that were seen since."""
        assert self.checkpoint is not None, "there is nothing to go back to"
        history = self.history
        self.state.replicas.finish_step()  # which forgets gradients
        self.load(self.checkpoint)
        self.history = history
        history.rewind(self.state.step)
        said = self.divergence.leave_out(
            diverged, after_step=self.state.step, start=self.state.samples
        )
        meshes.from_first_rank(self.divergence.write)
        self.notices.say(said)

    def _not_finite(self, outcome: Outcome, batch: Batch, states: Tensor, stop: int) -> Diverged:
        cause = find_cause(
            outcome.loss,
            self.state.model,
            states,
            outcome.magnitudes,
            channels=self.normalisation.channels,
            input_times=self._objective.input_times,
            initial_times=self.job.states.times[batch.indices[:, self._objective.input_times - 1]],
            step_hours=self.job.config.data.step_hours
            * self._training.lengths_at(self.state.step).latent,
        )
        causes, step = meshes.gather_objects(cause), self.state.step + 1
        return not_finite_error(
            outcome.loss, causes, step=step, stop=stop, checkpoint=self.checkpoint
        )
