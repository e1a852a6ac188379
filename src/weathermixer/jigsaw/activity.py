"""What this rank is doing, noted where it does it, so that others can say where it stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class Activity:
    """The exchanges and steps of this process, and what it waits for.

    ``exchanges`` counts those begun, ``steps`` the optimizer steps taken, and ``where`` names the
    layer that began the last exchange.
    """

    def __init__(self) -> None:
        self.exchanges = self.steps = 0
        self.where = ""
        self._waits: tuple[object, int, float] | None = None

    @contextmanager
    def waiting_for(self, what: object, num_bytes: int = 0) -> Iterator[None]:
        """While entered, the rank waits for ``what``, which sends or brings so many bytes.

        Its text is made only where somebody asks: there are thousands of waits in a step.
        """
        self._waits = what, num_bytes, time.monotonic()
        try:
            yield
        finally:
            self._waits = None

    def now(self) -> Beat:
        """The state of this moment, as another thread may ask for it."""
        now = time.monotonic()
        what, num_bytes, since = self._waits or ("", 0, now)
        return Beat(self.exchanges, self.steps, self.where, str(what), num_bytes, now - since)


@dataclass(frozen=True)
class Beat:
    """What a rank was doing at one moment; ``waits_for`` is empty where it was not waiting.

    It waits for so many bytes, and has for ``waited_s`` seconds.
    """

    exchanges: int
    steps: int
    where: str
    waits_for: str
    num_bytes: int
    waited_s: float

    def place(self) -> str:
        """Where in the program the rank was, such as ``in exchange 12 (up) of step 3``."""
        where = f" ({self.where})" if self.where else ""
        return f"in exchange {self.exchanges}{where} of step {self.steps + 1}"


ACTIVITY = Activity()
