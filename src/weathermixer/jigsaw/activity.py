"""What this rank is doing, noted where it does it, so that others can say where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from torch.profiler import record_function

_UNNAMED = nullcontext()


class Activity:
    """The exchanges and steps of this process, and what it waits for.

    ``exchanges`` counts those begun, ``steps`` the optimizer steps taken, and ``where`` names the
    layer that began the last exchange. ``waited_s`` are the seconds that the process has waited for
    other ranks in all; on an accelerator it is the device that waits, and nearly none are counted.
    While it ``is_profiled``, what is :meth:`named` shows in the profile that PyTorch takes.
    ``all_ranks`` returns what is known of every rank, by its number, where ranks tell each other.
    Each of ``farewells`` is called with the reason where the job is about to be ended at once.
    """

    def __init__(self) -> None:
        self.exchanges = self.steps = 0
        self.waited_s = 0.0
        self.where = ""
        self.is_profiled = False
        self.all_ranks: Callable[[], Mapping[int, RankNews]] | None = None
        self.farewells: list[Callable[[str], None]] = []
        self._waits: tuple[object, int, float] | None = None
        self._waits_alone: tuple[object, float] | None = None

    @contextmanager
    def waiting_for(self, what: object, num_bytes: int = 0) -> Iterator[None]:
        """While entered, the rank waits for ``what``, which sends or brings so many bytes.

        Its text is made only where somebody asks: there are thousands of waits in a step.
        """
        began = time.monotonic()
        self._waits = what, num_bytes, began
        try:
            yield
        finally:
            self._waits = None
            self.waited_s += time.monotonic() - began

    @contextmanager
    def waiting_alone_for(self, what: object) -> Iterator[None]:
        """While entered, the rank waits for what no other rank brings, as a file or its device."""
        self._waits_alone = what, time.monotonic()
        try:
            yield
        finally:
            self._waits_alone = None

    @contextmanager
    def at(self, where: str) -> Iterator[None]:
        """While entered, exchanges begin at another place of the program than the layer in hand."""
        before, self.where = self.where, where
        try:
            yield
        finally:
            self.where = before

    def named(self, name: str | Callable[[], str]) -> AbstractContextManager[object]:
        """While entered, a range of this name in a profile, where one is taken.

        The text of a function is made only then.
        """
        if not self.is_profiled:
            return _UNNAMED
        return record_function(name if isinstance(name, str) else name())

    def now(self) -> Beat:
        """The state of this moment, as another thread may ask for it."""
        now = time.monotonic()
        what, num_bytes, since = self._waits or ("", 0, now)
        alone, alone_since = self._waits_alone or ("", now)
        return Beat(
            self.exchanges,
            self.steps,
            self.where,
            str(what),
            num_bytes,
            now - since,
            "" if isinstance(what, str) else getattr(what, "title", ""),
            str(alone),
            now - alone_since,
        )


@dataclass(frozen=True)
class Beat:
    """What a rank was doing at one moment; ``waits_for`` is empty where it was not waiting.

    It waits for so many bytes, and has for ``waited_s`` seconds. The ``exchange`` that it waits in
    is empty where that has no name. ``waits_alone_for`` is what it waits for and no rank sends, and
    has for ``waited_alone_s`` seconds.
    """

    exchanges: int
    steps: int
    where: str
    waits_for: str
    num_bytes: int
    waited_s: float
    exchange: str = ""
    waits_alone_for: str = ""
    waited_alone_s: float = 0.0

    def place(self) -> str:
        """Where in the program the rank was, such as ``in exchange 12 (up) of step 3``."""
        where = f" ({self.where})" if self.where else ""
        return f"in exchange {self.exchanges}{where} of step {self.steps + 1}"


@dataclass(frozen=True)
class RankNews:
    """What was last heard of a rank: its machine, and what it was doing."""

    host: str
    beat: Beat


ACTIVITY = Activity()
