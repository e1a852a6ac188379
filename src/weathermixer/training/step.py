"""One step of a training, on samples that are on the device: forecast, compare, learn."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from weathermixer.config import Training
from weathermixer.jigsaw.activity import ACTIVITY
from weathermixer.jigsaw.dropout import set_dropout_key
from weathermixer.jigsaw.exchange import total_over
from weathermixer.jigsaw.gradients import held_gradients
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.weights import kept_weights
from weathermixer.model.arithmetic import Arithmetic
from weathermixer.model.mixer import WeatherMixer
from weathermixer.training.host_copy import HostCopy
from weathermixer.training.optimizer import set_step, step_unless
from weathermixer.training.passes import Objective, RolloutPasses
from weathermixer.training.state import TrainingState


@dataclass(frozen=True)
class Outcome:
    """Loss and gradient norm of all ranks in a step; where either is not finite, none was taken.

    ``stops`` counts the ranks that are to stop, and ``saved`` those that have written their part;
    ``magnitudes (batch, channel)`` are the largest of each of this rank's forecast states.
    """

    loss: float
    grad_norm: float
    stops: float
    saved: float
    magnitudes: list[Tensor]

    @property
    def is_taken(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


def compute_gradients(
    state: TrainingState,
    training: Training,
    states: Tensor,
    objective: Objective,
    forcings: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Forecast and add to all gradients; this rank's part of the loss, and largest magnitudes.

    ``states (batch, input times + rollout, channel, latitude, longitude)`` and ``forcings (batch,
    rollout, forcing, latitude, longitude)``, of which as many samples pass through the network at
    once as the training says. The magnitudes ``(batch, channel)`` are those of each forecast state;
    where one of its values is NaN, so is the magnitude.
    """
    model, recompute = state.model, training.recompute
    replica = state.mesh.data.index // training.pool
    network = partial(model, applications=training.lengths_at(state.step).latent)
    batches = states.split(training.samples_at_once)
    fields = [None] * len(batches) if forcings is None else forcings.split(training.samples_at_once)
    losses: list[Tensor] = []
    magnitudes: list[list[Tensor]] = []
    with Arithmetic.of(training.dtype).in_force(), ExitStack() as keeping:
        # Gathered and cast once for all passes; the last one lets go of each weight on its way.
        apart: list[nn.Module] = []
        if isinstance(model, WeatherMixer) and recompute == "blocks":
            apart.append(model.blocks)
        keeping.enter_context(kept_weights(model, apart_from=apart))
        for number, (batch, given) in enumerate(zip(batches, fields, strict=True)):
            set_dropout_key(model, training.seed, state.step, number)
            own = replace(objective, share=objective.share * (len(batch) / len(states)))
            noise = None
            if objective.ensemble.noise:
                first = replica * len(states) + number * training.samples_at_once
                samples = range(first, first + len(batch))
                rollout = batch.shape[1] - objective.input_times
                noise = objective.ensemble.draw(samples, rollout=rollout, step=state.step)
                noise = noise.to(batch)
            by_stage = recompute == "stages"
            passes = RolloutPasses(network, own, batch, given, by_stage, noise)
            is_last = number == len(batches) - 1
            loss, of_batch = passes.run(partial(_backward, keeping if is_last else None))
            losses.append(loss)
            magnitudes.append(of_batch)
    total = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
    return total, [torch.cat(parts) for parts in zip(*magnitudes, strict=True)]


def _backward(
    keeping: ExitStack | None,
    roots: list[Tensor],
    gradients: list[Tensor | None],
    *,
    is_last: bool,
) -> None:
    """Add to all gradients; the last pass of the last samples brings those of ranks together."""
    held: AbstractContextManager[None] = held_gradients()
    if keeping is not None and is_last:
        keeping.close()
        held = nullcontext()
    with ACTIVITY.named("backward"), held:
        torch.autograd.backward(roots, gradients)


def take_step(
    state: TrainingState,
    mesh: Mesh,
    training: Training,
    states: Tensor,
    objective: Objective,
    forcings: Tensor | None = None,
    *,
    stopping: bool = False,
    has_saved: bool = False,
) -> Outcome:
    """Take one optimizer step on ``states (batch, times, channel, latitude, longitude)``.

    ``forcings (batch, rollout, forcing, latitude, longitude)`` go with them. Every rank calls this;
    ``stopping`` tells the others that this one is to stop, ``has_saved`` that it has written its
    part of a checkpoint. The processor waits for the device once, for loss and norm, and the device
    not at all for the processor. Where these are not finite, weights and optimizer are left alone,
    and gradients as they are.
    """
    set_step(state.optimizer, state.step, training)
    loss, magnitudes = compute_gradients(state, training, states, objective, forcings)
    # One exchange for all that is summed over the whole mesh.
    told = (
        torch.full((), float(news), dtype=torch.float64, device=loss.device)
        for news in (stopping, has_saved)
    )
    sums = torch.stack([loss.double(), state.replicas.gradient_square(), *told])
    with ACTIVITY.at("loss and norm of the gradient"):
        total_loss, square, *counts = total_over(mesh.axes, sums)
    norm = square.sqrt()
    is_bad = ~(torch.isfinite(total_loss) & torch.isfinite(norm))
    # The only wait: begun here, so that it ends before the optimizer does.
    summary = HostCopy(torch.stack([total_loss, norm, *counts]))
    with ACTIVITY.named("optimizer"):
        # Gradients that are not finite stay as they are, to be looked at.
        state.replicas.clip_gradients(training.clip_norm, norm.masked_fill(is_bad, 0.0))
        step_unless(is_bad, state.optimizer)
    with ACTIVITY.waiting_alone_for("its device"), ACTIVITY.named("wait for loss and norm"):
        loss_value, norm_value, stop_count, saved = summary.wait()
    outcome = Outcome(loss_value, norm_value, stop_count, saved, magnitudes)
    if outcome.is_taken:
        if state.average is not None:
            state.average.update()
        state.replicas.finish_step()
        state.step += 1
        state.samples += len(states) * mesh.layout.data // training.pool
    return outcome
