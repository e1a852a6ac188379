"""Gradients of weights: work that nobody waits for, made a little at a time in the waits of others.

What other ranks have parts of is made in slices of rows, which travel one by one; what is this
rank's alone, of each piece of columns that has been through its product.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial

import torch
from torch import Tensor

from weathermixer.jigsaw.activity import ACTIVITY
from weathermixer.jigsaw.backlog import BACKLOG
from weathermixer.jigsaw.columns import Activation, Columns
from weathermixer.jigsaw.count import Counter
from weathermixer.jigsaw.exchange import ReduceScatter
from weathermixer.jigsaw.gradients import BackwardPass, Source
from weathermixer.jigsaw.layout import offsets, shard
from weathermixer.jigsaw.pipeline import multiply_into
from weathermixer.jigsaw.product import Product


class WeightGradient:
    """``dW = dY Xᵀ``: all rows and columns that this rank's activations know something of."""

    def __init__(self, product: Product, dy: Activation, x: Activation) -> None:
        self._product, self._dy, self._x = product, dy, x

    @cached_property
    def _factors(self) -> tuple[list[Tensor], list[Tensor]]:
        return self._dy.matrices(), self._x.matrices()

    def whole(self) -> Tensor:
        """All of it ``(outputs, inputs)``, as far as this rank knows."""
        return self._rows(range(sum(self._product.weight_rows)))

    def defer(self, current: BackwardPass, source: Source, *, name: str) -> None:
        """Let it be made in waits, the other ranks' parts sent, and the sum given to a pass.

        ``name`` is that of the layer, for messages.
        """
        num_slices = self._product.gradient_slices(self._dy.dtype.itemsize)
        rows, axis = offsets(self._product.weight_rows), self._product.weight_axis.behind()
        parameter = source.parameter
        total = torch.empty_like(parameter)
        current.expect(source)

        def make(number: int) -> None:
            wanted = [_slice_of(here, num_slices, number) for here in rows]
            first = rows[axis.index].start
            here = wanted[axis.index]
            out = total[here.start - first : here.stop - first]
            then = partial(current.give, source, total) if number == num_slices - 1 else None
            sums = ReduceScatter(axis, dtype=axis.travels_in(self._dy.dtype))
            with ACTIVITY.at(f"{name}, gradient of the weight"):
                for place in axis.peers()[:-1]:
                    sums.send(self._rows(wanted[place]), tuple(out.shape))
            is_whole = axis.size == 1 and self._dy.dtype == total.dtype
            own = self._rows(here, out if is_whole else None)
            BACKLOG.travel(sums, own, out, then)

        for number in range(num_slices):
            BACKLOG.defer(partial(make, number), is_shared=axis.size > 1)

    def _rows(self, wanted: range, out: Tensor | None = None) -> Tensor:
        outputs, inputs = self._factors
        if out is None:
            out = inputs[0].new_empty(len(wanted), sum(len(matrix) for matrix in inputs))
        for here, dy in zip(offsets([len(matrix) for matrix in outputs]), outputs, strict=True):
            first, last = max(wanted.start, here.start), min(wanted.stop, here.stop)
            if first < last:
                left = dy[first - here.start : last - here.start]
                into = out[first - wanted.start : last - wanted.start]
                _multiply(into, left, inputs, self._product.along.counter)
        return out


class GradientByPieces:
    """The gradient of a weight of which no other rank has parts, piece of columns by piece.

    Each is added when it has been through the product, and so in the waits for those after it.
    """

    def __init__(
        self, product: Product, dy: Activation, x: Activation, current: BackwardPass, source: Source
    ) -> None:
        self._counter, self._dy, self._x = product.along.counter, dy, x
        self._current, self._source = current, source
        self._total = torch.empty_like(source.parameter)
        current.expect(source)

    @staticmethod
    def serves(product: Product, columns: Columns, dtype: torch.dtype, source: Source) -> bool:
        """Whether there are pieces, and their sum loses nothing by the type that it is taken in."""
        is_alone = product.weight_axis.size == 1
        return is_alone and len(columns.parts) > 1 and dtype == source.parameter.dtype

    def defer(self, number: int) -> None:
        """Let what a piece adds be made in a wait; the sum is given to the pass by the last."""
        BACKLOG.defer(partial(self._add, number), is_shared=False)

    def _add(self, number: int) -> None:
        outputs, inputs = self._dy.matrices(number), self._x.matrices(number)
        for here, dy in zip(offsets([len(matrix) for matrix in outputs]), outputs, strict=True):
            into = self._total[here.start : here.stop]
            _multiply(into, dy, inputs, self._counter, accumulate=number > 0)
        if number == len(self._dy.columns.parts) - 1:
            self._current.give(self._source, self._total)


def _multiply(
    out: Tensor,
    left: Tensor,
    inputs: Sequence[Tensor],
    counter: Counter,
    *,
    accumulate: bool = False,
) -> None:
    """``out = left Xᵀ``, or that added to it, for ``X`` whose features lie in several matrices."""
    for there, x in zip(offsets([len(matrix) for matrix in inputs]), inputs, strict=True):
        into = out[:, there.start : there.stop]
        multiply_into(into, left, x.t(), counter, accumulate=accumulate)


def _slice_of(rows: range, num_slices: int, number: int) -> range:
    part = shard(len(rows), num_slices, number)
    return range(rows.start + part.start, rows.start + part.stop)
