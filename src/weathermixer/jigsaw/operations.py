"""Exchanges of activations as differentiable functions, for what lies between the layers.

Each is the adjoint of another: in the backward pass a gather is a reduce-scatter, and the sum over
an axis is one again. As in the layers, the gradient of a value is the sum of what all ranks make of
it, so the loss of a model is the sum of the ranks' losses: each gives its share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from weathermixer.jigsaw import exchange
from weathermixer.jigsaw.mesh import Axis
from weathermixer.jigsaw.opaque import opaque


@opaque
def all_reduce(x: Tensor, axis: Axis) -> Tensor:
    """The sum of ``x`` over an axis, the same bits on each of its ranks; shaped as ``x``.

    The gradient is summed over the axis too: every rank uses the sum, and its share of the loss
    depends on it.
    """
    if axis.size == 1:
        return x
    total: Tensor = _AllReduce.apply(x, axis)  # type: ignore[no-untyped-call]
    return total


@opaque
def all_gather(x: Tensor, axis: Axis, dim: int, sizes: Sequence[int] | None = None) -> Tensor:
    """The pieces of all ranks along an axis, laid end to end in the dimension ``dim``.

    ``sizes`` tells how much of that dimension each rank has; the same as this one by default. The
    gradient is reduce-scattered.
    """
    if axis.size == 1:
        return x
    sizes = [x.shape[dim]] * axis.size if sizes is None else list(sizes)
    whole: Tensor = _AllGather.apply(x, axis, dim % x.ndim, sizes)  # type: ignore[no-untyped-call]
    return whole


@opaque
def reduce_scatter(x: Tensor, axis: Axis, dim: int, sizes: Sequence[int]) -> Tensor:
    """This rank's piece of the sum of ``x`` over an axis, cut in ``dim`` into parts of ``sizes``.

    The gradient is gathered.
    """
    if axis.size == 1:
        return x
    own: Tensor = _ReduceScatter.apply(x, axis, dim % x.ndim, list(sizes))  # type: ignore[no-untyped-call]
    return own


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: Axis) -> Tensor:
        ctx.axis = axis
        return exchange.all_reduce(axis, x.contiguous())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return exchange.all_reduce(ctx.axis, gradient.contiguous()), None


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: Axis, dim: int, sizes: list[int]) -> Tensor:
        ctx.axis, ctx.dim, ctx.sizes = axis, dim, sizes
        return _gathered(x, axis, dim, sizes)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _scattered(gradient, ctx.axis, ctx.dim, ctx.sizes), None, None, None


class _ReduceScatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: Axis, dim: int, sizes: list[int]) -> Tensor:
        ctx.axis, ctx.dim, ctx.sizes = axis, dim, sizes
        return _scattered(x, axis, dim, sizes)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _gathered(gradient, ctx.axis, ctx.dim, ctx.sizes), None, None, None


def _gathered(x: Tensor, axis: Axis, dim: int, sizes: Sequence[int]) -> Tensor:
    shapes = [(*x.shape[:dim], size, *x.shape[dim + 1 :]) for size in sizes]
    return torch.cat(exchange.Gather(axis, x.contiguous(), shapes).wait(), dim)


def _scattered(x: Tensor, axis: Axis, dim: int, sizes: Sequence[int]) -> Tensor:
    parts = [part.contiguous() for part in torch.split(x, list(sizes), dim)]
    own = parts[axis.index]
    sums = exchange.ReduceScatter(axis)
    for place in axis.peers()[:-1]:
        sums.send(parts[place], tuple(own.shape))
    return sums.finish(own)
