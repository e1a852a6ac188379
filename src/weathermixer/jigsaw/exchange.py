"""Data movement between the ranks of one axis: asynchronous, in pieces, counted.

Within a model instance everything is made of *rounds*: in round ``d`` each rank sends to the one
``d`` places after it and receives from the one ``d`` places before it. A gather and a
reduce-scatter over ``P`` ranks are ``P − 1`` rounds each, send what a ring would, need no equal
sizes, and hand over each piece as it arrives. Sums of what ranks hold alike are taken in the order
of the ranks, so their bits agree.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from weathermixer.jigsaw.collectives import begin_all_reduce
from weathermixer.jigsaw.in_flight import Fill, InFlight
from weathermixer.jigsaw.mesh import Axis


class Round(InFlight):
    """A tensor on its way to one peer, another on its way from one."""

    def __init__(
        self, axis: Axis, distance: int, send: Tensor, receive: Tensor, *, kind: str = "exchange"
    ) -> None:
        """Begin; ``send`` and ``receive`` are contiguous and belong to the round until it ends.

        ``kind`` names what the round is part of, such as ``all-gather``.
        Raises LayoutError where the mesh only describes its ranks.
        """
        axis.require_group()
        self._to = (axis.index + distance) % axis.size
        self._from = (axis.index - distance) % axis.size
        self._send, self._receive = send, receive
        operations = []
        # gloo sends to whom it was told that a receiver waits, and what tells it so would queue
        # behind what this rank sends: two ranks that each sent first would take turns.
        if receive.numel():
            operations.append(
                dist.P2POp(
                    dist.irecv, receive, group=axis.group, group_peer=self._from, tag=axis.tag
                )
            )
        if send.numel():
            operations.append(
                dist.P2POp(dist.isend, send, group=axis.group, group_peer=self._to, tag=axis.tag)
            )
            axis.counter.bytes_sent += send.numel() * send.element_size()
            axis.counter.messages += 1
        super().__init__(
            axis,
            max(send.numel(), receive.numel()) * send.element_size(),
            lambda: dist.batch_isend_irecv(operations) if operations else [],
            kind=kind,
            is_watched=send.device.type == "cpu",
        )

    def wait(self, fill: Fill | None = None) -> Tensor:
        """What was received, once both transfers are done; ``fill`` works until then."""
        self._end(fill)
        return self._receive

    def __str__(self) -> str:
        """Who it is exchanged with, such as ``rank 1 or 3 along tensor``."""
        ranks = self._axis.ranks
        peers = " or ".join(str(ranks[place]) for place in sorted({self._to, self._from}))
        return f"rank {peers} along {self._axis.name}"


class Gather:
    """All pieces of a tensor along an axis; each rank sends ``P − 1`` times its own piece.

    ``piece`` is what this rank holds; rank ``q`` of the axis holds a tensor of shape
    ``shapes[q]``.
    """

    def __init__(
        self,
        axis: Axis,
        piece: Tensor,
        shapes: Sequence[tuple[int, ...]],
        into: Sequence[Tensor] | None = None,
        *,
        dtype: torch.dtype | None = None,
        kind: str = "all-gather",
    ) -> None:
        """Begin. ``into`` is the memory that the pieces come in, in the order of the ranks.

        They travel in ``dtype``, by default their own. ``kind`` names what they are gathered for.
        """
        self._axis = axis
        if into is None:
            into = [
                piece if place == axis.index else piece.new_empty(shape)
                for place, shape in enumerate(shapes)
            ]
        elif into[axis.index] is not piece:
            into[axis.index].copy_(piece)
        self._pieces = list(into)
        self._rounds: dict[int, Round] = {}
        self._to_widen: set[int] = set()
        dtype = dtype or piece.dtype
        if axis.size > 1:
            piece = into[axis.index].contiguous().to(dtype)
        for distance in range(1, axis.size):
            source = (axis.index - distance) % axis.size
            receive = self._pieces[source]
            if receive.dtype != dtype:
                receive = torch.empty_like(
                    receive, dtype=dtype, memory_format=torch.contiguous_format
                )
                self._to_widen.add(source)
            self._rounds[source] = Round(axis, distance, piece, receive, kind=kind)

    def piece(self, place: int, fill: Fill | None = None) -> Tensor:
        """One rank's piece, once it is there."""
        if place in self._rounds:
            received = self._rounds[place].wait(fill)
            if place in self._to_widen:
                self._to_widen.remove(place)
                self._pieces[place].copy_(received)
        return self._pieces[place]

    def wait(self, fill: Fill | None = None) -> list[Tensor]:
        """The pieces in the order of the ranks."""
        for place in self._rounds:
            self.piece(place, fill)
        return self._pieces


class ReduceScatter:
    """Sums over an axis, of which each rank keeps one block.

    Give the blocks for the peers as they are ready, nearest following rank first, with ``send``;
    ``finish`` adds what the others made for it to this rank's own block. Each rank sends
    everything but its own block. Blocks travel in ``dtype``, by default their own.
    """

    def __init__(self, axis: Axis, *, dtype: torch.dtype | None = None) -> None:
        self._axis, self._dtype = axis, dtype
        self._rounds: list[Round] = []

    def send(
        self, block: Tensor, own_shape: tuple[int, ...], *, into: Tensor | None = None
    ) -> None:
        """Begin the next round with the block for its peer.

        What comes back may lie in ``into``, the memory that the sum is to be in.
        """
        distance = len(self._rounds) + 1
        block = block.to(self._dtype or block.dtype)
        fits = into is not None and into.dtype == block.dtype and into.is_contiguous()
        if self._rounds or into is None or not fits:
            into = block.new_empty(own_shape)
        self._rounds.append(Round(self._axis, distance, block, into, kind="reduce-scatter"))

    @property
    def rounds(self) -> Sequence[Round]:
        """The rounds that have begun."""
        return self._rounds

    @property
    def has_ended(self) -> bool:
        """Whether the others' contributions are known to be there."""
        return all(round_.has_ended for round_ in self._rounds)

    def finish(self, own: Tensor, *, out: Tensor | None = None, fill: Fill | None = None) -> Tensor:
        """The sum of ``own`` and the others' contributions, in ``out`` or else in their memory.

        Several contributions of a narrow type are summed in float32. The gradient of a weight may
        be of a wider type than what travels.
        """
        received = [round_.wait(fill) for round_ in self._rounds]
        if not received:
            return own if out is None else out.copy_(own)
        if len(received) > 1 and own.dtype.itemsize < 4:
            total = own.float()
            for other in received:
                total += other
            return (received[0] if out is None else out).copy_(total)
        for other in received[:-1]:
            own = torch.add(other, own, out=other if other.dtype == own.dtype else None)
        last = received[-1]
        if out is None and last.dtype == own.dtype:
            out = last
        return torch.add(last, own, out=out)


def all_gather(axis: Axis, tensor: Tensor) -> list[Tensor]:
    """The tensors of all ranks along an axis, in their order; each has the shape of this one."""
    return Gather(axis, tensor, [tuple(tensor.shape)] * axis.size).wait()


def all_to_all(
    axis: Axis, blocks: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]
) -> list[Tensor]:
    """What each rank along an axis has for this one, in their order; ``blocks`` are for them.

    ``shapes`` are those of what comes. Each rank sends everything but its own block.
    """
    received = list(blocks)
    rounds = {}
    for distance in range(1, axis.size):
        to, source = (axis.index + distance) % axis.size, (axis.index - distance) % axis.size
        into = blocks[to].new_empty(shapes[source])
        rounds[source] = Round(axis, distance, blocks[to].contiguous(), into, kind="all-to-all")
    for source, round_ in rounds.items():
        received[source] = round_.wait()
    return received


class AllReduce:
    """A sum over an axis on its way: to be asked for when it is needed."""

    def __init__(self, axis: Axis, tensor: Tensor) -> None:
        shapes = [tuple(tensor.shape)] * axis.size
        self._gather = Gather(axis, tensor, shapes, kind="all-reduce")

    def wait(self, fill: Fill | None = None) -> Tensor:
        """The sum, in the order of the ranks; of one rank, the tensor itself."""
        first, *others = self._gather.wait(fill)
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
    """The sum over several axes, with the same bits on all of their ranks.

    That over ``data`` is the backend's own, whose bytes do not grow with the number of replicas,
    but whose order is its own too, and may differ between lines of the mesh. So it is taken first:
    along the other axes, sums of the same numbers are taken in the order of the ranks.
    """
    for axis in sorted(axes, key=lambda axis: axis.name != "data"):
        if axis.name != "data":
            tensor = all_reduce(axis, tensor)
        elif axis.size > 1 and tensor.numel():
            own = tensor.clone(memory_format=torch.contiguous_format)
            tensor = begin_all_reduce(axis, own).wait()
    return tensor
