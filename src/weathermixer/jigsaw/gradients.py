"""Gradients of parameters on their way: summed over ranks, and given to ``.grad`` when a pass ends.

A rank sees a part of a parameter's gradient: of a weight that was gathered, that of its own rows;
of a bias, that of its own tokens; of any parameter, that of its own samples. The parts travel while
the backward pass goes on. What is exchanged is decided by the products that the pass goes through,
not by who wants which gradient, so that ranks that ask for different ones do not wait for each
other: what nobody asked for is exchanged and dropped. Sums are taken in the order of the ranks, so
that parameters that began with the same bits keep them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from weathermixer.jigsaw.exchange import Gather, ReduceScatter, total_over
from weathermixer.jigsaw.layout import shard
from weathermixer.jigsaw.mesh import Axis


class JigsawError(RuntimeError):
    """A use of the library that cannot give the right result; its message is for the user."""


class Destination:
    """Where the parts of a parameter's gradient come together.

    Those of a small parameter are summed over ``axes``, alike on all their ranks. Those of a weight
    are summed over ``data``, the axis of the replicas, each of which has its own rows of the sum:
    ``owned`` is what the optimizer changes of the weight where that is these rows alone.
    """

    def __init__(self, axes: tuple[Axis, ...] = (), data: Axis | None = None) -> None:
        self.axes = tuple(axis for axis in axes if axis.size > 1)
        self.data = data if data is not None and data.size > 1 else None
        self.owned: nn.Parameter | None = None

    def rows(self, parameter: Tensor) -> list[range]:
        """The rows of a weight that each replica sums."""
        assert self.data is not None
        return [shard(parameter.shape[0], self.data.size, place) for place in range(self.data.size)]


class Use(NamedTuple):
    """A parameter as one layer uses it, once or several times.

    ``node`` stands for it in the graph: the parameter itself where its gradient needs no other
    rank.
    """

    parameter: nn.Parameter
    node: Tensor
    destination: Destination

    @property
    def is_local(self) -> bool:
        """Whether autograd may give the parameter its gradient."""
        return self.node is self.parameter


def use(parameter: nn.Parameter, destination: Destination, *, is_cut: bool = False) -> Use:
    """A use of a parameter, whose gradient goes to its destination.

    ``is_cut`` says that other ranks make parts of the gradient of this rank's piece. The gradient
    of a pass is complete when the pass has been through all that uses the node.
    """
    is_alone = not is_cut and not destination.axes and destination.data is None
    if is_alone or not parameter.requires_grad or not torch.is_grad_enabled():
        return Use(parameter, parameter, destination)
    node: Tensor = _Tracked.apply(parameter, destination)  # type: ignore[no-untyped-call]
    return Use(parameter, node, destination)


def refuse_autograd_grad(parameter: nn.Parameter) -> None:
    """Raise JigsawError where a pass is to return the gradient of a parameter that ranks share."""
    try:
        torch._C._will_engine_execute_node(get_gradient_edge(parameter).node)
    except RuntimeError as error:
        raise JigsawError(
            "gradients of parameters that ranks share come from backward(), not from "
            "torch.autograd.grad()"
        ) from error


class _Tracked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parameter: nn.Parameter, destination: Destination) -> Tensor:
        ctx.parameter, ctx.destination = parameter, destination
        ctx.set_materialize_grads(False)
        return parameter.view_as(parameter)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[None, None]:
        refuse_autograd_grad(ctx.parameter)
        current = current_pass()
        if gradient is not None:
            current.add(ctx.parameter, ctx.destination, gradient)
        current.complete(ctx.parameter, ctx.destination)
        return None, None


@dataclass
class _Part:
    """The gradient of one parameter in one pass, as far as it is known.

    ``outstanding`` counts what is computed or travels still; ``is_wanted`` once a use has been
    passed on the way to the parameter, which a pass that is not asked for its gradient never does.
    """

    destination: Destination
    total: Tensor | None = None
    outstanding: int = 0
    is_wanted: bool = False
    sums: list[tuple[Tensor, ReduceScatter]] = field(default_factory=list)
    gather: Gather | None = None

    def add(self, gradient: Tensor) -> None:
        self.total = gradient if self.total is None else self.total + gradient


@dataclass
class BackwardPass:
    """What one backward pass has on its way."""

    _parts: dict[nn.Parameter, _Part] = field(default_factory=dict)
    _travelling: list[tuple[nn.Parameter, Tensor, ReduceScatter]] = field(default_factory=list)
    _deferred: list[Callable[[], None]] = field(default_factory=list)

    def defer(
        self,
        parameter: nn.Parameter,
        destination: Destination,
        work: Callable[[BackwardPass], None],
    ) -> None:
        """Let ``work``, which adds to the gradient of a parameter in a pass, fill the next wait."""
        part = self._part(parameter, destination)
        part.outstanding += 1

        def run() -> None:
            part.outstanding -= 1
            work(self)

        self._deferred.append(run)

    def work(self) -> None:
        """Do what was deferred."""
        deferred, self._deferred = self._deferred, []
        for run in deferred:
            run()

    def add(self, parameter: nn.Parameter, destination: Destination, gradient: Tensor) -> None:
        """Add to the gradient of a parameter."""
        part = self._part(parameter, destination)
        part.add(gradient.to(parameter.dtype))
        if part.is_wanted:
            self._reduce(parameter, part)

    def add_travelling(
        self, parameter: nn.Parameter, destination: Destination, own: Tensor, sums: ReduceScatter
    ) -> None:
        """Add this rank's part of a gradient, and what the others send for it.

        That is waited for when the next part has been sent, or at the end.
        """
        self._arrive()
        self._part(parameter, destination).outstanding += 1
        self._travelling.append((parameter, own.to(parameter.dtype), sums))

    def complete(self, parameter: nn.Parameter, destination: Destination) -> None:
        """Take note that the pass has been through all uses of a parameter."""
        part = self._part(parameter, destination)
        part.is_wanted = True
        self._reduce(parameter, part)

    def end(self) -> None:
        """Give its gradient to every parameter that the pass was asked for."""
        with torch.no_grad():
            self.work()
            self._arrive()
            for parameter, part in self._parts.items():
                self._reduce(parameter, part)
            parts = {
                parameter: part
                for parameter, part in self._parts.items()
                if part.sums or part.total is not None
            }
            self._share(list(parts.values()))
            for parameter, part in parts.items():
                self._finish_reduce(parameter, part)
            for part in parts.values():
                if part.gather is not None:
                    part.gather.wait()
            for parameter, part in parts.items():
                if part.is_wanted:
                    assert part.total is not None
                    owned = part.destination.owned
                    _accumulate(parameter if owned is None else owned, part.total)

    def let_go(self) -> None:
        """Wait for what is on its way, of a pass that was broken off."""
        for _, _, sums in self._travelling:
            sums.let_go()
        for part in self._parts.values():
            for _, sums in part.sums:
                sums.let_go()

    def _part(self, parameter: nn.Parameter, destination: Destination) -> _Part:
        return self._parts.setdefault(parameter, _Part(destination))

    def _arrive(self) -> None:
        """Take in what the others sent for parts of gradients."""
        travelling, self._travelling = self._travelling, []
        for parameter, own, sums in travelling:
            part = self._parts[parameter]
            part.outstanding -= 1
            part.add(sums.finish(own))
            if part.is_wanted:
                self._reduce(parameter, part)

    def _reduce(self, parameter: nn.Parameter, part: _Part) -> None:
        """Begin the sum over the replicas of what is known of a weight's gradient.

        That is all of it where one node stands for every use of the weight.
        """
        destination = part.destination
        if destination.data is None or part.total is None or part.outstanding:
            return
        sums, rows = ReduceScatter(destination.data), destination.rows(parameter)
        for place in destination.data.peers()[:-1]:
            block = part.total[rows[place].start : rows[place].stop]
            own = (len(rows[destination.data.index]), *parameter.shape[1:])
            sums.send(block.contiguous(), own)
        part.sums.append((part.total, sums))
        part.total = None

    def _finish_reduce(self, parameter: nn.Parameter, part: _Part) -> None:
        """Sum this replica's rows, and begin to gather those of the others where all are wanted."""
        if not part.sums:
            return
        assert part.destination.data is not None
        rows = part.destination.rows(parameter)
        own = rows[part.destination.data.index]
        for total, sums in part.sums:
            part.add(sums.finish(total[own.start : own.stop]))
        if part.destination.owned is None:
            assert part.total is not None
            mine, part.total = part.total, part.sums[0][0]
            shapes = [(len(each), *parameter.shape[1:]) for each in rows]
            part.gather = Gather(part.destination.data, mine, shapes, into=part.total)

    @staticmethod
    def _share(parts: list[_Part]) -> None:
        """Sum small gradients over the ranks that hold the parameters alike, together."""
        by_axes: dict[tuple[Axis, ...], list[_Part]] = {}
        for part in parts:
            if part.destination.axes:
                by_axes.setdefault(part.destination.axes, []).append(part)
        for axes, members in by_axes.items():
            totals = [part.total for part in members if part.total is not None]
            flat = total_over(axes, torch.cat([total.flatten() for total in totals]))
            sizes = [total.numel() for total in totals]
            for part, total, values in zip(members, totals, torch.split(flat, sizes), strict=True):
                part.total = values.view_as(total).clone()


def _accumulate(parameter: nn.Parameter, gradient: Tensor) -> None:
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


_passes: dict[int, BackwardPass] = {}


def in_backward() -> bool:
    """Whether this is called in a backward pass, as what a checkpoint computes again is."""
    return torch._C._current_graph_task_id() != -1


def current_pass() -> BackwardPass:
    """The backward pass that this is called in."""
    number = torch._C._current_graph_task_id()
    if number not in _passes:
        _passes[number] = BackwardPass()
        torch.autograd.Variable._execution_engine.queue_callback(partial(_end, number))
    return _passes[number]


def let_go_of_broken_passes() -> None:
    """Finish what backward passes that raised an error left on its way; outside of any."""
    while _passes:
        _, broken = _passes.popitem()
        broken.let_go()


def _end(number: int) -> None:
    _passes.pop(number).end()
