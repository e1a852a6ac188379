"""A trace of the real code on one fake rank: its products, exchanges and memory, in order.

What runs within :func:`recording` on a :func:`~weathermixer.jigsaw.fake.fake_mesh`, with tensors of
``torch._subclasses.FakeTensorMode``, computes nothing and holds nothing, but does all that the rank
of a real mesh would do. Nothing here knows what a step costs: that is for ``cost.py`` to predict.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from weathermixer.jigsaw.activity import ACTIVITY
from weathermixer.jigsaw.backlog import BACKLOG, Place, Witness
from weathermixer.jigsaw.collectives import Collective
from weathermixer.jigsaw.count import Counter
from weathermixer.jigsaw.exchange import ReduceScatter, Round
from weathermixer.jigsaw.mesh import Axis, Mesh
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

_aten = torch.ops.aten

# Of each product, where its two factors stand among the arguments.
_FACTORS: dict[Any, int] = {_aten.mm: 0, _aten.addmm: 1, _aten.addmm_: 1}
# What only asks for memory.
_FACTORIES = {
    _aten.empty,
    _aten.empty_like,
    _aten.empty_strided,
    _aten.new_empty,
    _aten.new_empty_strided,
}


@dataclass(frozen=True)
class _Allocation:
    serial: int
    num_bytes: int  # negative where memory is given back


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Takes down what is computed, exchanged and held while it is entered; :func:`recording`."""

    def __init__(self, mesh: Mesh) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counter = mesh.counter
        self.events: list[Event] = []
        self._storages: dict[int, tuple[int, weakref.ref[Any]]] = {}
        self._sizes: list[int] = []
        self._allocations: list[_Allocation] = []
        self._parts: dict[int, str] = {}
        self._numbers: dict[int, int] = {}
        self._num_exchanges = self._num_parts = 0
        self._before = Counter()
        self.mark()

    def mark(self) -> None:
        """Forget the events so far, but not what is held: the step begins here."""
        self.events = []
        self._num_exchanges = self._num_parts = 0
        self._numbers.clear()
        alive = {serial for serial, _ in self._storages.values()}
        self._allocations = [_Allocation(serial, self._sizes[serial]) for serial in sorted(alive)]
        self._start = len(self._allocations)
        self._before = self._counter.copy()

    @property
    def counted(self) -> Counter:
        """What the mesh counted since the mark."""
        return self._counter.since(self._before)

    def label(self, part: str, tensors: Iterable[Tensor]) -> None:
        """Say of which part of the memory these tensors are."""
        for tensor in tensors:
            held = self._storages.get(tensor.untyped_storage()._cdata)
            if held is not None:
                self._parts[held[0]] = part

    def peak(self) -> dict[str, int]:
        """Bytes of each part at the moment at which most was held; together, the peak.

        What nobody labelled is ``activations``, or where an exchange brought it, ``exchange`` or
        ``gathered_weights``.
        """
        held = most = place = 0
        for number, event in enumerate(self._allocations, start=1):
            held += event.num_bytes
            if number >= self._start and held > most:
                most, place = held, number
        alive: dict[int, int] = {}
        for event in self._allocations[:place]:
            alive[event.serial] = alive.get(event.serial, 0) + event.num_bytes
        parts: dict[str, int] = {}
        for serial, num_bytes in alive.items():
            part = self._parts.get(serial, "activations")
            parts[part] = parts.get(part, 0) + num_bytes
        return parts

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do what was to be done, and take it down."""
        if func is _aten._local_scalar_dense.default:
            self.events.append(HostWaited())
            return 1.0  # what no tensor without memory has: a finite value
        # Fake tensors know no draws in place of a generator of one's own: dropout's.
        is_draw = func is _aten.geometric_.default
        outputs = args[0] if is_draw else func(*args, **(kwargs or {}))
        if func.namespace == "aten":
            self._take_down(func, args, kwargs or {}, outputs)
        return outputs

    def _take_down(self, func: Any, args: Any, kwargs: dict[str, Any], outputs: Any) -> None:
        made = [each for each in tree_leaves(outputs) if isinstance(each, Tensor)]
        is_new = [self._hold(tensor) for tensor in made]
        packet = func.overloadpacket
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        if packet in _FACTORIES or packet is _aten._to_copy:
            # Of the shape of a parameter: its gradient, or what it is in another type.
            part = "gradients" if packet in _FACTORIES else "gathered_weights"
            if any(self._part(tensor) == "parameters" for tensor in given):
                self._name_new(part, made, is_new)
        if packet in _FACTORIES:
            return
        if packet in _FACTORS:
            left, right = args[_FACTORS[packet] :][:2]
            (m, k), n = left.shape, right.shape[1]
            self.events.append(ProductTaken(m, n, k, _name(left), ACTIVITY.where))
        elif (any(is_new) and not func.is_view) or func._schema.is_mutable:
            self.events.append(
                OperationTaken(
                    str(packet).removeprefix("aten."),
                    sum(_nbytes(tensor) for tensor in given),
                    sum(_nbytes(tensor) for tensor in made),
                    _name(made[0]) if made else "",
                )
            )

    def _part(self, tensor: Tensor) -> str | None:
        held = self._storages.get(tensor.untyped_storage()._cdata)
        return None if held is None else self._parts.get(held[0])

    def _name_new(self, part: str, made: list[Tensor], is_new: list[bool]) -> None:
        self.label(part, (tensor for tensor, new in zip(made, is_new, strict=True) if new))

    def _hold(self, tensor: Tensor) -> bool:
        """Take note of a tensor's memory; whether it is new."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages:
            return False
        serial, num_bytes = len(self._sizes), storage.nbytes()
        self._sizes.append(num_bytes)
        self._allocations.append(_Allocation(serial, num_bytes))

        def let_go(_: Any) -> None:
            self._storages.pop(key, None)
            self._allocations.append(_Allocation(serial, -num_bytes))

        self._storages[key] = serial, weakref.ref(storage, let_go)
        return True

    def begin(self, exchange: Any) -> None:
        """Take down an exchange that begins."""
        if not exchange._works:
            return
        axis: Axis = exchange._axis
        number = self._numbers[id(exchange)] = self._num_exchanges
        self._num_exchanges += 1
        is_background = axis.group is not None and axis.group is axis.background
        to = source = None
        if isinstance(exchange, Round):
            given, result, kind = exchange._send, exchange._receive, "round"
            to, source = axis.ranks[exchange._to], axis.ranks[exchange._from]
            sent, received, messages = _nbytes(given), _nbytes(result), int(given.numel() > 0)
            if is_background and axis.tag == 0:
                self.label("gathered_weights", [result])
            elif self._part(result) is None:
                self.label("exchange", [result])
        else:
            assert isinstance(exchange, Collective)
            given, result = exchange._given, exchange._result
            others, size = axis.size - 1, axis.size
            messages = others
            if given is result:
                kind, messages = "all_reduce", 2 * others
                sent = received = 2 * others * given.numel() // size * given.element_size()
            elif result.numel() < given.numel():
                kind = "reduce_scatter"
                sent = received = others * _nbytes(result)
            else:
                is_gather = result.numel() > given.numel()
                kind = "all_gather" if is_gather else "all_to_all"
                sent = received = others * (_nbytes(given) if is_gather else _nbytes(given) // size)
            for tensor in (given, result):
                if self._part(tensor) is None:
                    self.label("exchange", [tensor])
        self.events.append(
            ExchangeBegun(
                number,
                kind,
                axis.name,
                axis.ranks,
                to,
                source,
                sent,
                received,
                messages,
                is_background,
                ACTIVITY.where,
            )
        )

    def end(self, exchange: Any) -> None:
        """Take down that the program has waited for an exchange."""
        number = self._numbers.pop(id(exchange), None)
        if number is not None:
            self.events.append(ExchangeWaited(number, exchange.is_filled))

    def put_off(self, *, is_shared: bool) -> int:
        """Take down that some work is deferred; its number."""
        self.events.append(WorkDeferred(self._next_part(), is_shared))
        return self._num_parts - 1

    def send(self, sums: ReduceScatter) -> int:
        """Take down that sums are on their way; the number of what takes them in."""
        exchanges = (self._numbers.get(id(round_)) for round_ in sums.rounds)
        known = tuple(number for number in exchanges if number is not None)
        self.events.append(SumsSent(self._next_part(), known))
        return self._num_parts - 1

    def _next_part(self) -> int:
        self._num_parts += 1
        return self._num_parts - 1


class _Watched(set[Any]):
    """The exchanges in flight, which tells a recorder of each that begins and ends."""

    recorder: Recorder | None = None

    def add(self, exchange: Any) -> None:
        super().add(exchange)
        if self.recorder is not None:
            self.recorder.begin(exchange)

    def remove(self, exchange: Any) -> None:
        super().remove(exchange)
        if self.recorder is not None:
            self.recorder.end(exchange)


class _Recorded(Witness):
    """Tells a recorder what the backlog puts off, and where it is done."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def deferred(self, work: Callable[[], None], *, is_shared: bool) -> Callable[[], None]:
        return self._part(self._recorder.put_off(is_shared=is_shared), work)

    def sent(self, sums: ReduceScatter, take_in: Callable[[], None]) -> Callable[[], None]:
        return self._part(self._recorder.send(sums), take_in)

    def reached(self, place: Place) -> None:
        self._recorder.events.append(PlaceReached(place))

    def _part(self, number: int, work: Callable[[], None]) -> Callable[[], None]:
        def do() -> None:
            self._recorder.events.append(PartBegun(number))
            work()
            self._recorder.events.append(PartEnded(number))

        return do


@contextmanager
def recording(mesh: Mesh) -> Iterator[tuple[Mesh, Recorder]]:
    """Within, everything is recorded that happens on the mesh that this yields with the recorder.

    Enter it within ``FakeTensorMode``. The recorder's ``mark`` is where the record begins.
    """
    watched = _Watched()
    data, domain, tensor = (replace(axis, in_flight=watched) for axis in mesh.axes)
    watched.recorder = recorder = Recorder(mesh)
    BACKLOG.witness = _Recorded(recorder)
    try:
        with recorder:
            yield replace(mesh, data=data, domain=domain, tensor=tensor), recorder
    finally:
        watched.recorder = None
        BACKLOG.witness = Witness()


def _nbytes(tensor: Tensor) -> int:
    return math.prod(tensor.shape) * tensor.element_size()


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
