"""Products on the pieces that ranks hold, differentiable: what moves, and what is computed then.

Forward: ``Y[p] = Σ_q W[p, q] X[q]`` over gathered pieces ``q``, reduce-scattered over ``p``.
Backward: ``dX[q] = Σ_p W[p, q]ᵀ dY[p]`` over gathered pieces ``p``, reduce-scattered over ``q``;
``dW[p, q] = dY[p] X[q]ᵀ``, reduce-scattered over ``weight_axis``. Since a gather and a
reduce-scatter over the same axis are adjoint, these are the gradients of the forward product.
What the others wait for is computed and sent first; this rank's own part, while it travels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from weathermixer.jigsaw.exchange import Gather, ReduceScatter
from weathermixer.jigsaw.layout import offsets
from weathermixer.jigsaw.mesh import Axis
from weathermixer.jigsaw.normalise import Channels, NormGradient, NormStatistics, normalise
from weathermixer.jigsaw.product import Product, Side
from weathermixer.jigsaw.weights import WayBack, Weight


def multiply(x: Tensor, weight: Weight, bias: Tensor, product: Product) -> Tensor:
    """``W x + b``, differentiable.

    ``x`` is this rank's matrix of the input as stored, ``bias`` its block. The result is this
    rank's matrix of the output.
    """
    y: Tensor = _Multiply.apply(  # type: ignore[no-untyped-call]
        x, weight.own, bias, weight.whole, weight.way_back, product
    )
    return y


def multiply_normalised(
    x: Tensor,
    gain: Tensor,
    shift: Tensor,
    channels: Channels,
    weight: Weight,
    bias: Tensor,
    product: Product,
) -> Tensor:
    """``W n(x) + b`` for the layer norm ``n`` over channels that are cut, differentiable.

    In the backward pass the norm's sums travel while the gradient of the weight is computed.
    ``x (tokens, batch, channels)`` is what this rank holds, ``gain`` and ``shift`` those of its
    channels; the rest is as for :func:`multiply`.
    """
    y: Tensor = _MultiplyNormalised.apply(  # type: ignore[no-untyped-call]
        x, gain, shift, channels, weight.own, bias, weight.whole, weight.way_back, product
    )
    return y


class _Multiply(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        own: Tensor,
        bias: Tensor,
        whole: Tensor,
        way_back: WayBack,
        product: Product,
    ) -> Tensor:
        y, pieces = _product(x, whole, bias, product)
        ctx.save_for_backward(whole, *pieces)
        ctx.product, ctx.way_back, ctx.bias_dtype = product, way_back, bias.dtype
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        whole, *pieces = ctx.saved_tensors
        adjoint = _Adjoint(ctx.product, dy, whole, pieces)
        dx = adjoint.input_gradient() if ctx.needs_input_grad[0] else None
        dweight = adjoint.weight_gradient(ctx.way_back) if ctx.needs_input_grad[1] else None
        return dx, dweight, adjoint.bias_gradient(ctx.bias_dtype), None, None, None


class _MultiplyNormalised(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gain: Tensor,
        shift: Tensor,
        channels: Channels,
        own: Tensor,
        bias: Tensor,
        whole: Tensor,
        way_back: WayBack,
        product: Product,
    ) -> Tensor:
        n, statistics = normalise(x, gain, shift, channels)
        y, pieces = _product(product.stored(n), whole, bias, product)
        ctx.save_for_backward(x, gain, statistics.mean, statistics.scale, whole, *pieces)
        ctx.product, ctx.way_back, ctx.bias_dtype = product, way_back, bias.dtype
        ctx.channels = channels
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, mean, scale, whole, *pieces = ctx.saved_tensors
        adjoint = _Adjoint(ctx.product, dy, whole, pieces)
        dn = adjoint.input_gradient().view(x.shape)
        norm = NormGradient(dn, x, gain, NormStatistics(mean, scale), ctx.channels)
        dweight = adjoint.weight_gradient(ctx.way_back) if ctx.needs_input_grad[4] else None
        dbias = adjoint.bias_gradient(ctx.bias_dtype)
        return norm.finish(), norm.gain, norm.bias, None, dweight, dbias, None, None, None


def _product(
    x: Tensor, whole: Tensor, bias: Tensor, product: Product
) -> tuple[Tensor, list[Tensor]]:
    """``W x + b``, and the pieces of ``x`` that it was made from."""
    source, target = product.source, product.target
    samples = _samples(x, product)
    pieces = _gather(product, source, x, samples)
    blocks = _Blocks(whole, product)
    sums, y = _contract(product, source, target, pieces, blocks.forward, samples, bias.to(x.dtype))
    return sums.finish(y), pieces.wait()


class _Adjoint:
    """The gradients of a product: first that of its input, which the ranks wait for."""

    def __init__(self, product: Product, dy: Tensor, whole: Tensor, x: Sequence[Tensor]) -> None:
        self._product, self._whole, self._x = product, whole, x
        self._dy = dy.contiguous()
        self._samples = _samples(x[product.source.axis.index], product)
        self._pieces = _gather(product, product.target, self._dy, self._samples)

    def input_gradient(self) -> Tensor:
        product = self._product
        sums, dx = _contract(
            product,
            product.target,
            product.source,
            self._pieces,
            _Blocks(self._whole, product).backward,
            self._samples,
            None,
        )
        return sums.finish(dx)

    def weight_gradient(self, way_back: WayBack) -> Tensor:
        """That of the rank's own weight, but for what comes on the ``way_back``."""
        product, axis = self._product, self._product.weight_axis
        rows = offsets(product.weight_rows)
        whole = _weight_gradient(product, self._pieces.wait(), self._x, self._samples)
        own = whole[_slice(rows[axis.index])]
        if axis.size > 1:
            sums = ReduceScatter(axis)
            for place in axis.peers()[:-1]:
                sums.send(whole[_slice(rows[place])], own.shape)
            way_back.begin(sums)
        return own

    def bias_gradient(self, dtype: torch.dtype) -> Tensor:
        return self._product.matrix(self._dy).sum(1, dtype=dtype)


def _samples(x: Tensor, product: Product) -> int:
    """Samples in a batch, each of which has its own rows."""
    rows = product.matrix(x).shape[1]
    return rows // product.source.rows[product.source.axis.index]


def _gather(product: Product, side: Side, own: Tensor, samples: int) -> Gather:
    shapes = [
        product.stored_shape(features, rows * samples)
        for features, rows in zip(side.features, side.rows, strict=True)
    ]
    return Gather(side.axis, own, shapes)


class _Blocks:
    """The block of a weight that connects an output piece ``p`` to an input piece ``q``."""

    def __init__(self, whole: Tensor, product: Product) -> None:
        self._whole = whole
        self._outputs = None if product.target.by_rows else offsets(product.target.features)
        self._inputs = None if product.source.by_rows else offsets(product.source.features)

    def forward(self, p: int, q: int) -> Tensor:
        block = self._whole
        if self._outputs is not None:
            block = block[_slice(self._outputs[p])]
        if self._inputs is not None:
            block = block[:, _slice(self._inputs[q])]
        return block

    def backward(self, q: int, p: int) -> Tensor:
        return self.forward(p, q).t()


def _contract(
    product: Product,
    source: Side,
    target: Side,
    pieces: Gather,
    block: Callable[[int, int], Tensor],
    samples: int,
    bias: Tensor | None,
) -> tuple[ReduceScatter, Tensor]:
    """Partial sums ``Σ_q block(p, q) · piece(q)``: the peers' are sent, this rank's own returned.

    The reduce-scatter that is returned has yet to be finished, with this rank's own block.
    """
    sums = ReduceScatter(target.axis)
    own = target.axis.index
    own_shape = product.stored_shape(target.features[own], target.rows[own] * samples)
    source_rows = offsets([rows * samples for rows in source.rows])
    target_rows = offsets([rows * samples for rows in target.rows])
    outputs: dict[int, Tensor] = {}
    for count, (q, stored) in enumerate(pieces.arrivals()):
        piece = product.matrix(stored)
        for p in target.axis.peers():
            if count == 0:
                shape = product.stored_shape(target.features[p], target.rows[p] * samples)
                outputs[p] = stored.new_empty(shape)
            output = product.matrix(outputs[p])
            _multiply_into(
                output[:, _slice(source_rows[q])] if source.by_rows else output,
                block(p, q),
                piece[:, _slice(target_rows[p])] if target.by_rows else piece,
                source.axis,
                start=bias if p == own else None,
                accumulate=count > 0 and not source.by_rows,
            )
            if count == source.axis.size - 1 and p != own:
                sums.send(outputs.pop(p), own_shape)
    return sums, outputs[own]


def _weight_gradient(
    product: Product, dy: Sequence[Tensor], x: Sequence[Tensor], samples: int
) -> Tensor:
    """``dW = dY Xᵀ``, of all the rows and columns that this rank's pieces know something of."""
    source, target = product.source, product.target
    dy_rows = offsets([rows * samples for rows in target.rows])
    x_rows = offsets([rows * samples for rows in source.rows])
    outputs, inputs = offsets(target.features), offsets(source.features)
    width = source.features[0] if source.by_rows else inputs[-1].stop
    gradient = x[0].new_empty(sum(product.weight_rows), width)
    for p, dy_piece in enumerate(map(product.matrix, dy)):
        rows = gradient if target.by_rows else gradient[_slice(outputs[p])]
        for q, x_piece in enumerate(map(product.matrix, x)):
            _multiply_into(
                rows if source.by_rows else rows[:, _slice(inputs[q])],
                dy_piece[:, _slice(x_rows[q])] if source.by_rows else dy_piece,
                (x_piece[:, _slice(dy_rows[p])] if target.by_rows else x_piece).t(),
                source.axis,
                accumulate=(source.by_rows and q > 0) or (target.by_rows and p > 0),
            )
    return gradient


def _multiply_into(
    out: Tensor,
    left: Tensor,
    right: Tensor,
    axis: Axis,
    *,
    start: Tensor | None = None,
    accumulate: bool,
) -> None:
    """``out = left · right``, counted: on top of ``out`` itself or of ``start``, one per row."""
    axis.counter.multiply_adds += left.shape[0] * left.shape[1] * right.shape[1]
    if accumulate:
        out.addmm_(left, right)
    elif start is not None:
        torch.addmm(start[:, None], left, right, out=out)
    else:
        torch.mm(left, right, out=out)


def _slice(part: range) -> slice:
    return slice(part.start, part.stop)
