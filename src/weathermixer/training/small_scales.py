"""The smallest scales along longitude in the loss, so that forecasts keep to the energy there.

Of a mean square error they are next to nothing: the truth has so little energy there that even a
multiple of it costs little, and in a long forecast it piles up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from weathermixer.config import Training
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.statistics import cell_area_weights
from weathermixer.jigsaw.exchange import AllReduce
from weathermixer.jigsaw.halo import Halo
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.architecture import Architecture
from weathermixer.planning.small_scales_work import REACH, require_room
from weathermixer.training.ensemble import Ensemble
from weathermixer.training.loss import ErrorFunction, error_function

# Rounding to float32 alone leaves mean squares of about 1e-13 in fields of order one.
_NONE = 1e-12


@dataclass(frozen=True)
class SmallScales:
    """What errors in the smallest scales cost, in units of what the truth has of them.

    With δ⁴ the fourth difference around a circle of latitude, ``xᵢ₋₂ − 4 xᵢ₋₁ + 6 xᵢ − 4 xᵢ₊₁ +
    xᵢ₊₂``, which multiplies zonal wavenumber *k* of *N* longitudes by ``(2 sin(π k / N))⁴``, it is
    the loss of ``δ⁴ prediction / u`` beside ``δ⁴ target / u`` with ``weights``, where *u*, of each
    sample and channel, is the root of the mean by area of ``(δ⁴ target)²``. A channel that has none
    in a sample, such as one that is constant there, counts nothing in it.

    ``weights (channel, latitude, 1)`` are those of this rank's channels, ``area (latitude, 1)`` is
    1 in the mean, ``longitudes`` counts those of all ranks, and ``error`` is the loss of one step.
    """

    weights: Tensor
    area: Tensor
    longitudes: int
    halo: Halo
    error: ErrorFunction
    ensemble: Ensemble

    @classmethod
    def of(
        cls,
        training: Training,
        normalisation: Normalisation,
        architecture: Architecture,
        mesh: Mesh,
        ensemble: Ensemble,
        dtype: torch.dtype,
    ) -> Self | None:
        """What ``training.small_scales`` asks for, if anything, with tensors of a type.

        ``normalisation`` describes this rank's part of the states. Raises LayoutError, alike on all
        ranks, where one has fewer longitudes than its neighbours are to see.
        """
        if not training.small_scales:
            return None
        require_room(training, mesh.layout, architecture)
        area = cell_area_weights(normalisation.latitude) * len(normalisation.latitude)
        chosen = [training.channel_weight(name) for name in normalisation.channels]
        channels = training.small_scales * torch.tensor(chosen, dtype=torch.float64)
        rows = torch.from_numpy(area)[:, None]
        weights = (channels[:, None, None] * rows).to(mesh.device, dtype)
        return cls.on(mesh, training, weights, rows.to(weights), architecture.grid[1], ensemble)

    @classmethod
    def on(
        cls,
        mesh: Mesh,
        training: Training,
        weights: Tensor,
        area: Tensor,
        longitudes: int,
        ensemble: Ensemble,
    ) -> Self:
        """With these tensors, on a rank of a mesh."""
        # Edges as they are: rounding of large scales would be large beside the small ones.
        halo = Halo(REACH, mesh.exchanging(None))
        threshold = weights.new_full((1, 1, 1), training.huber_threshold)
        error = error_function(training, threshold, ensemble)
        return cls(weights, area, longitudes, halo, error, ensemble)

    def pooled(self, ensemble: Ensemble) -> Self:
        """The same, of an ensemble whose members several replicas make."""
        return replace(self, error=ensemble.crps, ensemble=ensemble)

    def begin(self, prediction: Tensor, target: Tensor) -> Callable[[], Tensor]:
        """Begin to exchange edges of ``(batch, channel, latitude, longitude)``.

        Of an ensemble, ``prediction`` is ``(batch · own members, ...)``. What is returned waits for
        edges when it is called, and gives the rank's part of the mean.
        """
        prediction, target = (each.to(self.weights.dtype) for each in (prediction, target))
        wait_for_target = self.halo(target)
        # No loss asks for more than errors, whose edges say more in as many digits.
        wait_for_errors = self.halo(prediction - self.ensemble.expanded(target))

        def finish() -> Tensor:
            scale = self._scale(_FourthDifferences.apply(wait_for_target()))
            # Not held by a name, and so only as long as it is looked at.
            return self.error(
                _FourthDifferences.apply(wait_for_errors()) * self.ensemble.expanded(scale),
                torch.zeros_like(scale),
                self.weights,
            )

        return finish

    def _scale(self, differences: Tensor) -> Tensor:
        """``1 / u (batch, channel, 1, 1)`` of targets with these fourth differences."""
        sums = (self.area * differences.square()).sum((2, 3))
        assert self.halo.axis is not None
        mean = AllReduce(self.halo.axis, sums).wait() / (len(self.area) * self.longitudes)
        return torch.where(mean > _NONE, mean.rsqrt(), 0.0)[..., None, None]


class _FourthDifferences(torch.autograd.Function):
    """Fourth differences along the last dimension, of all points but two at either end."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        for _ in range(2):
            inner = x[..., 1:-1]
            x = (x[..., 2:] - inner).sub_(inner).add_(x[..., :-2])
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        size = gradient.shape[-1]
        for _ in range(2):
            size += 2
            wider = gradient.new_zeros(*gradient.shape[:-1], size)
            wider[..., 1:-1].sub_(gradient, alpha=2.0)
            wider[..., 2:] += gradient
            wider[..., :-2] += gradient
            gradient = wider
        return gradient
