"""Pieces of columns on their way through products: some travel while others compute.

The columns of a product do not know of each other, so they are cut into pieces, and each piece is a
coroutine that gathers, multiplies, sends and sums, and lets the others work before it waits. The
order in which they take turns depends on their number alone: every rank exchanges in the same
order, and an accelerator is given its work in it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weathermixer.jigsaw.activity import ACTIVITY
from weathermixer.jigsaw.columns import Activation, Columns, to_slice
from weathermixer.jigsaw.count import Counter
from weathermixer.jigsaw.exchange import ReduceScatter
from weathermixer.jigsaw.in_flight import Fill
from weathermixer.jigsaw.layout import offsets
from weathermixer.jigsaw.weights import FetchedWeight

# The block of a weight that connects piece ``p`` of the output to piece ``q`` of the input.
BlockOf = Callable[[int, int], Tensor]


def take_turns(pieces: Sequence[Iterator[None]]) -> None:
    """Run coroutines to their ends: before each goes on, those that began after it have a turn.

    Between what a piece sends and its wait for what others sent, the next piece computes.
    """
    to_begin, under_way = deque(pieces), deque[Iterator[None]]()
    while to_begin or under_way:
        if to_begin:
            under_way.appendleft(to_begin.popleft())
        under_way = deque(piece for piece in under_way if next(piece, "ended") is None)


@dataclass(frozen=True)
class Contraction:
    """A product in one direction: what it makes of an activation, and with which weights.

    The blocks are those of ``arriving``, where rows of a weight were on their way when it began.
    What is done ``then`` begins as soon as the last piece has nothing more to send.
    """

    target: Columns
    block: BlockOf
    where: str
    bias: Tensor | None = None
    arriving: FetchedWeight | None = None
    then: Callable[[], None] | None = None

    def of(
        self, x: Activation, number: int, out: Tensor, fill: Fill | None = None
    ) -> Iterator[None]:
        """Make a piece ``Σ_q block(p, q) · piece(q)`` of the output, ``out (features, columns)``.

        What the others wait for is computed and sent first; this rank's own part, while it travels.
        Where rows of the weight travel too, the others come first.
        """
        source, target = x.columns, self.target
        axis, own = target.side.axis, target.side.axis.index
        stored = target.side.matrix(out)
        sums = ReduceScatter(axis, dtype=axis.travels_in(out.dtype))
        outputs = {own: out} if axis.size == 1 else {}
        # Of the others, the nearest before this rank sends first.
        here, *places = reversed(x.side.axis.peers())

        def multiply(p: int, q: int, piece: Tensor, rows: range) -> None:
            ACTIVITY.where = self.where
            if p not in outputs:
                num_columns = len(target.parts[number][p])
                shape = target.side.shape(target.side.features[p], num_columns)
                outputs[p] = target.side.matrix(piece.new_empty(shape))
            if not rows:
                return
            taken = to_slice(rows)
            multiply_into(
                outputs[p][taken, source.within[number][q]],
                self.block(p, q)[taken],
                piece[:, target.within[number][p]],
                axis.counter,
                start=self.bias[taken] if self.bias is not None and p == own else None,
                accumulate=q != here and not source.is_by_rows,
            )

        ACTIVITY.where = self.where
        x.begin(number)
        early: dict[int, range] = {}
        if self.arriving is not None:
            if self.arriving.is_arriving:
                blocks = offsets(target.side.features)
                early = {p: _common(self.arriving.own, blocks[p]) for p in axis.peers()}
                for p, rows in early.items():
                    multiply(p, here, x.piece(here, number, fill), rows)
            yield  # in every piece, so that none overtakes another
            self.arriving.wait()
        for q in (here, *places):
            if q != here:
                yield
            piece = x.piece(q, number, fill)
            for p in axis.peers():
                done = early.get(p, range(0)) if q == here else range(0)
                multiply(p, q, piece, range(done.start))
                multiply(p, q, piece, range(done.stop, target.side.features[p]))
                if q == (here, *places)[-1] and p != own:
                    block = target.side.matrix(outputs.pop(p))
                    sums.send(block, tuple(stored.shape), into=stored)
        if self.then is not None and number == len(target.parts) - 1:
            self.then()
        if axis.size > 1:
            yield
            sums.finish(target.side.matrix(outputs[own]), out=stored, fill=fill)


def multiply_into(
    out: Tensor,
    left: Tensor,
    right: Tensor,
    counter: Counter,
    *,
    start: Tensor | None = None,
    accumulate: bool = False,
) -> None:
    """``out = left · right``, counted: on top of ``out`` itself or of ``start``, one per row."""
    counter.multiply_adds += left.shape[0] * left.shape[1] * right.shape[1]
    if accumulate:
        out.addmm_(left, right)
    elif start is not None:
        torch.addmm(start[:, None], left, right, out=out)
    else:
        torch.mm(left, right, out=out)


def _common(part: range, block: range) -> range:
    """What a part has of a block, counted from where the block begins."""
    start, stop = (min(max(end, block.start), block.stop) for end in (part.start, part.stop))
    return range(start - block.start, stop - block.start)
