"""What a rank does in a step, one thing after another: the programs that are simulated.

A program says nothing of when anything happens. Work that the code puts off until there is a wait
to fill is a program of its own, so that it is done when the simulated rank waits, and not when
the rank did that was traced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Stream = tuple[object, ...]
"""What tells exchanges apart that match each other only, and follow each other: a communicator."""


@dataclass(frozen=True)
class Computes:
    """The device of a rank is busy for so many seconds, and its host before for some to begin it.

    Where hosts do not run ahead, all of it is in ``seconds``.
    """

    seconds: float
    host_seconds: float = 0.0


@dataclass(frozen=True)
class Begins:
    """A rank begins an exchange, which is waited for by its ``number``.

    It sends ``num_bytes`` to the rank ``to`` and receives what that of ``source`` sends it; either
    is None where there is nothing.
    """

    number: int
    to: int | None
    source: int | None
    num_bytes: float
    stream: Stream = ()


@dataclass(frozen=True)
class Joins:
    """A rank begins its part of a collective of ``ranks``, each of which sends ``num_bytes``.

    ``kind`` is what a trace calls it, such as ``all_gather``.
    """

    number: int
    ranks: tuple[int, ...]
    num_bytes: float
    stream: Stream = ()
    kind: str = ""


@dataclass(frozen=True)
class Waits:
    """A rank goes on when an exchange has ended; ``is_filled`` with deferred work until then."""

    number: int
    is_filled: bool = False


@dataclass(frozen=True)
class Defers:
    """A rank puts off some work; ``is_shared`` where others wait for a part of it."""

    work: Program
    is_shared: bool


@dataclass(frozen=True)
class TakesInLater:
    """A rank goes through ``then`` when the exchanges of these numbers are there, in its order."""

    numbers: tuple[int, ...]
    then: Program


@dataclass(frozen=True)
class FinishesLayer:
    """A rank does what it deferred in layers before this one, which ends here."""


@dataclass(frozen=True)
class CatchesUp:
    """A rank does everything that it deferred."""


@dataclass(frozen=True)
class TakesInAll:
    """A rank waits for everything that it was to take in later."""


@dataclass(frozen=True)
class HostWaits:
    """The host goes on when the device has done all that it was given."""


Action = (
    Computes
    | Begins
    | Joins
    | Waits
    | Defers
    | TakesInLater
    | FinishesLayer
    | CatchesUp
    | TakesInAll
    | HostWaits
)
Program = Sequence[Action]
