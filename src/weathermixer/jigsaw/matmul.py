"""Products on the pieces that ranks hold, differentiable: what moves, and what is computed then.

Forward: ``Y[p] = Σ_q W[p, q] X[q]`` over gathered pieces ``q``, reduce-scattered over ``p``.
Backward: ``dX[q] = Σ_p W[p, q]ᵀ dY[p]`` over gathered pieces ``p``, reduce-scattered over ``q``;
``dW[p, q] = dY[p] X[q]ᵀ``, reduce-scattered over ``weight_axis``. Since a gather and a
reduce-scatter over the same axis are adjoint, these are the gradients of the forward product.
What the others wait for is computed and sent first; this rank's own part, while it travels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weathermixer.jigsaw.activity import ACTIVITY
from weathermixer.jigsaw.exchange import Gather, ReduceScatter
from weathermixer.jigsaw.gradients import (
    BackwardPass,
    Use,
    current_pass,
    in_backward,
    let_go_of_broken_passes,
)
from weathermixer.jigsaw.layout import offsets
from weathermixer.jigsaw.mesh import Axis
from weathermixer.jigsaw.normalise import is_normalised
from weathermixer.jigsaw.product import Product, Side


def multiply(
    x: Tensor,
    weight: Use,
    whole: Tensor,
    bias: Use | None,
    product: Product,
    *,
    samples: int,
    name: str,
) -> Tensor:
    """``W x + b``, differentiable.

    ``x`` is this rank's matrix of the input as stored, of so many samples, and ``whole`` what it
    multiplies with of the weight. The result is this rank's matrix of the output. ``name`` is that
    of the layer, for messages.
    """
    if not in_backward():
        let_go_of_broken_passes()
    call = _Call(product, samples, weight, bias, name, may_wait=is_normalised(x))
    y: Tensor = _Multiply.apply(  # type: ignore[no-untyped-call]
        x, weight.node, None if bias is None else bias.node, whole, call
    )
    return y


@dataclass(frozen=True)
class _Call:
    """One use of a product, of so many samples, with its parameters.

    The gradient of the weight ``may_wait`` for the backward pass to wait where a layer norm made
    the input: its sums then travel meanwhile.
    """

    product: Product
    samples: int
    weight: Use
    bias: Use | None
    name: str
    may_wait: bool


class _Multiply(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, whole: Tensor, call: _Call
    ) -> Tensor:
        ACTIVITY.where = f"{call.name}, forward"
        product, samples = call.product, call.samples
        start = None if bias is None else bias.to(x.dtype)
        pieces = _gather(product, product.source, x, samples)
        block = _Blocks(whole, product).forward
        sums, y = _contract(product, product.source, product.target, pieces, block, samples, start)
        y = sums.finish(y)
        ctx.save_for_backward(whole, *pieces.wait())
        ctx.call = call
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        ACTIVITY.where = f"{ctx.call.name}, backward"
        whole, *pieces = ctx.saved_tensors
        of_input, of_weight, of_bias, *_ = ctx.needs_input_grad
        adjoint = _Adjoint(ctx.call, dy, whole, pieces)
        return (
            adjoint.input_gradient() if of_input else None,
            adjoint.weight_gradient() if of_weight else None,
            adjoint.bias_gradient() if of_bias else None,
            None,
            None,
        )


class _Adjoint:
    """The gradients of a product: first that of its input, which the ranks wait for."""

    def __init__(self, call: _Call, dy: Tensor, whole: Tensor, x: Sequence[Tensor]) -> None:
        self._call, self._product, self._whole, self._x = call, call.product, whole, x
        self._dy = dy.contiguous()
        self._pieces = _gather(self._product, self._product.target, self._dy, call.samples)

    def input_gradient(self) -> Tensor:
        """The gradient with respect to this rank's input, as stored."""
        product = self._product
        sums, dx = _contract(
            product,
            product.target,
            product.source,
            self._pieces,
            _Blocks(self._whole, product).backward,
            self._call.samples,
            None,
        )
        return sums.finish(dx)

    def weight_gradient(self) -> Tensor | None:
        """The gradient of this rank's weight; None where it is on its way when this returns."""
        weight = self._call.weight
        if weight.is_local:
            return self._whole_weight_gradient()
        if self._call.may_wait:
            current_pass().defer(weight.source, self._send_weight_gradient)
        else:
            self._send_weight_gradient(current_pass())
        return None

    def bias_gradient(self) -> Tensor | None:
        """The gradient of this rank's bias; None where it is on its way when this returns."""
        bias = self._call.bias
        assert bias is not None
        gradient = self._product.matrix(self._dy).sum(1, dtype=bias.source.parameter.dtype)
        if bias.is_local:
            return gradient
        current_pass().add(bias.source, gradient)
        return None

    def _send_weight_gradient(self, current: BackwardPass) -> None:
        product, axis = self._product, self._product.weight_axis
        source = self._call.weight.source
        whole = self._whole_weight_gradient()
        if axis.size == 1:
            current.add(source, whole)
            return
        rows = offsets(product.weight_rows)
        own = whole[_slice(rows[axis.index])]
        sums = ReduceScatter(axis)
        for place in axis.peers()[:-1]:
            sums.send(whole[_slice(rows[place])], own.shape)
        current.add_travelling(source, own, sums)

    def _whole_weight_gradient(self) -> Tensor:
        return _weight_gradient(self._product, self._pieces.wait(), self._x, self._call.samples)


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
