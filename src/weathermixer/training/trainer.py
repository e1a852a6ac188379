"""The loop: read, forecast, compare, step; validate, log and save now and then."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from weathermixer.config import Config
from weathermixer.data.reader import Batch, StateReader, read_ahead
from weathermixer.data.samples import training_plan
from weathermixer.data.store import Store
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout
from weathermixer.run import Run, build_model, state_dtype
from weathermixer.training.finite import not_finite
from weathermixer.training.interrupt import StopRequest
from weathermixer.training.log import ProgressLine, RunLog
from weathermixer.training.loss import loss_weights, rollout_loss
from weathermixer.training.optimizer import optimizer_tensors, set_step, total_bytes
from weathermixer.training.prepare import begin_run, training_windows, validation_windows
from weathermixer.training.result import TrainResult, peak_memory_bytes, training_flops
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

    ``device`` is the accelerator where there is one, by default; ``console`` is standard error.
    SIGTERM and Ctrl-C end the training after the step in hand, with a checkpoint.

    Raises UserError where store and configuration do not fit together, where a run would be
    overwritten, where the store is damaged or the disk full, and at the first NaN or infinity.
    """
    layout = _layout(config)
    store = Store.open(config.data.store)
    samples = training_windows(config, store)
    held_out = validation_windows(config, store)
    run = begin_run(config, out, store, resume=resume or config.checkpoint.resume)
    console = console or Console(stderr=True)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    trainer = _Trainer(config, run, store, layout, samples, held_out, torch.device(device))
    newest = run.newest()
    if newest is not None:
        trainer.state.load(newest)
        console.print(f"continuing from {newest}", highlight=False, soft_wrap=True)
    if not len(held_out):
        console.print("the validation period holds no sample: there will be no validation")
    return trainer.run_steps(console)


def _layout(config: Config) -> Layout:
    mesh = config.parallel
    layout = Layout(data=mesh.data, domain=mesh.domain, tensor=mesh.tensor)
    if layout.world_size > 1:
        raise UserError(
            f"data ({mesh.data}) × domain ({mesh.domain}) × tensor ({mesh.tensor}) = "
            f"{layout.world_size} ranks, but 1 was started: set each of parallel.* to 1"
        )
    return layout


@dataclass
class _History:
    """What the steps of this training said, and what they took."""

    loss: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    bytes_read: int = 0
    flops: int = 0
    validation: dict[int, Validation] = field(default_factory=dict)


class _Trainer:
    """One training in this process, from the state that it is given to the last step."""

    def __init__(
        self,
        config: Config,
        run: Run,
        store: Store,
        layout: Layout,
        samples: NDArray[np.int64],
        held_out: NDArray[np.int64],
        device: torch.device,
    ) -> None:
        self.config, self.run, self.store, self.layout = config, run, store, layout
        self.samples, self.held_out, self.device = samples, held_out, device
        normalisation, dtype = run.normalisation, state_dtype(config)
        model = build_model(config, normalisation, layout=layout, device=device)
        self.state = TrainingState.initial(model, config.training)
        self.static = torch.from_numpy(normalisation.static).to(device, dtype)
        weights = loss_weights(config.training.loss, normalisation)
        self.weights = torch.from_numpy(weights).to(device, dtype)
        num_states = len(np.union1d(samples, held_out))
        self.reader = StateReader(store, normalisation, dtype, num_states=num_states)
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
        with (
            RunLog(self.run.log, tensorboard=config.logging.tensorboard, start_step=start) as log,
            ProgressLine(console, start, end) as line,
            closing(read_ahead(self.reader, self._plan())) as batches,
            StopRequest() as stop,
        ):
            while state.step < end and stop.received is None:
                began = time.perf_counter()
                self._step(next(batches), checkpoint)
                history.seconds.append(time.perf_counter() - began)
                self._record(log, line, stopping=stop.received is not None)
                if state.step == end or state.step % config.checkpoint.every == 0:
                    checkpoint = state.save(self.run, keep=config.checkpoint.keep)
        stopped_by = stop.received if state.step < end else None
        if stopped_by is not None:
            checkpoint = state.save(self.run, keep=config.checkpoint.keep)
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
            layout=self.layout,
            steps=range(self.state.step, training.steps),
            samples=self.state.samples,
            rollout_at=training.rollout_at,
        )

    def _step(self, batch: Batch, checkpoint: Path | None) -> None:
        """One optimizer step. Raises UserError, and leaves the weights alone, where it diverges."""
        training, state, history = self.config.training, self.state, self.history
        set_step(state.optimizer, state.step, training)
        state.model.set_dropout_key(training.seed, state.step)
        states = batch.states.to(self.device, non_blocking=True)
        loss, forecast = rollout_loss(state.model, states, self.static, self.weights)
        torch.autograd.backward(loss)
        parameters = list(state.model.parameters())
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        history.loss.append(loss.item())
        history.grad_norm.append(norm.item())
        if not (math.isfinite(history.loss[-1]) and math.isfinite(history.grad_norm[-1])):
            raise not_finite(
                history.loss[-1],
                state.model,
                states,
                forecast,
                step=state.step + 1,
                channels=self.run.normalisation.channels,
                initial_times=self.store.times[batch.indices[:, 0]],
                step_hours=self.config.data.step_hours,
                checkpoint=checkpoint,
            )
        clip_grads_with_norm_(parameters, training.clip_norm, norm)
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1
        state.samples += len(states) * self.layout.data
        history.bytes_read += batch.bytes_read
        history.flops += training_flops(state.model.architecture, len(states), len(forecast))

    def _record(self, log: RunLog, line: ProgressLine, *, stopping: bool) -> None:
        """Log and validate, where this step is one for it."""
        config, state, history = self.config, self.state, self.history
        training = config.training
        is_last = stopping or state.step == training.steps
        record: dict[str, Any] = {}
        if is_last or state.step % config.logging.every == 0:
            rate = learning_rate(state.step - 1, training)
            recent = history.seconds[-config.logging.every :]
            samples_per_second = (
                training.instance_batch * self.layout.data * len(recent) / sum(recent)
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
        if record:
            log.write(state.step, record)

    def _validate(self) -> Validation:
        size = self.config.training.instance_batch
        plan = (self.held_out[first : first + size] for first in range(0, len(self.held_out), size))
        with closing(read_ahead(self.reader, plan)) as batches:
            return validate(
                self.state.model, batches, self.static, self.weights, self.run.normalisation
            )

    def _result(self, start: int, checkpoint: Path, stopped_by: str | None) -> TrainResult:
        state, history = self.state, self.history
        taken = max(1, state.step - start)
        return TrainResult(
            layout=self.layout,
            dtype=self.config.training.dtype,
            parameters=sum(parameter.numel() for parameter in state.model.parameters()),
            start_step=start,
            loss=history.loss,
            grad_norm=history.grad_norm,
            seconds_per_step=history.seconds,
            bytes_sent_per_step=[0],
            bytes_read_per_step=[history.bytes_read // taken],
            flops_per_step=[history.flops // taken],
            peak_memory_bytes=[peak_memory_bytes(self.device)],
            parameter_bytes=[total_bytes(state.model.parameters())],
            optimizer_bytes=[total_bytes(optimizer_tensors(state.model, state.optimizer).values())],
            checkpoint=checkpoint,
            validation=history.validation,
            stopped_by=stopped_by,
        )
