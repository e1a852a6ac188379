"""What every exchange has in common: it is begun, held while it is on its way, and waited for."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import torch.distributed as dist

from weathermixer.jigsaw.activity import ACTIVITY
from weathermixer.jigsaw.mesh import Axis, RankLost

# Does a little of other work; False where there is none left.
Fill = Callable[[], bool]


class InFlight:
    """An exchange between ranks of an axis that has begun: tensors on their way.

    The mesh holds it until it has ended. Whoever began it may forget it, as a pass that is broken
    off does: what was sent for it still finds its place, and not that of the next exchange.
    """

    def __init__(
        self,
        axis: Axis,
        num_bytes: int,
        begin: Callable[[], list[dist.Work]],
        *,
        kind: str,
        is_watched: bool = False,
    ) -> None:
        """Begin to wait for so many bytes; ``begin`` hands the exchange to the backend, if any.

        ``kind`` is what it is in the words of the field, such as ``all-gather``.
        Of what ``is_watched`` it is known when it has ended, before anybody waits for it.
        """
        self._axis, self._num_bytes = axis, num_bytes
        self._kind, self._where = kind, ACTIVITY.where
        self._end_seen: Future[None] | None = None
        self.is_filled = False  # its wait, once it is waited for
        try:
            with ACTIVITY.named(self._range):
                self._works = begin()
        except RuntimeError as error:
            raise self._lost(error) from error
        axis.in_flight.add(self)
        axis.counter.calls += bool(self._works)
        ACTIVITY.exchanges += 1
        if not axis.overlap:
            self._end()
        elif self._works and is_watched:
            self._end_seen = axis.transfers.of(self._works)

    @property
    def title(self) -> str:
        """What it is and where it began, such as ``all-gather over tensor (up, forward)``."""
        where = f" ({self._where})" if self._where else ""
        return f"{self._kind} over {self._axis.name}{where}"

    @property
    def has_ended(self) -> bool:
        """Whether it is known to have ended."""
        return not self._works or (self._end_seen is not None and self._end_seen.done())

    def _end(self, fill: Fill | None = None) -> None:
        """Wait until it has ended.

        Until then ``fill`` does other work, a little at a time, and tells whether it did any. Where
        it is not known when an exchange has ended, as on an accelerator, it does so once.
        """
        if self not in self._axis.in_flight:
            return
        self.is_filled = fill is not None
        if fill is not None:
            while not self.has_ended and fill() and self._end_seen is not None:
                pass
        try:
            with ACTIVITY.waiting_for(self, self._num_bytes), ACTIVITY.named(self._wait_range):
                if self._end_seen is not None:
                    self._end_seen.result()
                else:
                    for work in self._works:
                        work.wait()
        except RuntimeError as error:
            raise self._lost(error) from error
        self._axis.in_flight.remove(self)
        self._works, self._end_seen = [], None

    def _range(self) -> str:
        return f"{self.title}, {self._num_bytes} bytes"

    def _wait_range(self) -> str:
        return f"wait for {self._range()}"

    def _lost(self, error: RuntimeError) -> RankLost:
        return RankLost(
            f"rank {self._axis.ranks[self._axis.index]} lost its connection to {self} "
            f"{ACTIVITY.now().place()} ({error})"
        )
