"""The events that a trace of the real code on one rank consists of, in the order of the program.

Work that the code puts off, to fill waits with it, is marked, so that whoever asks when things
would happen elsewhere can let it be done in other waits. Traces are taken by ``dry_run.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from weathermixer.jigsaw.backlog import Place


@dataclass(frozen=True)
class ProductTaken:
    """``(m, k) · (k, n)`` in one type, such as ``float32``; ``where`` names the layer and pass."""

    m: int
    n: int
    k: int
    dtype: str
    where: str


@dataclass(frozen=True)
class OperationTaken:
    """Any other operation that goes through memory: what it reads and writes."""

    operation: str
    bytes_read: int
    bytes_written: int
    dtype: str


@dataclass(frozen=True)
class ExchangeBegun:
    """An exchange as it is handed to the backend.

    ``number`` counts those of the trace. ``kind`` is ``round`` (one message each way) or the
    backend's ``reduce_scatter``, ``all_gather``, ``all_to_all`` or ``all_reduce`` among ``ranks``,
    the global ranks that take part. Of a round, ``to`` and ``source`` are the ranks that it goes to
    and comes from. ``is_background`` tells whether it goes through the axis's second group, beside
    what is waited for.
    """

    number: int
    kind: str
    axis: str
    ranks: tuple[int, ...]
    to: int | None
    source: int | None
    bytes_sent: int
    bytes_received: int
    messages: int
    is_background: bool
    where: str


@dataclass(frozen=True)
class ExchangeWaited:
    """The program goes on when the exchange of this number has ended.

    ``is_filled`` tells whether deferred work is done until then.
    """

    number: int
    is_filled: bool = False


@dataclass(frozen=True)
class WorkDeferred:
    """Some work is put off until there is a wait to fill; ``is_shared`` as a backlog has it.

    What is done of it stands between :class:`PartBegun` and :class:`PartEnded` of this number,
    where this rank did it.
    """

    number: int
    is_shared: bool


@dataclass(frozen=True)
class SumsSent:
    """What other ranks add to is on its way, by these exchanges.

    What takes them in stands between :class:`PartBegun` and :class:`PartEnded` of this number.
    """

    number: int
    exchanges: tuple[int, ...]


@dataclass(frozen=True)
class PartBegun:
    """Here begins what was put off under this number."""

    number: int


@dataclass(frozen=True)
class PartEnded:
    """Here ends what was put off under this number."""

    number: int


@dataclass(frozen=True)
class PlaceReached:
    """The backlog is to do what has to be done at this place."""

    place: Place


@dataclass(frozen=True)
class HostWaited:
    """The program needs a value, and so waits for what computes it."""


Event = (
    ProductTaken
    | OperationTaken
    | ExchangeBegun
    | ExchangeWaited
    | WorkDeferred
    | SumsSent
    | PartBegun
    | PartEnded
    | PlaceReached
    | HostWaited
)
