"""Stopping a training when its time is up: after the step in hand, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@contextmanager
def held_back_warnings() -> Iterator[None]:
    """While entered, keep SIGUSR1, a scheduler's warning, until a ``StopRequest`` receives it.

    Nothing that was sent while a training was still starting is lost then, and nothing that comes
    when it has ended kills this process. Only the main thread receives signals; anywhere else this
    does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        yield
    finally:
        if signal.SIGUSR1 not in before:
            while signal.SIGUSR1 in signal.sigpending():
                signal.sigwait({signal.SIGUSR1})  # there is nothing left to stop
        # Whoever called this may start programs, which would never be warned.
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StopRequest:
    """While entered, SIGTERM, SIGUSR1 and Ctrl-C are remembered instead of obeyed, once.

    A second SIGTERM or Ctrl-C acts as it would without this, so that a step which hangs can be
    ended; a second SIGUSR1, which schedulers send as a warning, only warns again. One that this
    process was started to ignore, as a shell does for a job in the background, stays ignored. Only
    the main thread receives signals; anywhere else this does nothing.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._previous: dict[int, Any] = {}
        self._mask: set[int] | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {
                number: signal.signal(number, self._note)
                for number in _SIGNALS
                if signal.getsignal(number) is not signal.SIG_IGN
            }
            # What was held back comes at once.
            self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        return self

    def __exit__(self, *details: object) -> None:
        if self._mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            self._mask = None
        self._restore(_SIGNALS)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number).name
        self._restore((signal.SIGTERM, signal.SIGINT))

    def _restore(self, numbers: tuple[int, ...]) -> None:
        for number in numbers:
            if number in self._previous:
                signal.signal(number, self._previous.pop(number))
