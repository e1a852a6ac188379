"""What has arrived, known to a host without waiting for it.

A wait of gloo blocks the host, and says nothing before it is over. A thread for each process group
waits in the host's place, so that the host can compute on until something is there. On an
accelerator it is the stream that waits, and the host has no need to know.
"""

from __future__ import annotations

import atexit
import queue
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

# Longer than a thread that waits for nothing takes to end.
_FAREWELL_S = 5.0


class Transfers:
    """Waits for the transfers of one process group, in the order in which they began."""

    def __init__(self) -> None:
        self._begun: queue.SimpleQueue[tuple[Sequence[Any], Future[None]] | None] = (
            queue.SimpleQueue()
        )
        self._thread: threading.Thread | None = None

    def of(self, works: Sequence[Any]) -> Future[None]:
        """What is done as soon as these transfers are, or has failed as one of them did."""
        if self._thread is None:
            # A daemon, since it may wait for a rank that is gone when the program has to end.
            self._thread = threading.Thread(
                target=_wait_for_each, args=(self._begun,), name="transfers", daemon=True
            )
            self._thread.start()
            _waiting.add(self)
            weakref.finalize(self, self._begun.put, None).atexit = False
        arrival: Future[None] = Future()
        self._begun.put((works, arrival))
        return arrival

    def stop(self) -> None:
        """End the thread, unless it waits for what does not come."""
        if self._thread is not None:
            self._begun.put(None)
            self._thread.join(_FAREWELL_S)
            self._thread = None


_waiting: weakref.WeakSet[Transfers] = weakref.WeakSet()


# A thread that is at work when Python ends takes the process with it.
@atexit.register
def _stop_all() -> None:
    for transfers in list(_waiting):
        transfers.stop()


def _wait_for_each(
    begun: queue.SimpleQueue[tuple[Sequence[Any], Future[None]] | None],
) -> None:
    while (following := begun.get()) is not None:
        _wait_for(*following)
        del following  # which holds the tensors that travelled


def _wait_for(works: Sequence[Any], arrival: Future[None]) -> None:
    try:
        for work in works:
            work.wait()
    except RuntimeError as error:
        arrival.set_exception(error)
    else:
        arrival.set_result(None)
