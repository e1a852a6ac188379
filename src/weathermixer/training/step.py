"""One step of a training, on samples that are on the device: forecast, compare, learn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from weathermixer.config import Training
from weathermixer.jigsaw.activity import ACTIVITY
from weathermixer.jigsaw.dropout import set_dropout_key
from weathermixer.jigsaw.exchange import total_over
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.weights import kept_weights
from weathermixer.model.arithmetic import Arithmetic
from weathermixer.training.host_copy import HostCopy
from weathermixer.training.loss import ErrorFunction, rollout_loss, weighted_mse
from weathermixer.training.optimizer import set_step, step_unless
from weathermixer.training.state import TrainingState


@dataclass(frozen=True)
class Objective:
    """What a rank's forecasts need and are compared by.

    ``static (static_channel, latitude, longitude)`` and ``weights`` are this rank's parts, the
    latter as ``error``, the loss of one step, takes them; ``share`` is the fraction that its part
    is of the values of all ranks.
    """

    static: Tensor
    weights: Tensor
    share: float = 1.0
    error: ErrorFunction = weighted_mse


@dataclass(frozen=True)
class Outcome:
    """Loss and gradient norm of all ranks in a step; where either is not finite, none was taken.

    ``stops`` counts the ranks that are to stop, and ``saved`` those that have written their part;
    ``forecast`` holds this rank's forecast states.
    """

    loss: float
    grad_norm: float
    stops: float
    saved: float
    forecast: list[Tensor]

    @property
    def is_taken(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


def compute_gradients(
    state: TrainingState, training: Training, states: Tensor, objective: Objective
) -> tuple[Tensor, list[Tensor]]:
    """Forecast and add to all gradients; this rank's part of the loss, and its forecast states.

    ``states (batch, rollout + 1, channel, latitude, longitude)``.
    """
    set_dropout_key(state.model, training.seed, state.step)
    apart = [state.model.blocks] if training.recompute else []
    with Arithmetic.of(training.dtype).in_force():
        with kept_weights(state.model, apart_from=apart), ACTIVITY.named("forward"):
            loss, forecast = rollout_loss(
                state.model,
                states,
                objective.static,
                objective.weights,
                share=objective.share,
                error=objective.error,
            )
        with ACTIVITY.named("backward"):
            torch.autograd.backward(loss)
    return loss.detach(), forecast


def take_step(
    state: TrainingState,
    mesh: Mesh,
    training: Training,
    states: Tensor,
    objective: Objective,
    *,
    stopping: bool = False,
    has_saved: bool = False,
) -> Outcome:
    """Take one optimizer step on ``states (batch, rollout + 1, channel, latitude, longitude)``.

    Every rank calls this; ``stopping`` tells the others that this one is to stop, ``has_saved``
    that it has written its part of a checkpoint. The processor waits for the device once, for loss
    and norm, and the device not at all for the processor.
    Where these are not finite, weights and optimizer are left alone, and gradients as they are.
    """
    set_step(state.optimizer, state.step, training)
    loss, forecast = compute_gradients(state, training, states, objective)
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
        loss_value, norm_value, stops, saved = summary.wait()
    outcome = Outcome(loss_value, norm_value, stops, saved, forecast)
    if outcome.is_taken:
        if state.average is not None:
            state.average.update()
        state.replicas.finish_step()
        state.step += 1
        state.samples += len(states) * mesh.layout.data
    return outcome
