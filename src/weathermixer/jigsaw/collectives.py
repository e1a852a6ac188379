"""Exchanges of all ranks of an axis, as the backend's own collectives: asynchronous, counted.

They are for what replicas exchange: as many elements on each rank, however many ranks there are. A
collective is one call of the backend, and sends what a ring would. What has uneven pieces, or is
used piece by piece as it arrives, goes in rounds (exchange.py).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from weathermixer.jigsaw.in_flight import InFlight
from weathermixer.jigsaw.mesh import Axis

# Backends whose reduce-scatter sends what a ring would, and adds up within a machine before it
# leaves it. That of gloo is an all-reduce of which most is thrown away: twice the bytes.
SUMMING_BACKENDS = {"nccl"}


class Collective(InFlight):
    """A collective on its way, whose result is ``result`` when it has ended.

    This rank sends ``sent`` elements of what is ``given``, in so many ``messages``.
    """

    def __init__(
        self, axis: Axis, begin: Any, given: Tensor, result: Tensor, *, sent: int, messages: int
    ) -> None:
        """Begin; both tensors are contiguous and belong to the collective until it ends.

        Raises LayoutError where the mesh only describes its ranks.
        """
        axis.require_group()
        self._given, self._result = given, result
        axis.counter.bytes_sent += sent * given.element_size()
        axis.counter.messages += messages
        num_bytes = result.numel() * result.element_size()
        super().__init__(axis, num_bytes, lambda: [begin(group=axis.group, async_op=True)])

    def wait(self) -> Tensor:
        """The result."""
        self._end()
        return self._result

    def __str__(self) -> str:
        """Who takes part, such as ``one of the 3 other ranks along data``."""
        others = self._axis.size - 1
        which = "the other rank" if others == 1 else f"one of the {others} other ranks"
        return f"{which} along {self._axis.name}"


def begin_all_reduce(axis: Axis, tensor: Tensor) -> Collective:
    """Begin to sum ``tensor`` over an axis in place, with the same bits on each of its ranks."""
    others = axis.size - 1
    return Collective(
        axis,
        lambda **options: dist.all_reduce(tensor, **options),
        tensor,
        tensor,
        sent=2 * others * tensor.numel() // axis.size,
        messages=2 * others,
    )


def begin_all_gather(axis: Axis, line: Tensor, lines: Tensor) -> Collective:
    """Begin to fill ``lines (ranks, n)`` with the ``line (n,)`` of each rank along an axis.

    ``line`` may be this rank's own among ``lines``.
    """
    others = axis.size - 1
    return Collective(
        axis,
        lambda **options: dist.all_gather_single(lines.flatten(), line, **options),
        line,
        lines,
        sent=others * line.numel(),
        messages=others,
    )


class LineSum:
    """The sum over an axis of ``lines (ranks, n)``, of which each rank gets its own line ``(n,)``.

    They travel in ``dtype``, and are summed in the type that they are given in. ``sent`` is what
    travels: the lines themselves where they are of the type, which belong to the sum until it ends.
    """

    def __init__(self, axis: Axis, lines: Tensor, dtype: torch.dtype) -> None:
        """Begin. One rank takes the sum of a line, so its order is nobody else's concern."""
        self._dtype = lines.dtype
        self.sent = sent = lines.to(dtype)
        is_summed = sent is lines and dist.get_backend(axis.group) in SUMMING_BACKENDS
        received = sent.new_empty(sent.shape[1]) if is_summed else torch.empty_like(sent)
        begin = dist.reduce_scatter_single if is_summed else dist.all_to_all_single
        others = axis.size - 1
        self._exchange = Collective(
            axis,
            lambda **options: begin(received.flatten(), sent.flatten(), **options),
            sent,
            received,
            sent=others * sent.shape[1],
            messages=others,
        )

    def wait(self) -> Tensor:
        """This rank's line of the sum."""
        received = self._exchange.wait()
        return received if received.ndim == 1 else received.sum(0, dtype=self._dtype)
