"""What every exchange has in common: it is begun, held while it is on its way, and waited for."""

from __future__ import annotations

from collections.abc import Callable

import torch.distributed as dist

from weathermixer.jigsaw.activity import ACTIVITY
from weathermixer.jigsaw.mesh import Axis, RankLost


class InFlight:
    """An exchange between ranks of an axis that has begun: tensors on their way.

    The mesh holds it until it has ended. Whoever began it may forget it, as a pass that is broken
    off does: what was sent for it still finds its place, and not that of the next exchange.
    """

    def __init__(self, axis: Axis, num_bytes: int, begin: Callable[[], list[dist.Work]]) -> None:
        """Begin to wait for so many bytes; ``begin`` hands the exchange to the backend, if any."""
        self._axis, self._num_bytes = axis, num_bytes
        try:
            self._works = begin()
        except RuntimeError as error:
            raise self._lost(error) from error
        axis.in_flight.add(self)
        axis.counter.calls += bool(self._works)
        ACTIVITY.exchanges += 1
        if not axis.overlap:
            self._end()

    def _end(self) -> None:
        """Wait until it has ended."""
        if self in self._axis.in_flight:
            try:
                with ACTIVITY.waiting_for(self, self._num_bytes):
                    for work in self._works:
                        work.wait()
            except RuntimeError as error:
                raise self._lost(error) from error
            self._axis.in_flight.remove(self)
            self._works = []

    def _lost(self, error: RuntimeError) -> RankLost:
        return RankLost(
            f"rank {self._axis.ranks[self._axis.index]} lost its connection to {self} "
            f"{ACTIVITY.now().place()} ({error})"
        )
