"""A rollout forwards and back: as one pass, or one application of the network at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from weathermixer.jigsaw.activity import ACTIVITY
from weathermixer.training.loss import ErrorFunction, rollout_loss, weighted_mse

Network = Callable[[Tensor, Tensor], Tensor]
"""From a state and static fields to the state that an application of the network makes of them."""


class Backward(Protocol):
    """Goes back from roots with their gradients; is told where the rollout has ended with it."""

    def __call__(
        self, roots: list[Tensor], gradients: list[Tensor | None], *, is_last: bool
    ) -> None: ...


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

    def loss(
        self, network: Network, states: Tensor, *, start: Tensor, of_rollout: float = 1.0
    ) -> tuple[Tensor, list[Tensor]]:
        """This rank's part of the loss of a rollout, or of so much of it, and its forecast states.

        ``states (batch, rollout + 1, channel, latitude, longitude)``, all but the first of which
        are compared with what is forecast from ``start``.
        """
        return rollout_loss(
            network,
            states,
            self.static,
            self.weights,
            share=self.share * of_rollout,
            error=self.error,
            start=start,
        )


@dataclass(frozen=True)
class RolloutPasses:
    """The passes of a rollout over ``states (batch, rollout + 1, channel, latitude, longitude)``.

    ``by_stage``, each application of the network is a pass of its own: what an application starts
    from is all that is kept of it until the backward passes of the later ones have ended, when it
    is computed again. The last one is computed once.
    """

    network: Network
    objective: Objective
    states: Tensor
    by_stage: bool

    def run(self, backward: Backward) -> tuple[Tensor, list[Tensor]]:
        """Take all passes; returns the loss, and the largest magnitudes of each forecast state.

        The latter are ``(batch, channel)``, and NaN where one is.
        """
        rollout = self.states.shape[1] - 1
        length = 1 if self.by_stage else rollout
        firsts = range(0, rollout, length)
        starts = [self.states[:, 0]]
        with torch.no_grad(), ACTIVITY.named("forward"):
            for _ in firsts[1:]:
                starts.append(self.network(starts[-1], self.objective.static))
        losses: list[Tensor] = []
        magnitudes: list[Tensor] = []
        later: Tensor | None = None
        for first in reversed(firsts):
            start = starts.pop().requires_grad_(first > 0)
            compared = self.states[:, first : first + length + 1]
            with ACTIVITY.named("forward"):
                loss, forecast = self.objective.loss(
                    self.network, compared, start=start, of_rollout=length / rollout
                )
            losses.append(loss.detach())
            magnitudes[:0] = map(_largest, forecast)
            roots: list[Tensor] = [loss]
            gradients: list[Tensor | None] = [None]
            if later is not None:
                roots.append(forecast[-1])
                gradients.append(later)
            # What is held by a name is held while the pass goes on.
            del loss, forecast
            backward(roots, gradients, is_last=first == 0)
            later = start.grad
            del roots, gradients, start
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum(), magnitudes


def _largest(forecast: Tensor) -> Tensor:
    return torch.linalg.vector_norm(forecast.detach(), ord=math.inf, dim=(2, 3))
