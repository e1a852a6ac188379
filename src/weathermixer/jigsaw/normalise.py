"""Layer norm over channels of which each rank holds some: ``y = γ x̂ + β``, ``x̂ = (x − μ) r``.

``r = 1 / √(variance + ε)``. Means and variances of the parts are merged as in Chan, Golub and
LeVeque 1979; the exchange is two numbers a row, and as many in the backward pass. There, with ``N``
channels, ``dx = r (γ dy − (Σ γ dy + x̂ Σ γ dy x̂) / N)``, ``dγ = Σ dy x̂`` and ``dβ = Σ dy``, where
``dγ`` and ``dβ`` sum this rank's rows. Fresh memory costs more than arithmetic does here, so each
pass makes one tensor and changes it in place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from weathermixer.jigsaw.exchange import AllReduce, all_gather
from weathermixer.jigsaw.mesh import Axis

EPSILON = 1e-5


@dataclass(frozen=True)
class NormStatistics:
    """Mean and ``r`` of each row, over the channels of all ranks; each ``(rows, 1)``."""

    mean: Tensor
    scale: Tensor


@dataclass(frozen=True)
class Channels:
    """How channels are cut over an axis: rank ``q`` has ``sizes[q]`` of them."""

    axis: Axis
    sizes: tuple[int, ...]

    @property
    def total(self) -> int:
        return sum(self.sizes)


def normalise(
    x: Tensor, gain: Tensor, bias: Tensor, channels: Channels
) -> tuple[Tensor, NormStatistics]:
    """``y`` of ``x (..., channels)`` in its type, and the statistics for the backward pass."""
    rows = _wide(x)
    gamma, beta = gain.to(rows.dtype), bias.to(rows.dtype)
    # The fused kernel normalises by this rank's own channels, which is then made good.
    y, mean, scale = torch.native_layer_norm(rows, gain.shape, gamma, beta, EPSILON)
    parts = all_gather(channels.axis, torch.stack([mean, scale.pow(-2)]))
    weights = [size / channels.total for size in channels.sizes]
    total_mean = torch.zeros_like(mean)
    for weight, part in zip(weights, parts, strict=True):
        total_mean += weight * part[0]
    # variance + ε, since the weights add up to one
    variance = torch.zeros_like(mean)
    for weight, part in zip(weights, parts, strict=True):
        variance += weight * (part[1] + (part[0] - total_mean).square())
    total_scale = variance.rsqrt()
    # y − β is this rank's x̂ times γ: rescale it, and shift it by the difference of the means.
    y.lerp_(beta, 1.0 - total_scale / scale).addcmul_((mean - total_mean) * total_scale, gamma)
    return y.view(x.shape).to(x.dtype), NormStatistics(total_mean, total_scale)


class NormGradient:
    """The gradients of a norm. The sums over all channels travel until :meth:`finish`."""

    def __init__(
        self, dy: Tensor, x: Tensor, gain: Tensor, statistics: NormStatistics, channels: Channels
    ) -> None:
        self._like = x
        self._rows, dy = _wide(x).flatten(0, -2), _wide(dy).flatten(0, -2)
        gamma = gain.to(dy.dtype)
        self._mean, self._scale = mean, scale = (
            statistics.mean.flatten(),
            statistics.scale.flatten(),
        )
        product = dy * self._rows
        total = dy.mv(gamma)
        slope = (product.mv(gamma) - mean * total) * scale
        self._sums = AllReduce(channels.axis, torch.stack([total, slope]))
        self._channels = channels
        self.gain = (product.t().mv(scale) - dy.t().mv(mean * scale)).to(gain.dtype)
        self.bias = dy.sum(0).to(gain.dtype)
        self._dx = torch.mul(dy, gamma, out=product).mul_(scale[:, None])

    def finish(self) -> Tensor:
        """That of ``x``."""
        mean, scale = self._mean, self._scale
        total, slope = self._sums.wait() / self._channels.total
        slope *= -scale.square()
        dx = self._dx.addcmul_(self._rows, slope[:, None])
        dx.sub_((total * scale + mean * slope)[:, None])
        return dx.view(self._like.shape).to(self._like.dtype)


def _wide(tensor: Tensor) -> Tensor:
    """In a type that statistics can be computed in."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
