"""The layers that a mixer is made of. Activations are ``(tokens, batch, channels)`` throughout.

With tokens in front, mixing tokens is one matrix product from the left and mixing channels one from
the right, for any batch: neither needs a transpose or a copy. A layer computes in the type of its
input and casts its weights to it, so that the weights can stay in a wider one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weathermixer.jigsaw.initial import derive_key, fill_uniform, linear_bound
from weathermixer.jigsaw.layout import Layout


class ChannelLinear(nn.Module):
    """A linear map over channels: ``y = x Wᵀ + b``.

    ``x (tokens, batch, in_channels)``, ``weight (out_channels, in_channels)``,
    ``y (tokens, batch, out_channels)``.
    """

    def __init__(
        self, in_channels: int, out_channels: int, layout: Layout, device: Any = None
    ) -> None:
        super().__init__()
        self.layout = layout
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, device=device))
        self.bias = nn.Parameter(torch.empty(out_channels, device=device))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))

    @torch.no_grad()
    def initialise(self, seed: int, name: str) -> None:
        _fill_linear(self.weight, self.bias, seed, name)


class TokenLinear(nn.Module):
    """A linear map over tokens: ``y = W x + b``, the same for each channel.

    ``x (in_tokens, batch, channels)``, ``weight (out_tokens, in_tokens)``,
    ``y (out_tokens, batch, channels)``.
    """

    def __init__(self, in_tokens: int, out_tokens: int, layout: Layout, device: Any = None) -> None:
        super().__init__()
        self.layout = layout
        self.weight = nn.Parameter(torch.empty(out_tokens, in_tokens, device=device))
        self.bias = nn.Parameter(torch.empty(out_tokens, device=device))

    def forward(self, x: Tensor) -> Tensor:
        columns = x.flatten(1)
        bias = self.bias.to(x.dtype)[:, None]
        y = torch.addmm(bias, self.weight.to(x.dtype), columns)
        return y.view(-1, *x.shape[1:])

    @torch.no_grad()
    def initialise(self, seed: int, name: str) -> None:
        _fill_linear(self.weight, self.bias, seed, name)


class LayerNorm(nn.Module):
    """Normalisation of each token over all of its channels, with a gain and a bias per channel.

    Ba, Kiros and Hinton 2016, https://arxiv.org/abs/1607.06450
    """

    def __init__(self, channels: int, layout: Layout, device: Any = None) -> None:
        super().__init__()
        self.layout = layout
        self.weight = nn.Parameter(torch.empty(channels, device=device))
        self.bias = nn.Parameter(torch.empty(channels, device=device))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(
            x, self.weight.shape, self.weight.to(x.dtype), self.bias.to(x.dtype), eps=1e-5
        )

    @torch.no_grad()
    def initialise(self, seed: int, name: str) -> None:
        self.weight.fill_(1.0)
        self.bias.zero_()


class Dropout(nn.Module):
    """Zeroes each value with probability ``p`` and divides the others by ``1 − p``, in training.

    What is zeroed depends on ``key`` and on the rank alone, so a step can be repeated, and a run
    continued, without saving the state of a generator. Instead of a draw per value there is a draw
    per zero: the gaps between the successes of a Bernoulli process are geometric.
    """

    def __init__(self, p: float, layout: Layout) -> None:
        super().__init__()
        self.p = p
        self.layout = layout
        self.key = 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        generator = torch.Generator(device=x.device)
        generator.manual_seed(derive_key(self.key, self.layout.rank) & (1 << 63) - 1)
        zeroed: Tensor = _Zero.apply(  # type: ignore[no-untyped-call]
            x, self._positions(x.numel(), generator), 1.0 / (1.0 - self.p)
        )
        return zeroed

    def _positions(self, size: int, generator: torch.Generator) -> Tensor:
        # Eight standard deviations more than expected: that all gaps end before the tensor does
        # has a probability of about 1e-15.
        expected = size * self.p
        count = math.ceil(expected + 8.0 * math.sqrt(expected) + 8.0)
        gaps = torch.empty(count, dtype=torch.int64, device=generator.device)
        positions = gaps.geometric_(self.p, generator=generator).cumsum(0) - 1
        return positions[positions < size]


class _Zero(torch.autograd.Function):
    """Scales a tensor and zeroes some of its elements; its own adjoint."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, positions: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(positions)
        ctx.scale = scale
        return _zeroed(x, positions, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (positions,) = ctx.saved_tensors
        return _zeroed(grad, positions, ctx.scale), None, None


def _zeroed(x: Tensor, positions: Tensor, scale: float) -> Tensor:
    y = (x * scale).contiguous()
    y.view(-1).index_fill_(0, positions, 0.0)
    return y


def _fill_linear(weight: Tensor, bias: Tensor, seed: int, name: str) -> None:
    """Weights uniform and biases zero, whichever way the layer is applied."""
    fill_uniform(
        weight,
        key=derive_key(seed, name),
        bound=linear_bound(weight.shape[1]),
        start=0,
        stride=weight.shape[1],
    )
    bias.zero_()
