"""Layer norm over channels of which each rank holds some: ``y = γ x̂ + β``, ``x̂ = (x − μ) r``.

``r = 1 / √(variance + ε)``. Means and variances of the parts are merged as in Chan, Golub and
LeVeque 1979; the exchange is two numbers a row, and as many in the backward pass. There, with ``N``
channels, ``dx = r (γ dy − (Σ γ dy + x̂ Σ γ dy x̂) / N)``, ``dγ = Σ dy x̂`` and ``dβ = Σ dy``, where
``dγ`` and ``dβ`` sum this rank's rows. Fresh memory costs more than arithmetic does here, so each
pass makes one tensor and changes it in place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weathermixer.jigsaw.activity import ACTIVITY
from weathermixer.jigsaw.backlog import BACKLOG
from weathermixer.jigsaw.exchange import AllReduce, Gather
from weathermixer.jigsaw.gradients import Use, current_pass
from weathermixer.jigsaw.mesh import Axis


@dataclass(frozen=True)
class Channels:
    """How a norm's channels are cut over an axis: rank ``q`` has ``sizes[q]`` of them.

    ``name`` is that of the layer, for messages.
    """

    axis: Axis
    sizes: tuple[int, ...]
    epsilon: float
    name: str = ""

    @property
    def total(self) -> int:
        """The number of channels of all ranks."""
        return sum(self.sizes)


def normalise(
    x: Tensor, gain: Use, shift: Use, channels: Channels, *, then: Callable[[], None]
) -> Tensor:
    """The layer norm of ``x (..., channels)`` over the channels of all ranks, in the type of ``x``.

    ``gain`` and ``shift (channels,)`` are those of this rank's channels. What is done ``then``
    begins when the statistics are on their way, if they have one.
    """
    y: Tensor = _Normalise.apply(  # type: ignore[no-untyped-call]
        x, gain.node, shift.node, gain, shift, channels, then
    )
    return y


def scale_by_rms(x: Tensor, gain: Use, channels: Channels, *, then: Callable[[], None]) -> Tensor:
    """``x (..., channels)`` over its root mean square over the channels of all ranks, times a gain.

    ``y = γ x r`` with ``r = 1 / √(Σ x² / N + ε)``. In the backward pass ``dx = r (γ dy − x̂ Σ γ dy x̂
    / N)`` with ``x̂ = x r``, and ``dγ = Σ dy x̂``. What is done ``then`` begins when the squares are
    on their way, if they have one.
    """
    y: Tensor = _ScaleByRms.apply(x, gain.node, gain, channels, then)  # type: ignore[no-untyped-call]
    return y


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gain: Tensor,
        shift: Tensor,
        gain_use: Use,
        shift_use: Use,
        channels: Channels,
        then: Callable[[], None],
    ) -> Tensor:
        ctx.uses, ctx.channels = (gain_use, shift_use), channels
        if channels.axis.size > 1:
            y, mean, scale = _normalised(x, gain, shift, channels, then)
        else:
            y, mean, scale = torch.native_layer_norm(
                x, gain.shape, gain.to(x.dtype), shift.to(x.dtype), channels.epsilon
            )
        ctx.save_for_backward(x, gain, shift, mean, scale)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, shift, mean, scale = ctx.saved_tensors
        if ctx.channels.axis.size > 1:
            gradient = _NormGradient(dy, x, gain, mean, scale, ctx.channels)
            dx, dgain, dshift = gradient.finish(), gradient.gain, gradient.bias
        else:
            narrow = gain.to(x.dtype), shift.to(x.dtype)
            dx, dgain, dshift = torch.ops.aten.native_layer_norm_backward(
                dy.contiguous(), x, gain.shape, mean, scale, *narrow, [True, True, True]
            )
        _, of_gain, of_shift, *_ = ctx.needs_input_grad
        gain_use, shift_use = ctx.uses
        return (
            dx,
            _hand_over(gain_use, dgain) if of_gain else None,
            _hand_over(shift_use, dshift) if of_shift else None,
            None,
            None,
            None,
            None,
        )


class _ScaleByRms(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gain: Tensor, use: Use, channels: Channels, then: Callable[[], None]
    ) -> Tensor:
        rows = _wide(x)
        ACTIVITY.where = f"{channels.name}, forward"
        squares = AllReduce(channels.axis, rows.square().sum(-1, keepdim=True))
        then()
        scale = (squares.wait() / channels.total + channels.epsilon).rsqrt()
        ctx.save_for_backward(x, gain, scale)
        ctx.use, ctx.channels = use, channels
        return (rows * scale * gain.to(rows.dtype)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, scale = ctx.saved_tensors
        rows, dy = _wide(x) * scale, _wide(dy)
        scaled = dy * gain.to(dy.dtype)
        ACTIVITY.where = f"{ctx.channels.name}, backward"
        sums = AllReduce(ctx.channels.axis, (scaled * rows).sum(-1, keepdim=True))
        dgain = (dy * rows).flatten(0, -2).sum(0).to(gain.dtype)
        dx = (scaled - rows * (sums.wait(BACKLOG.fill) / ctx.channels.total)) * scale
        of_gain = ctx.needs_input_grad[1]
        return dx.to(x.dtype), _hand_over(ctx.use, dgain) if of_gain else None, None, None, None


def _hand_over(parameter: Use, gradient: Tensor) -> Tensor | None:
    """The gradient of a parameter, for autograd; None where other ranks are to add to it."""
    if parameter.is_local:
        return gradient
    current_pass().add(parameter.source, gradient)
    return None


def _normalised(
    x: Tensor, gain: Tensor, bias: Tensor, channels: Channels, then: Callable[[], None]
) -> tuple[Tensor, Tensor, Tensor]:
    """``y``, and mean and ``r`` of each row over the channels of all ranks, ``(rows, 1)``."""
    rows = _wide(x)
    gamma, beta = gain.to(rows.dtype), bias.to(rows.dtype)
    if gain.numel():
        # The fused kernel normalises by this rank's own channels, which is then made good.
        y, mean, scale = torch.native_layer_norm(rows, gain.shape, gamma, beta, channels.epsilon)
    else:
        y, mean = torch.empty_like(rows), rows.new_zeros(*rows.shape[:-1], 1)
        scale = torch.ones_like(mean)
    statistics = torch.stack([mean, scale.pow(-2)])
    ACTIVITY.where = f"{channels.name}, forward"
    gather = Gather(channels.axis, statistics, [tuple(statistics.shape)] * channels.axis.size)
    then()
    parts = gather.wait()
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
    return y.view(x.shape).to(x.dtype), total_mean, total_scale


class _NormGradient:
    """The gradients of a norm. The sums over all channels travel until :meth:`finish`."""

    def __init__(
        self,
        dy: Tensor,
        x: Tensor,
        gain: Tensor,
        mean: Tensor,
        scale: Tensor,
        channels: Channels,
    ) -> None:
        self._like = x
        self._rows, dy = _wide(x).flatten(0, -2), _wide(dy).flatten(0, -2)
        gamma = gain.to(dy.dtype)
        self._mean, self._scale = mean, scale = mean.flatten(), scale.flatten()
        product = dy * self._rows
        total = dy.mv(gamma)
        slope = (product.mv(gamma) - mean * total) * scale
        ACTIVITY.where = f"{channels.name}, backward"
        self._sums = AllReduce(channels.axis, torch.stack([total, slope]))
        self._channels = channels
        self.gain = (product.t().mv(scale) - dy.t().mv(mean * scale)).to(gain.dtype)
        self.bias = dy.sum(0).to(gain.dtype)
        self._dx = torch.mul(dy, gamma, out=product).mul_(scale[:, None])

    def finish(self) -> Tensor:
        """The gradient with respect to the norm's input."""
        mean, scale = self._mean, self._scale
        total, slope = self._sums.wait(BACKLOG.fill) / self._channels.total
        slope *= -scale.square()
        dx = self._dx.addcmul_(self._rows, slope[:, None])
        dx.sub_((total * scale + mean * slope)[:, None])
        return dx.view(self._like.shape).to(self._like.dtype)


def _wide(tensor: Tensor) -> Tensor:
    """In a type that statistics can be computed in."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
