"""Data movement between the ranks of one axis: asynchronous, in pieces, counted.

Everything is made of *rounds*: in round ``d`` each rank sends to the one ``d`` places after it and
receives from the one ``d`` places before it. A gather and a reduce-scatter over ``P`` ranks are
``P − 1`` rounds each, send what a ring would, need no equal sizes, and hand over each piece as it
arrives. Sums of what ranks hold alike are taken in the order of the ranks, so their bits agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from weathermixer.jigsaw.activity import ACTIVITY
from weathermixer.jigsaw.mesh import Axis, RankLost


class Round:
    """An exchange in flight: a tensor on its way to one peer, another on its way from one.

    The mesh holds it until both have arrived. Whoever began it may forget it, as a pass that is
    broken off does: what was sent for it still finds its place, and not that of the next exchange.
    """

    def __init__(self, axis: Axis, distance: int, send: Tensor, receive: Tensor) -> None:
        """Begin; ``send`` and ``receive`` are contiguous and belong to the round until it ends.

        Raises LayoutError where the mesh only describes its ranks.
        """
        axis.require_group()
        self._axis = axis
        self._to = (axis.index + distance) % axis.size
        self._from = (axis.index - distance) % axis.size
        self._send, self._receive = send, receive
        self._num_bytes = max(send.numel(), receive.numel()) * send.element_size()
        operations = []
        if send.numel():
            operations.append(dist.P2POp(dist.isend, send, group=axis.group, group_peer=self._to))
            axis.counter.bytes_sent += send.numel() * send.element_size()
            axis.counter.messages += 1
        if receive.numel():
            operations.append(
                dist.P2POp(dist.irecv, receive, group=axis.group, group_peer=self._from)
            )
        axis.counter.calls += bool(operations)
        try:
            self._works = dist.batch_isend_irecv(operations) if operations else []
        except RuntimeError as error:
            raise self._lost(error) from error
        axis.in_flight.add(self)
        ACTIVITY.exchanges += 1
        if not axis.overlap:
            self.wait()

    def wait(self) -> Tensor:
        """What was received, once both transfers are done."""
        if self in self._axis.in_flight:
            try:
                with ACTIVITY.waiting_for(self, self._num_bytes):
                    for work in self._works:
                        work.wait()
            except RuntimeError as error:
                raise self._lost(error) from error
            self._axis.in_flight.remove(self)
            self._works = []
        return self._receive

    def __str__(self) -> str:
        """Who it is exchanged with, such as ``rank 1 or 3 along tensor``."""
        ranks = self._axis.ranks
        peers = " or ".join(str(ranks[place]) for place in sorted({self._to, self._from}))
        return f"rank {peers} along {self._axis.name}"

    def _lost(self, error: RuntimeError) -> RankLost:
        return RankLost(
            f"rank {self._axis.ranks[self._axis.index]} lost its connection to {self} "
            f"{ACTIVITY.now().place()} ({error})"
        )


class Gather:
    """All pieces of a tensor along an axis, this rank's own first, then the others as they come.

    ``piece`` is what this rank holds; rank ``q`` of the axis holds a tensor of shape
    ``shapes[q]``. Each rank sends ``P − 1`` times its own piece.
    """

    def __init__(
        self,
        axis: Axis,
        piece: Tensor,
        shapes: Sequence[tuple[int, ...]],
        into: Tensor | None = None,
    ) -> None:
        """Begin. ``into`` is to be filled with all pieces' rows, in the order of the ranks."""
        self._axis = axis
        self._pieces: dict[int, Tensor] = {axis.index: piece}
        self._rounds: dict[int, Round] = {}
        into_pieces = None if into is None else torch.split(into, [shape[0] for shape in shapes])
        if into_pieces is not None:
            into_pieces[axis.index].copy_(piece)
            piece = self._pieces[axis.index] = into_pieces[axis.index]
        if axis.size > 1:
            piece = piece.contiguous()
        for distance in range(1, axis.size):
            source = (axis.index - distance) % axis.size
            receive = (
                piece.new_empty(shapes[source]) if into_pieces is None else into_pieces[source]
            )
            self._rounds[source] = Round(axis, distance, piece, receive)

    def arrivals(self) -> Iterator[tuple[int, Tensor]]:
        """Each rank's place and piece. The order is fixed, so that sums have the same bits."""
        yield self._axis.index, self._pieces[self._axis.index]
        for source, round_ in self._rounds.items():
            self._pieces[source] = round_.wait()
            yield source, self._pieces[source]

    def wait(self) -> list[Tensor]:
        """The pieces in the order of the ranks."""
        for _ in self.arrivals():
            pass
        return [self._pieces[place] for place in range(self._axis.size)]


class ReduceScatter:
    """Sums over an axis, of which each rank keeps one block.

    Give the blocks for the peers as they are ready, nearest following rank first, with ``send``;
    ``finish`` adds what the others made for it to this rank's own block. Each rank sends
    everything but its own block.
    """

    def __init__(self, axis: Axis) -> None:
        self._axis = axis
        self._rounds: list[Round] = []

    def send(self, block: Tensor, own_shape: tuple[int, ...]) -> None:
        """Begin the next round with the block for its peer."""
        distance = len(self._rounds) + 1
        receive = block.new_empty(own_shape)
        self._rounds.append(Round(self._axis, distance, block, receive))

    def finish(self, own: Tensor) -> Tensor:
        """The sum of ``own`` and the others' contributions, in the memory that these came in."""
        for round_ in self._rounds:
            received = round_.wait()
            # The gradient of a weight may be of a wider type than what travels.
            own = received.add_(own) if received.dtype == own.dtype else own + received
        return own

    def let_go(self) -> None:
        """Wait for the others' contributions, which nobody wants."""
        for round_ in self._rounds:
            round_.wait()


def all_gather(axis: Axis, tensor: Tensor) -> list[Tensor]:
    """The tensors of all ranks along an axis, in their order; each has the shape of this one."""
    return Gather(axis, tensor, [tuple(tensor.shape)] * axis.size).wait()


class AllReduce:
    """A sum over an axis on its way: to be asked for when it is needed."""

    def __init__(self, axis: Axis, tensor: Tensor) -> None:
        self._gather = Gather(axis, tensor, [tuple(tensor.shape)] * axis.size)

    def wait(self) -> Tensor:
        """The sum, in the order of the ranks; of one rank, the tensor itself."""
        first, *others = self._gather.wait()
        if not others:
            return first
        total = first.clone()
        for other in others:
            total += other
        return total


def all_reduce(axis: Axis, tensor: Tensor) -> Tensor:
    """The sum over an axis, with the same bits on each of its ranks."""
    return AllReduce(axis, tensor).wait()


def total_over(axes: Sequence[Axis], tensor: Tensor) -> Tensor:
    """The sum over several axes, with the same bits on all of their ranks."""
    for axis in axes:
        tensor = all_reduce(axis, tensor)
    return tensor
