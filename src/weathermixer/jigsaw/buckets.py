"""Weights that travel between replicas together: how their rows lie in one buffer.

Each exchange between replicas has its latency, whatever it carries, so weights travel in *buckets*
that are worth it. What travels, and when, is for others to say (gradients.py, replicas.py).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Generic, TypeVar

from torch import Tensor

from weathermixer.jigsaw.layout import equal_shards, offsets, shard

# A bucket is sent when it has so many bytes. Among 256 replicas they are parts of 128 KiB each, of
# which a fast network still sends most of the time; and the published network's gradients, of 1 GiB
# on each of four ranks, are a dozen buckets, of which all but one travel beside other work.
BUCKET_BYTES = 32 * 2**20
# Buckets whose sums are on their way at one time: one beside the work that fills the next, and one
# more where work and bytes are shared out unevenly. It bounds the memory that they take.
MOST_UNDERWAY = 2

_T = TypeVar("_T")


class Filling(Generic[_T]):
    """Weights, or what stands for them, laid into buckets one by one, in one order on all ranks.

    A bucket is full at ``BUCKET_BYTES``, and takes one kind of weight.
    """

    def __init__(self) -> None:
        self._members: list[_T] = []
        self._num_bytes = 0
        self._kind: Hashable = None

    def add(self, member: _T, num_bytes: int, kind: Hashable) -> Iterator[list[_T]]:
        """Lay it into the bucket; yield the members of each that is complete by that."""
        if kind != self._kind:
            yield from self.rest()
        self._members.append(member)
        self._num_bytes, self._kind = self._num_bytes + num_bytes, kind
        if self._num_bytes >= BUCKET_BYTES:
            yield from self.rest()

    def rest(self) -> Iterator[list[_T]]:
        """Yield the members of the last bucket, if there are any."""
        members, self._members, self._num_bytes = self._members, [], 0
        if members:
            yield members


class Bucket:
    """The rows of some weights as ``lines (replicas, elements)``: each replica owns a line.

    Replica ``q`` owns part ``q`` of each weight's rows. Its line has these of one weight after the
    other. Where a weight's rows do not divide evenly, lines of replicas with one row less have a
    gap in its place.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], replicas: int) -> None:
        """Weights of ``shapes (rows, columns)``, of which each has an element or more."""
        self._shapes, self._replicas = shapes, replicas
        self._places = offsets(
            [len(shard(rows, replicas, 0)) * columns for rows, columns in shapes]
        )
        self.line_elements = self._places[-1].stop
        # One weight whose rows divide evenly is its own lines.
        self.is_one_weight = len(shapes) == 1 and shapes[0][0] % replicas == 0

    def lines(self, weights: Sequence[Tensor]) -> Tensor:
        """The lines of weights: in their own memory where they can be, or else in new one."""
        if self.is_one_weight:
            return weights[0].view(self._replicas, -1)
        lines = weights[0].new_empty(self._replicas, self.line_elements)
        for in_lines, in_weight in self._runs(lines, weights):
            in_lines.copy_(in_weight)
        return lines

    def fill(self, weights: Sequence[Tensor], lines: Tensor) -> None:
        """Put lines into the weights that they are of, unless they are the weights' own memory."""
        if self.is_one_weight and lines.dtype == weights[0].dtype:
            return
        for in_lines, in_weight in self._runs(lines, weights):
            in_weight.copy_(in_lines)

    def owned(self, line: Tensor, replica: int) -> list[Tensor]:
        """What a replica owns of each weight ``(rows, columns)``, in the memory of its line."""
        return [
            line[place.start : place.start + own * columns].view(own, columns)
            for place, own, columns in (
                (place, len(shard(rows, self._replicas, replica)), columns)
                for place, (rows, columns) in zip(self._places, self._shapes, strict=True)
            )
        ]

    def _runs(self, lines: Tensor, weights: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """The same elements in lines and in weights: ``(replicas, rows, columns)`` of some each."""
        for place, (rows, columns), weight in zip(self._places, self._shapes, weights, strict=True):
            start = 0
            for owners, own in equal_shards(rows, self._replicas):
                taken = lines[owners.start : owners.stop, place.start : place.start + own * columns]
                stop = start + len(owners) * own
                yield (
                    taken.view(len(owners), own, columns),
                    weight[start:stop].view(len(owners), own, columns),
                )
                start = stop
