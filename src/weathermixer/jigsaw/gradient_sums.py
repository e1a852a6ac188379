"""Gradients summed over the ranks that make parts of them: over replicas, and within an instance.

Weights are summed over the replicas in buckets, while the backward pass goes on: each bucket is
reduce-scattered, and gathered where every replica needs all of it. Small parameters wait for the
end of the pass, and are summed together. Which exchanges are made, and in which order, follows from
the order in which the pass comes to the parameters and from nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from weathermixer.jigsaw.activity import ACTIVITY
from weathermixer.jigsaw.buckets import MOST_UNDERWAY, Bucket, Filling
from weathermixer.jigsaw.exchange import total_over
from weathermixer.jigsaw.lines import LineGather, LineSum
from weathermixer.jigsaw.mesh import Axis

_T = TypeVar("_T")


class Destination:
    """Where the parts of a parameter's gradient come together.

    They are summed over ``axes`` of a model instance, whose ranks hold the parameter alike, and
    over ``data``, the axis of the replicas. Of a weight, which is summed ``by_rows``, each replica
    sums its own: ``rows_over`` is then that axis, ``owned`` what the optimizer changes of the
    weight where that is these rows alone, and ``dtype`` what the rows travel in where that is not
    the type of the weight.
    """

    def __init__(
        self, axes: tuple[Axis, ...] = (), data: Axis | None = None, *, by_rows: bool = False
    ) -> None:
        self.axes = tuple(axis for axis in axes if axis.size > 1)
        self.data = data if data is not None and data.size > 1 else None
        self.rows_over = self.data if by_rows else None
        self.owned: nn.Parameter | None = None
        self.dtype: torch.dtype | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Destination:
        # The copy of a parameter has no optimizer yet.
        return Destination(self.axes, self.data, by_rows=self.rows_over is not None)

    @property
    def is_here(self) -> bool:
        """Whether no rank but this one sees a part of the gradient of its piece."""
        return not self.axes and self.data is None


@dataclass(eq=False)
class Part:
    """The gradient of one use of a weight, or of all uses of a small parameter, in one pass.

    ``outstanding`` counts what is computed or travels still; ``is_wanted`` once the pass has been
    through all uses on its way to the parameter, which it is not where nobody asked for that.
    """

    parameter: nn.Parameter
    destination: Destination
    total: Tensor | None = None
    outstanding: int = 0
    is_wanted: bool = False

    @property
    def is_known(self) -> bool:
        """Whether there is a gradient, and nothing of it is computed or travels still."""
        return self.total is not None and not self.outstanding

    @property
    def is_complete(self) -> bool:
        """Whether the gradient is known and wanted."""
        return self.is_known and self.is_wanted

    def add(self, gradient: Tensor) -> None:
        """Add to what is known."""
        gradient = gradient.to(self.parameter.dtype)
        self.total = gradient if self.total is None else self.total + gradient

    def deliver(self) -> None:
        """Add to the gradient of what the optimizer changes, if anybody asked for it."""
        if self.is_wanted and self.total is not None:
            owned = self.parameter if self.destination.owned is None else self.destination.owned
            owned.grad = self.total if owned.grad is None else owned.grad + self.total


class ReplicaSums:
    """The sums over the replicas of weights' gradients in one pass, begun as these become known."""

    def __init__(self) -> None:
        self._filling: Filling[Part] = Filling()
        self._underway: list[Iterator[None]] = []

    def add(self, part: Part) -> None:
        """Sum a gradient that is complete on this rank, and not to be added to."""
        parameter, destination = part.parameter, part.destination
        kind = (destination.data, parameter.dtype, destination.dtype, destination.owned is None)
        num_bytes = parameter.numel() * parameter.element_size()
        if num_bytes:
            for members in self._filling.add(part, num_bytes, kind):
                self._begin(members)
        elif destination.owned is not None:
            part.total = torch.empty_like(destination.owned)  # some rows of nothing

    def finish(self) -> None:
        """Leave its sum in each part, as far as this replica needs it."""
        for members in self._filling.rest():
            self._begin(members)
        self.wait()

    def wait(self) -> None:
        """Wait for the buckets that have begun their way, until they have ended it."""
        while self._underway:
            self._underway = _advanced(self._underway)

    def _begin(self, members: Sequence[Part]) -> None:
        # Those before go on by their number, not when they have arrived: that would be at another
        # moment on each rank, and so in another order.
        underway = self._underway + _advanced([_sum_over_replicas(members)])
        self._underway = _advanced(underway[:-MOST_UNDERWAY]) + underway[-MOST_UNDERWAY:]


def _advanced(sums: Iterable[Iterator[None]]) -> list[Iterator[None]]:
    """Take each sum a step further; returns those that have not ended by that."""
    ended = object()
    with ACTIVITY.at("gradients of weights"):
        return [each for each in sums if next(each, ended) is not ended]


def _sum_over_replicas(parts: Sequence[Part]) -> Iterator[None]:
    """Sum the gradients of a bucket; yields whenever something is on its way.

    Where a replica needs its own rows alone, the others are forgotten as soon as they are sent.
    """
    destination = parts[0].destination
    data, is_shared = destination.data, destination.owned is None
    assert data is not None
    bucket = Bucket([tuple(part.parameter.shape) for part in parts], data.size)
    totals = [part.total for part in parts if part.total is not None]
    sums = LineSum(data, bucket.lines(totals), destination.dtype or totals[0].dtype)
    if not is_shared:
        totals.clear()
        for part in parts:
            part.total = None
    yield
    line, lines = sums.wait(), sums.sent
    del sums
    if not is_shared:
        for part, own in zip(parts, bucket.owned(line, data.index), strict=True):
            part.total = own
        return
    # Into the memory of what was sent, which nobody needs any more.
    gather = LineGather(data, line.to(lines.dtype), lines)
    yield
    bucket.fill(totals, gather.wait())


def sum_shared(parts: Iterable[Part]) -> None:
    """Sum gradients of small parameters over the ranks that hold them alike, together."""
    small = [part for part in parts if part.destination.rows_over is None]
    # Over the replicas first: see total_over.
    for data, members in _grouped(small, lambda part: part.destination.data).items():
        if data is not None:
            _sum_over((data,), members)
    for axes, members in _grouped(small, lambda part: part.destination.axes).items():
        if axes:
            _sum_over(axes, members)


def _grouped(parts: Sequence[Part], key: Callable[[Part], _T]) -> dict[_T, list[Part]]:
    groups: dict[_T, list[Part]] = {}
    for part in parts:
        groups.setdefault(key(part), []).append(part)
    return groups


def _sum_over(axes: tuple[Axis, ...], parts: Sequence[Part]) -> None:
    """Sum gradients over the same axes, in one exchange for each."""
    totals = [part.total for part in parts if part.total is not None]
    with ACTIVITY.at("gradients of biases and gains"):
        flat = total_over(axes, torch.cat([total.flatten() for total in totals]))
    sizes = [total.numel() for total in totals]
    for part, total, values in zip(parts, totals, torch.split(flat, sizes), strict=True):
        part.total = values.view_as(total).clone()
