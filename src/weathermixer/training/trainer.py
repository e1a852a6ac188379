"""The loop: read, forecast, compare, step; validate, log and save now and then."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_

from weathermixer.config import Config
from weathermixer.console import waiting_for
from weathermixer.data.feeding.read_ahead import Batch, StateReader, kept_states_bytes, read_ahead
from weathermixer.data.feeding.samples import training_plan
from weathermixer.data.opening import open_states
from weathermixer.data.states import States
from weathermixer.errors import UserError
from weathermixer.jigsaw import mesh as meshes
from weathermixer.jigsaw.exchange import total_over
from weathermixer.jigsaw.layers import local_parameters
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.launch.consistency import require_equal_settings, settings_of, versions
from weathermixer.launch.ranks import this_rank
from weathermixer.model.mixer import architecture_of
from weathermixer.planning.reading_share import REMEDY, reads_too_much
from weathermixer.planning.step_cost import choose_layout
from weathermixer.runs.folder_lock import FolderLock
from weathermixer.runs.run import Run, build_model, state_dtype
from weathermixer.training.beginning import begin_run, training_windows, validation_windows
from weathermixer.training.finite import find_cause, not_finite
from weathermixer.training.interrupt import StopRequest
from weathermixer.training.log import ProgressLine, RunLog
from weathermixer.training.loss import loss_weights, rollout_loss
from weathermixer.training.optimizer import optimizer_tensors, set_step, total_bytes
from weathermixer.training.result import TrainResult, peak_memory_bytes
from weathermixer.training.schedule import learning_rate
from weathermixer.training.state import TrainingState
from weathermixer.training.validation import Validation, validate


def train(
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    device: torch.device | str | None = None,
    console: Console | None = None,
) -> TrainResult:
    """Train as configured, into the run ``out``; the same configuration gives the same bits.

    Each rank that was started calls this; on another mesh the result is the same but for rounding.
    ``device`` is the accelerator where there is one, by default; ``console`` is standard error.
    SIGTERM and Ctrl-C end the training after the step in hand, with a checkpoint.

    Raises UserError where store and configuration do not fit together, where ranks differ in them,
    where a run would be overwritten or another process trains in it, where the store is damaged or
    the disk full, and at the first NaN or infinity; LayoutError where the mesh does not fit the
    ranks or the network.
    """
    store = open_states(config.data.store, config.data)
    require_equal_settings(settings_of(config) | {"the store": store.fingerprint()} | versions())
    samples = training_windows(config, store)
    held_out = validation_windows(config, store)
    mesh = meshes.connect(
        choose_layout(
            config.parallel,
            architecture_of(config, store.grid),
            world_size=meshes.world_size(),
            samples=config.training.instance_batch,
        ),
        device=meshes.local_device() if device is None else torch.device(device),
    )
    with ExitStack() as held:
        if meshes.is_first_rank():
            held.enter_context(FolderLock(out, "training"))
            begin_run(config, out, store, resume=resume or config.checkpoint.resume)
        with waiting_for("the other ranks"):
            meshes.wait_for_all()
        run = Run.open(out)
        console = console or Console(stderr=True)
        if meshes.is_first_rank():
            architecture = architecture_of(config, store.grid)
            advice = reads_too_much(store, run.normalisation.channels, architecture, mesh.layout)
            if advice is not None:
                console.print(f"{advice}: {REMEDY}", highlight=False, soft_wrap=True)
        trainer = _Trainer(config, run, store, mesh, samples, held_out)
        newest = run.newest()
        if newest is not None:
            trainer.state.load(newest)
            console.print(f"continuing from {newest}", highlight=False, soft_wrap=True)
        if not len(held_out):
            console.print("the validation period holds no sample: there will be no validation")
        return trainer.run_steps(console)


@dataclass
class _History:
    """What the steps of this training said, and what they took."""

    loss: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    bytes_read: int = 0
    bytes_sent: int = 0
    flops: int = 0
    validation: dict[int, Validation] = field(default_factory=dict)


class _Trainer:
    """One training in this process, from the state that it is given to the last step."""

    def __init__(
        self,
        config: Config,
        run: Run,
        store: States,
        mesh: Mesh,
        samples: NDArray[np.int64],
        held_out: NDArray[np.int64],
    ) -> None:
        self.config, self.run, self.store, self.mesh = config, run, store, mesh
        self.samples, self.held_out = samples, held_out
        self.part = architecture_of(config, store.grid).part(mesh)
        self.normalisation, dtype = self.part.of(run.normalisation), state_dtype(config)
        self.share = self.part.share(run.normalisation) / mesh.layout.data
        model = build_model(config, run.normalisation, mesh=mesh)
        self.state = TrainingState.initial(
            model, mesh, config.training, shard_optimizer=config.parallel.shard_optimizer
        )
        self.static = torch.from_numpy(self.normalisation.static).to(mesh.device, dtype)
        weights = loss_weights(config.training.loss, self.normalisation)
        self.weights = torch.from_numpy(weights).to(mesh.device, dtype)
        self.reader = StateReader(
            store,
            self.normalisation,
            dtype,
            num_states=len(np.union1d(samples, held_out)),
            longitudes=self.part.longitudes,
            memory_bytes=kept_states_bytes(this_rank().local_world_size),
        )
        self.history = _History()

    def run_steps(self, console: Console) -> TrainResult:
        """Take the steps that are left, and report."""
        config, state, history = self.config, self.state, self.history
        start, end = state.step, config.training.steps
        checkpoint = self.run.newest()
        if start >= end:
            assert checkpoint is not None
            console.print(f"all {end} steps were taken before: raise training.steps to go on")
            return self._result(start, checkpoint, None)
        stopped_by = None
        with (
            _log(self.run, tensorboard=config.logging.tensorboard, start_step=start) as log,
            ProgressLine(console, start, end) as line,
            closing(read_ahead(self.reader, self._plan())) as batches,
            StopRequest() as stop,
        ):
            while state.step < end and stopped_by is None:
                began = time.perf_counter()
                stopped_by = self._step(next(batches), checkpoint, stop)
                history.seconds.append(time.perf_counter() - began)
                self._record(log, line, stopping=stopped_by is not None)
                if state.step == end or state.step % config.checkpoint.every == 0:
                    checkpoint = state.save(self.run, keep=config.checkpoint.keep)
                if state.step == end:
                    stopped_by = None
            if stopped_by is not None:
                checkpoint = state.save(self.run, keep=config.checkpoint.keep)
        if stopped_by is not None:
            console.print(
                f"stopped by {stopped_by} after step {state.step} of {end}: "
                f"continue from {checkpoint} with --resume",
                highlight=False,
                soft_wrap=True,
            )
        assert checkpoint is not None
        return self._result(start, checkpoint, stopped_by)

    def _plan(self) -> Iterator[NDArray[np.int64]]:
        training = self.config.training
        return training_plan(
            self.samples,
            seed=training.seed,
            batch=training.instance_batch,
            layout=self.mesh.layout,
            steps=range(self.state.step, training.steps),
            samples=self.state.samples,
            rollout_at=training.rollout_at,
        )

    def _step(self, batch: Batch, checkpoint: Path | None, stop: StopRequest) -> str | None:
        """One optimizer step; the signal with which any rank was asked to stop, if one was.

        Raises UserError, and leaves the weights alone, where it diverges.
        """
        training, state, history = self.config.training, self.state, self.history
        counter, before = self.mesh.counter, self.mesh.counter.copy()
        set_step(state.optimizer, state.step, training)
        state.model.set_dropout_key(training.seed, state.step)
        states = batch.states.to(self.mesh.device, non_blocking=True)
        loss, forecast = rollout_loss(
            state.model, states, self.static, self.weights, share=self.share
        )
        torch.autograd.backward(loss)
        state.replicas.finish_gradients()
        # One exchange for all that is summed over the whole mesh.
        sums = torch.stack(
            [
                loss.detach().double(),
                state.replicas.gradient_square(),
                torch.tensor(stop.received is not None, device=loss.device).double(),
            ]
        )
        total_loss, square, stops = total_over(self.mesh.axes, sums)
        norm = square.sqrt()
        history.loss.append(total_loss.item())
        history.grad_norm.append(norm.item())
        if not (math.isfinite(history.loss[-1]) and math.isfinite(history.grad_norm[-1])):
            raise self._diverged(batch, states, forecast, checkpoint)
        parameters = state.replicas.parameters().values()
        clip_grads_with_norm_(parameters, training.clip_norm, norm)
        state.optimizer.step()
        state.replicas.finish_step()
        state.step += 1
        state.samples += len(states) * self.mesh.layout.data
        history.bytes_read += batch.bytes_read
        counted = counter.since(before)
        history.bytes_sent += counted.bytes_sent
        history.flops += 2 * counted.multiply_adds
        return (stop.received or "a signal to another rank") if stops else None

    def _diverged(
        self, batch: Batch, states: Tensor, forecast: list[Tensor], checkpoint: Path | None
    ) -> UserError:
        loss = self.history.loss[-1]
        cause = find_cause(
            loss,
            self.state.model,
            states,
            forecast,
            channels=self.normalisation.channels,
            initial_times=self.store.times[batch.indices[:, 0]],
            step_hours=self.config.data.step_hours,
        )
        return not_finite(
            loss,
            meshes.gather_objects(cause),
            step=self.state.step + 1,
            checkpoint=checkpoint,
        )

    def _record(self, log: RunLog | None, line: ProgressLine, *, stopping: bool) -> None:
        """Log and validate, where this step is one for it."""
        config, state, history = self.config, self.state, self.history
        training = config.training
        is_last = stopping or state.step == training.steps
        record: dict[str, Any] = {}
        if is_last or state.step % config.logging.every == 0:
            rate = learning_rate(state.step - 1, training)
            recent = history.seconds[-config.logging.every :]
            samples_per_second = (
                training.instance_batch * self.mesh.layout.data * len(recent) / sum(recent)
            )
            line.update(state.step, history.loss[-1], rate, samples_per_second)
            record = {
                "samples": state.samples,
                "loss": history.loss[-1],
                "grad_norm": history.grad_norm[-1],
                "learning_rate": rate,
                "samples_per_second": samples_per_second,
            }
        due = state.step % training.validate_every == 0 or state.step == training.steps
        if due and not stopping and len(self.held_out):
            scores = self._validate()
            history.validation[state.step] = scores
            record["validation"] = asdict(scores)
            line.say(
                f"step {state.step}: validation loss {scores.loss:.4g}, errors "
                f"{scores.mean_relative_rmse:.3f} of persistence's on average"
            )
        if record and log is not None:
            log.write(state.step, record)

    def _validate(self) -> Validation:
        size = self.config.training.instance_batch
        data = self.mesh.data
        firsts = range(data.index * size, len(self.held_out), data.size * size)
        plan = (self.held_out[first : first + size] for first in firsts)
        with closing(read_ahead(self.reader, plan)) as batches:
            return validate(
                self.state.model,
                batches,
                self.static,
                self.weights,
                self.run.normalisation,
                self.part,
                self.mesh,
            )

    def _result(self, start: int, checkpoint: Path, stopped_by: str | None) -> TrainResult:
        state, history = self.state, self.history
        taken = max(1, state.step - start)
        averages = optimizer_tensors(state.replicas.parameters(), state.optimizer)
        by_rank = zip(
            *meshes.gather_objects(
                (
                    history.bytes_sent // taken,
                    history.bytes_read // taken,
                    history.flops // taken,
                    peak_memory_bytes(self.mesh.device),
                    total_bytes(state.model.parameters()),
                    total_bytes(averages.values()),
                )
            ),
            strict=True,
        )
        sent, read, flops, memory, parameters, optimizer = map(list, by_rank)
        return TrainResult(
            layout=self.mesh.layout,
            dtype=self.config.training.dtype,
            parameters=sum(
                math.prod(block.shape) for _, _, block, _ in local_parameters(state.model)
            ),
            start_step=start,
            loss=history.loss,
            grad_norm=history.grad_norm,
            seconds_per_step=history.seconds,
            bytes_sent_per_step=sent,
            bytes_read_per_step=read,
            flops_per_step=flops,
            peak_memory_bytes=memory,
            parameter_bytes=parameters,
            optimizer_bytes=optimizer,
            checkpoint=checkpoint,
            validation=history.validation,
            stopped_by=stopped_by,
        )


def _log(run: Run, *, tensorboard: bool, start_step: int) -> AbstractContextManager[RunLog | None]:
    """The run's log on the rank that writes it."""
    if not meshes.is_first_rank():
        return nullcontext()
    return RunLog(run.log, tensorboard=tensorboard, start_step=start_step)
