"""A rollout forwards and back: as one pass, or one application of the network at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from weathermixer.config import Training
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.jigsaw.activity import ACTIVITY
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.architecture import Architecture
from weathermixer.model.arithmetic import Arithmetic
from weathermixer.model.compiling import compiled
from weathermixer.training.ensemble import Ensemble
from weathermixer.training.loss import (
    ErrorFunction,
    error_function,
    huber_thresholds,
    loss_weights,
    recent_and_targets,
    rollout_loss,
    weighted_mse,
)
from weathermixer.training.small_scales import SmallScales

_SINGLE = Ensemble()

Network = Callable[..., Tensor]
"""From states, the newest first, and what is given beside them to the state made of them."""


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
    is of the values of all ranks. The network is given the states at ``input_times``. ``ensemble``
    tells the members that are made of each sample. ``small_scales`` are added to the loss.
    """

    static: Tensor
    weights: Tensor
    share: float = 1.0
    error: ErrorFunction = weighted_mse
    input_times: int = 1
    ensemble: Ensemble = _SINGLE
    small_scales: SmallScales | None = None

    @classmethod
    def of(
        cls,
        training: Training,
        normalisation: Normalisation,
        architecture: Architecture,
        mesh: Mesh,
        *,
        share: float,
        ensemble: Ensemble = _SINGLE,
    ) -> Self:
        """The objective of a training on a rank of a mesh, with its tensors on the rank's device.

        ``normalisation`` describes this rank's part of the states. Raises LayoutError, alike on all
        ranks, where the mesh leaves one too few longitudes for what the loss looks at.
        """
        dtype, device = Arithmetic.of(training.dtype).states, mesh.device
        weights = torch.from_numpy(loss_weights(training, normalisation)).to(device, dtype)
        thresholds = torch.from_numpy(huber_thresholds(training, normalisation)).to(weights)
        static = torch.from_numpy(normalisation.static).to(device, dtype)
        error = error_function(training, thresholds, ensemble)
        small_scales = SmallScales.of(training, normalisation, architecture, mesh, ensemble, dtype)
        return cls(static, weights, share, error, architecture.input_times, ensemble, small_scales)

    def compare(self, prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """The loss of one step, an :data:`~weathermixer.training.loss.ErrorFunction`."""
        if self.small_scales is None:
            return self.error(prediction, target, weights)
        finish = self.small_scales.begin(prediction, target)
        return self.error(prediction, target, weights) + finish()

    def pooled(self, ensemble: Ensemble) -> Self:
        """The same, of an ensemble whose members several replicas make."""
        small_scales = self.small_scales and self.small_scales.pooled(ensemble)
        return replace(self, ensemble=ensemble, error=ensemble.crps, small_scales=small_scales)

    def compiled(self) -> Self:
        """The same, with an error that the compiler has made one kernel of."""
        return replace(self, error=compiled(self.error))


@dataclass(frozen=True)
class RolloutPasses:
    """The passes of a rollout over states of several samples.

    ``states (batch, input times + rollout, channel, latitude, longitude)``, and ``forcings (batch,
    rollout, forcing, latitude, longitude)`` where there are some. Of an ensemble, each sample is
    forecast by its members, with ``noise (batch · members, rollout, noise)``. ``by_stage``, each
    application of the network is a pass of its own: the state that it makes is all that is kept of
    it until the backward passes of the later ones have ended, when it is computed again. The last
    one is computed once.
    """

    network: Network
    objective: Objective
    states: Tensor
    forcings: Tensor | None
    by_stage: bool
    noise: Tensor | None = None

    def run(self, backward: Backward) -> tuple[Tensor, list[Tensor]]:
        """Take all passes; returns the loss, and the largest magnitudes of each forecast state.

        The latter are ``(batch, channel)``, and NaN where one is.
        """
        given, targets = recent_and_targets(self.states, self.objective.input_times)
        given = [self._of_members(state) for state in given]
        rollout = targets.shape[1]
        length = 1 if self.by_stage else rollout
        firsts = range(0, rollout, length)
        # In the order of time, what was given and then what was made, each a leaf of its own, in
        # which the gradients of all later passes that it is given to come together.
        known = given[::-1]
        for first in firsts[:-1]:
            with torch.no_grad(), ACTIVITY.named("forward"):
                made = self.network(
                    *self._recent(known, first), *self._fields(first), **self._noise(first)
                )
            known.append(made.requires_grad_())
            del made  # held by a name, it would be held to the end
        losses: list[Tensor] = []
        magnitudes: list[Tensor] = []
        for first in reversed(firsts):
            later = known.pop().grad if len(known) > first + len(given) else None
            with ACTIVITY.named("forward"):
                loss, forecast = rollout_loss(
                    self.network,
                    self._recent(known, first),
                    targets[:, first : first + length],
                    self.objective.static,
                    self.objective.weights,
                    forcings=None
                    if self.forcings is None
                    else self._of_members(self.forcings[:, first : first + length]),
                    share=self.objective.share * (length / rollout),
                    error=self.objective.compare,
                    noise=None if self.noise is None else self.noise[:, first : first + length],
                )
            losses.append(loss.detach())
            magnitudes[:0] = map(self._largest, forecast)
            roots: list[Tensor] = [loss]
            gradients: list[Tensor | None] = [None]
            if later is not None:
                roots.append(forecast[-1])
                gradients.append(later)
            # What is held by a name is held while the pass goes on.
            del loss, forecast, later
            backward(roots, gradients, is_last=first == 0)
            del roots, gradients
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum(), magnitudes

    def _recent(self, known: list[Tensor], first: int) -> list[Tensor]:
        """What the network is given at an application, the newest first."""
        return known[first : first + self.objective.input_times][::-1]

    def _fields(self, application: int) -> tuple[Tensor, ...]:
        static = self.objective.static
        if self.forcings is None:
            return (static,)
        return static, self._of_members(self.forcings[:, application])

    def _noise(self, application: int) -> dict[str, Tensor]:
        return {} if self.noise is None else {"noise": self.noise[:, application]}

    def _of_members(self, tensor: Tensor) -> Tensor:
        return self.objective.ensemble.expanded(tensor)

    def _largest(self, forecast: Tensor) -> Tensor:
        """The largest magnitudes ``(batch, channel)`` of a forecast, over all members."""
        largest = torch.linalg.vector_norm(forecast.detach(), ord=math.inf, dim=(2, 3))
        own = self.objective.ensemble.own
        return largest if own == 1 else largest.unflatten(0, (-1, own)).amax(1)
