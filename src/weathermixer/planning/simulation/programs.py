"""Programs of ranks from traces of the real code: what each event of a trace takes on a machine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast, get_args

import torch

from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.trace import (
    Event,
    ExchangeBegun,
    ExchangeWaited,
    HostWaited,
    OperationTaken,
    PartBegun,
    PartEnded,
    PlaceReached,
    ProductTaken,
    SumsSent,
    WorkDeferred,
)
from weathermixer.planning.machine import ProductType, Work
from weathermixer.planning.simulation.actions import (
    Action,
    Begins,
    CatchesUp,
    Computes,
    Defers,
    FinishesLayer,
    HostWaits,
    Joins,
    Program,
    TakesInAll,
    TakesInLater,
    Waits,
)
from weathermixer.planning.step_time import ElementWork, MatrixProduct, StepTimer

_KINDS: dict[str, Work] = {
    "gelu": "activation",
    "gelu_backward": "activation_backward",
    "native_layer_norm": "norm",
    "native_layer_norm_backward": "norm_backward",
    "_fused_adamw_": "optimizer",
}
_PLACES: dict[str, Action] = {
    "layer": FinishesLayer(),
    "work": CatchesUp(),
    "sums": TakesInAll(),
}


@dataclass(frozen=True)
class TraceTimer:
    """Seconds of a trace's operations; products of float32 are in TF32 where ``arithmetic`` is."""

    timer: StepTimer
    arithmetic: ProductType = "float32"

    def computes(self, event: ProductTaken | OperationTaken) -> Computes:
        """What a rank computes for an operation: on the host before, where that runs ahead."""
        seconds, launch = self._seconds(event), self.timer.computing.launch_seconds
        if self.timer.computing.launches_ahead:
            return Computes(seconds, launch)
        return Computes(seconds + launch)

    def _seconds(self, event: ProductTaken | OperationTaken) -> float:
        if isinstance(event, ProductTaken):
            return self.timer.product(
                MatrixProduct(event.m, event.n, event.k, self._product_type(event.dtype))
            )
        kind = _KINDS.get(event.operation, "copy")
        num_bytes = event.bytes_read + event.bytes_written
        elements = event.bytes_written // (
            getattr(torch, event.dtype).itemsize if event.dtype else 1
        )
        return self.timer.element_work(ElementWork(kind, elements, num_bytes))

    def _product_type(self, dtype: str) -> ProductType:
        if dtype == "float32":
            return "tf32" if self.arithmetic == "tf32" else "float32"
        if dtype not in get_args(ProductType):
            raise ValueError(f"no machine has rates of products in {dtype}")
        return cast("ProductType", dtype)


def program_of(events: Iterable[Event], timer: TraceTimer) -> Program:
    """What a rank does, from its trace.

    What it deferred lies where it was deferred, not where the trace has it. Exchanges that a next
    step would wait for are waited for at the end.
    """
    program: list[Action] = []
    parts: dict[int, list[Action]] = defaultdict(list)
    within = [program]
    underway: dict[int, None] = {}
    for event in events:
        here = within[-1]
        match event:
            case ProductTaken() | OperationTaken():
                here.append(timer.computes(event))
            case ExchangeBegun():
                underway[event.number] = None
                here.append(_begin(event))
            case ExchangeWaited():
                del underway[event.number]
                here.append(Waits(event.number, event.is_filled))
            case WorkDeferred():
                here.append(Defers(parts[event.number], event.is_shared))
            case SumsSent():
                here.append(TakesInLater(event.exchanges, parts[event.number]))
            case PartBegun():
                within.append(parts[event.number])
            case PartEnded():
                within.pop()
            case PlaceReached():
                here.append(_PLACES[event.place])
            case HostWaited():
                here.append(HostWaits())
    program += [Waits(number) for number in underway]
    return program


def _begin(event: ExchangeBegun) -> Action:
    stream = (event.axis, event.is_background)
    if event.kind != "round":
        return Joins(event.number, event.ranks, event.bytes_sent, stream, event.kind)
    return Begins(
        event.number,
        event.to if event.bytes_sent else None,
        event.source if event.bytes_received else None,
        event.bytes_sent,
        stream,
    )


def moved_to(events: Sequence[Event], *, traced: Layout, rank: Layout) -> tuple[Event, ...]:
    """The trace of a rank whose shards are as large as those of the rank that was traced.

    Both are of one model instance.
    """

    def peer(axis: str, other: int | None) -> int | None:
        if other is None:
            return None
        before, after = traced.ranks_along(axis), rank.ranks_along(axis)
        distance = before.index(other) - before.index(traced.rank)
        return after[(after.index(rank.rank) + distance) % len(after)]

    def moved(event: ExchangeBegun) -> ExchangeBegun:
        if event.axis == "members":  # replicas, which lie as the instance does
            shift = rank.rank - traced.rank
            ranks = tuple(other + shift for other in event.ranks)
            to, source = (
                None if other is None else other + shift for other in (event.to, event.source)
            )
            return replace(event, ranks=ranks, to=to, source=source)
        return replace(
            event,
            ranks=rank.ranks_along(event.axis),
            to=peer(event.axis, event.to),
            source=peer(event.axis, event.source),
        )

    return tuple(moved(event) if isinstance(event, ExchangeBegun) else event for event in events)


def are_alike(one: Sequence[Event], other: Sequence[Event], *, in_size: bool = True) -> bool:
    """Whether two ranks exchange alike, and multiply as much in all.

    What of a product is made before the others' rows of its weight have come depends on the rank.
    Without ``in_size``, their exchanges may differ in the number of bytes, unless that is none.
    """
    if in_size and _multiplied(one) != _multiplied(other):
        return False
    return _exchanges(one, in_size=in_size) == _exchanges(other, in_size=in_size)


def _exchanges(events: Iterable[Event], *, in_size: bool) -> list[ExchangeBegun]:
    """The exchanges as any rank has them, and where it is not ``in_size``, of one byte or none."""
    begun = [event for event in events if isinstance(event, ExchangeBegun)]
    alike = [replace(event, ranks=(), to=None, source=None) for event in begun]
    if in_size:
        return alike
    return [
        replace(
            event,
            bytes_sent=min(event.bytes_sent, 1),
            bytes_received=min(event.bytes_received, 1),
        )
        for event in alike
    ]


def _multiplied(events: Iterable[Event]) -> int:
    return sum(event.m * event.n * event.k for event in events if isinstance(event, ProductTaken))
