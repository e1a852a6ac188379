"""Distributed products ``Y = W X`` and their adjoints, on the pieces that ranks hold.

Features are what a product contracts, rows what it leaves alone; a rank holds some features of some
rows of each activation. *Along* is the axis that features are cut over, *across* the one that rows
are cut over, of ``A`` and ``O`` ranks. Four schemes differ in what moves:

========  =====================  ==========================  ====================
scheme    gathered beforehand    reduce-scattered afterwards  where the output lies
========  =====================  ==========================  ====================
reduce    weight, across         output features, along       as the input
gather    weight, across;        nothing                      as the input
          input features, along
turn      input rows, across     output features, along       turned: all rows
fold      input features, along  output rows, across          as before the turn
========  =====================  ==========================  ====================

In ``turn`` and ``fold`` no weight moves. A *turned* activation, which only ``turn`` makes and only
``fold`` takes, has all rows, and its features are cut over both axes. The gradient of the input is
the same kind of product with transposed weight, gather and reduce-scatter exchanged; that of the
weight is reduce-scattered to where the weight is held. Per product and rank, with ``F`` input
and ``G`` output features and ``R`` rows, the forward pass multiplies ``F G R / (A O)`` numbers in
each scheme, and so do both of the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from weathermixer.jigsaw.exchange import Gather, ReduceScatter
from weathermixer.jigsaw.layout import Block, Dimension, LayoutError, offsets, shard
from weathermixer.jigsaw.mesh import Axis

Scheme = Literal["reduce", "gather", "turn", "fold"]


@dataclass(frozen=True)
class Side:
    """An activation on one side of a product: what each rank of an axis holds of it.

    Rank ``q`` holds ``features[q]`` features of ``rows[q]`` rows (per sample). ``by_rows`` says
    that the ranks hold different rows of the same features, and not the other way round.
    """

    axis: Axis
    features: tuple[int, ...]
    rows: tuple[int, ...]
    by_rows: bool = False


@dataclass(frozen=True)
class Product:
    """One linear map as this rank takes part in it: its scheme, and who holds what.

    ``inputs`` and ``outputs`` are features, ``rows`` is what they are features of, each cut as the
    dimension says. ``features_first`` tells whether activations are stored ``(features, rows)``
    or ``(rows, features)``. The hidden dimension between ``turn`` and ``fold`` has single elements
    in one section, as ``outputs`` has whenever output features are scattered.
    """

    scheme: Scheme
    inputs: Dimension
    outputs: Dimension
    rows: Dimension
    along: Axis
    across: Axis
    features_first: bool

    def __post_init__(self) -> None:
        """Raise LayoutError for a cut that the scheme cannot follow."""
        turned = {"turn": self.outputs, "fold": self.inputs}.get(self.scheme)
        if turned is not None and (len(turned.sections) > 1 or turned.unit > 1):
            raise LayoutError(
                f"the scheme {self.scheme} turns a hidden dimension of single elements in one "
                f"section, but this one is {turned}: choose another scheme"
            )
        if self.scheme in ("reduce", "gather") and len(self.outputs.sections) > 1:
            raise LayoutError(
                f"the scheme {self.scheme} makes outputs of one section, but these are "
                f"{self.outputs}: apply one layer for each section"
            )

    @cached_property
    def source(self) -> Side:
        """The input, and the axis that it is gathered over."""
        own_rows, own_features = self._own_rows, self._own(self.inputs)
        if self.scheme == "reduce":
            return Side(_alone(self.along), (own_features,), (own_rows,))
        if self.scheme == "gather":
            sizes = self.inputs.sizes(self.along.size)
            return Side(self.along, sizes, (own_rows,) * self.along.size)
        if self.scheme == "turn":
            rows = self.rows.sizes(self.across.size)
            return Side(self.across, (own_features,) * self.across.size, rows, by_rows=True)
        return Side(self.along, self._turned(self.inputs), (self.rows.size,) * self.along.size)

    @cached_property
    def target(self) -> Side:
        """The output, and the axis that partial sums of it are reduce-scattered over."""
        own_rows, own_features = self._own_rows, self._own(self.outputs)
        if self.scheme == "reduce":
            sizes = self.outputs.sizes(self.along.size)
            return Side(self.along, sizes, (own_rows,) * self.along.size)
        if self.scheme == "gather":
            return Side(_alone(self.along), (own_features,), (own_rows,))
        if self.scheme == "turn":
            return Side(self.along, self._turned(self.outputs), (self.rows.size,) * self.along.size)
        rows = self.rows.sizes(self.across.size)
        return Side(self.across, (own_features,) * self.across.size, rows, by_rows=True)

    @cached_property
    def weight_axis(self) -> Axis:
        """The axis that the weight is gathered over, and its gradient reduce-scattered."""
        if self.scheme in ("reduce", "gather"):
            return self.across.in_background()
        return _alone(self.across)

    @cached_property
    def weight_rows(self) -> tuple[int, ...]:
        """Rows of the weight that each rank of ``weight_axis`` holds of what is used here."""
        if self.scheme == "reduce":
            total = self.outputs.size
        elif self.scheme == "gather":
            total = self._own(self.outputs)
        else:
            return (self.weight.local_shape[0],)
        return tuple(
            len(shard(total, self.across.size, place)) for place in range(self.across.size)
        )

    @cached_property
    def weight(self) -> Block:
        """The block of the weight ``(outputs, inputs)`` that this rank holds."""
        shape = (self.outputs.size, self.inputs.size)
        parts, place = self.across.size, self.across.index
        own_inputs = self.inputs.ranges(self.along.size, self.along.index)
        if self.scheme in ("reduce", "turn"):
            return Block(shape, ((shard(self.outputs.size, parts, place),), own_inputs))
        own_outputs = self.outputs.ranges(self.along.size, self.along.index)
        if self.scheme == "gather":
            (outputs,) = own_outputs
            part = shard(len(outputs), parts, place)
            columns = tuple(
                piece
                for owner in range(self.along.size)
                for piece in self.inputs.ranges(self.along.size, owner)
            )
            return Block(shape, ((outputs[part.start : part.stop],), columns))
        return Block(shape, (own_outputs, (shard(self.inputs.size, parts, place),)))

    @cached_property
    def bias(self) -> Block:
        """The part of the bias ``(outputs,)`` that this rank adds."""
        if self.scheme == "turn":
            hidden = shard(self.outputs.size, self.across.size, self.across.index)
            part = shard(len(hidden), self.along.size, self.along.index)
            return Block((self.outputs.size,), ((hidden[part.start : part.stop],),))
        ranges = self.outputs.ranges(self.along.size, self.along.index)
        return Block((self.outputs.size,), (ranges,))

    @property
    def bias_axes(self) -> tuple[Axis, ...]:
        """Axes whose ranks hold the same part of the bias, each seeing a part of its gradient."""
        return () if self.scheme == "turn" else (self.across,)

    def matrix(self, stored: Tensor) -> Tensor:
        """``(features, rows)`` of an activation's matrix as stored."""
        return stored if self.features_first else stored.t()

    def stored_shape(self, features: int, rows: int) -> tuple[int, int]:
        return (features, rows) if self.features_first else (rows, features)

    @property
    def _own_rows(self) -> int:
        return self.rows.sizes(self.across.size)[self.across.index]

    def _own(self, features: Dimension) -> int:
        return features.sizes(self.along.size)[self.along.index]

    def _turned(self, hidden: Dimension) -> tuple[int, ...]:
        own = len(shard(hidden.size, self.across.size, self.across.index))
        return tuple(len(shard(own, self.along.size, place)) for place in range(self.along.size))


def multiply(x: Tensor, weight: Tensor, bias: Tensor, whole: Tensor, product: Product) -> Tensor:
    """``W x + b``, differentiable.

    ``x`` is this rank's matrix of the input as stored, ``weight`` and ``bias`` its blocks, and
    ``whole`` the weight gathered over ``product.weight_axis`` (``weight`` itself where that is one
    rank), in the type of ``x``. The result is this rank's matrix of the output.
    """
    y: Tensor = _Multiply.apply(x, weight, bias, whole, product)  # type: ignore[no-untyped-call]
    return y


class _Multiply(torch.autograd.Function):
    """The product, the gradient of its input and that of its weight, side by side.

    Forward: ``Y[p] = Σ_q W[p, q] X[q]`` over gathered pieces ``q``, reduce-scattered over ``p``.
    Backward: ``dX[q] = Σ_p W[p, q]ᵀ dY[p]`` over gathered pieces ``p``, reduce-scattered over
    ``q``; ``dW[p, q] = dY[p] X[q]ᵀ``, reduce-scattered over ``weight_axis``. Since a gather and
    a reduce-scatter over the same axis are adjoint, these are the gradients of the forward product.
    What the others wait for is computed and sent first; this rank's own part, while it travels.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, whole: Tensor, product: Product
    ) -> Tensor:
        source, target = product.source, product.target
        samples = _samples(x, product)
        pieces = _gather(product, source, x, samples)
        blocks = _Blocks(whole, product)
        sums, y = _contract(
            product, source, target, pieces, blocks.forward, samples, bias.to(x.dtype)
        )
        ctx.save_for_backward(whole, *pieces.wait())
        ctx.product, ctx.samples, ctx.weight_dtype = product, samples, weight.dtype
        ctx.bias_dtype = bias.dtype
        return sums.finish(y)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
        whole, *x = ctx.saved_tensors
        product: Product = ctx.product
        source, target = product.source, product.target
        dy = dy.contiguous()
        pieces = _gather(product, target, dy, ctx.samples)
        input_sums, dx = None, None
        if ctx.needs_input_grad[0]:
            blocks = _Blocks(whole, product)
            input_sums, dx = _contract(
                product, target, source, pieces, blocks.backward, ctx.samples, None
            )
        if input_sums is not None and dx is not None:
            dx = input_sums.finish(dx)
            del input_sums
        gradient = _WeightGradient(product, pieces.wait(), x, ctx.samples)
        weight_sums, dw = gradient.reduce()
        dbias = product.matrix(dy).sum(1, dtype=ctx.bias_dtype)
        return dx, weight_sums.finish(dw).to(ctx.weight_dtype), dbias, None, None


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


class _WeightGradient:
    """``dW = dY Xᵀ`` in blocks of rows, one for each rank that holds some of them."""

    def __init__(
        self, product: Product, dy: Sequence[Tensor], x: Sequence[Tensor], samples: int
    ) -> None:
        self._product = product
        self._dy = [product.matrix(piece) for piece in dy]
        self._x = [product.matrix(piece) for piece in x]
        self._dy_rows = offsets([rows * samples for rows in product.target.rows])
        self._x_rows = offsets([rows * samples for rows in product.source.rows])

    def reduce(self) -> tuple[ReduceScatter, Tensor]:
        """The peers' blocks are sent; this rank's own is returned, to finish the sum with."""
        axis = self._product.weight_axis
        rows = offsets(self._product.weight_rows)
        sums = ReduceScatter(axis)
        own_shape = self._product.weight.local_shape
        for place in axis.peers()[:-1]:
            sums.send(self._block(rows[place]), own_shape)
        return sums, self._block(rows[axis.index])

    def _block(self, rows: range) -> Tensor:
        source, target = self._product.source, self._product.target
        columns = offsets(source.features)
        outputs = offsets(target.features)
        width = source.features[0] if source.by_rows else columns[-1].stop
        block = self._x[0].new_empty(len(rows), width)
        for p, dy in enumerate(self._dy):
            part = rows
            if not target.by_rows:
                # A cut of the output's features need not be one of the weight's rows.
                part = range(max(rows.start, outputs[p].start), min(rows.stop, outputs[p].stop))
                dy = dy[part.start - outputs[p].start : max(part.stop - outputs[p].start, 0)]
            if not len(part):
                continue
            out_rows = block[part.start - rows.start : part.stop - rows.start]
            for q, x in enumerate(self._x):
                _multiply_into(
                    out_rows if source.by_rows else out_rows[:, _slice(columns[q])],
                    dy[:, _slice(self._x_rows[q])] if source.by_rows else dy,
                    (x[:, _slice(self._dy_rows[p])] if target.by_rows else x).t(),
                    source.axis,
                    accumulate=(source.by_rows and q > 0) or (target.by_rows and p > 0),
                )
        return block


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


def _alone(axis: Axis) -> Axis:
    """The axis of this rank and no other, over which nothing moves."""
    return replace(axis, ranks=(axis.ranks[axis.index],), index=0, group=None)


def _slice(part: range) -> slice:
    return slice(part.start, part.stop)
