"""Exchanges of all ranks of an axis, as the backend's own collectives: asynchronous, counted.

They are for what replicas exchange: as many elements on each rank, however many ranks there are. A
collective is one call of the backend, and sends what a ring would. What has uneven pieces, or is
used piece by piece as it arrives, goes in rounds (exchange.py).
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor

from weathermixer.jigsaw.in_flight import InFlight
from weathermixer.jigsaw.mesh import Axis


class Collective(InFlight):
    """A collective on its way, whose result is ``result`` when it has ended.

    This rank sends ``sent`` elements of what is ``given``, in so many ``messages``.
    """

    def __init__(
        self,
        axis: Axis,
        begin: Any,
        given: Tensor,
        result: Tensor,
        *,
        kind: str,
        sent: int,
        messages: int,
    ) -> None:
        """Begin; both tensors are contiguous and belong to the collective until it ends.

        Raises LayoutError where the mesh only describes its ranks.
        """
        axis.require_group()
        self._given, self._result = given, result
        axis.counter.bytes_sent += sent * given.element_size()
        axis.counter.messages += messages
        num_bytes = result.numel() * result.element_size()
        super().__init__(
            axis, num_bytes, lambda: [begin(group=axis.group, async_op=True)], kind=kind
        )

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
        kind="all-reduce",
        sent=2 * others * tensor.numel() // axis.size,
        messages=2 * others,
    )


def begin_broadcast(axis: Axis, tensor: Tensor, *, source: int) -> Collective:
    """Begin to fill ``tensor`` on each rank of an axis with that of the one at ``source``."""
    others = axis.size - 1
    return Collective(
        axis,
        lambda **options: dist.broadcast(tensor, group_src=source, **options),
        tensor,
        tensor,
        kind="broadcast",
        sent=others * tensor.numel() // axis.size,  # whoever passes it on
        messages=1,
    )
