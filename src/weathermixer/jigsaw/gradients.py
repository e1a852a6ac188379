"""Gradients of parameters on their way: summed over ranks, and given to ``.grad`` when a pass ends.

A rank sees a part of a parameter's gradient: of a weight that was gathered, that of its own rows;
of a bias, that of its own tokens; of any parameter, that of its own samples. The parts travel while
the backward pass goes on. What is exchanged is decided by the products that the pass goes through,
not by who wants which gradient, so that ranks that ask for different ones do not wait for each
other: what nobody asked for is exchanged and dropped. A sum has the same bits on all ranks that get
it, so that parameters that began with the same bits keep them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from weathermixer.jigsaw.backlog import BACKLOG
from weathermixer.jigsaw.gradient_sums import Destination, Part, ReplicaSums, sum_shared


class JigsawError(RuntimeError):
    """A use of the library that cannot give the right result; its message is for the user."""


@dataclass(frozen=True, eq=False)
class Source:
    """What a node of the graph stands for: a parameter, whose gradient goes to a destination."""

    parameter: nn.Parameter
    destination: Destination


@dataclass(frozen=True)
class Use:
    """A parameter as one layer uses it, once or several times.

    ``node`` stands for it in the graph: the parameter itself where its gradient needs no other
    rank.
    """

    source: Source
    node: Tensor

    @property
    def is_local(self) -> bool:
        """Whether autograd may give the parameter its gradient."""
        return self.node is self.source.parameter


def use(parameter: nn.Parameter, destination: Destination, *, is_cut: bool = False) -> Use:
    """A use of a parameter, whose gradient goes to its destination.

    ``is_cut`` says that other ranks make parts of the gradient of this rank's piece. The gradient
    of a pass is complete when the pass has been through all that uses the node.
    """
    source = Source(parameter, destination)
    is_alone = not is_cut and destination.is_here
    if is_alone or not parameter.requires_grad or not torch.is_grad_enabled():
        return Use(source, parameter)
    return Use(source, _Tracked.apply(parameter, source))  # type: ignore[no-untyped-call]


def has_hooks(parameter: nn.Parameter) -> bool:
    """Whether somebody asked to be told of a parameter's gradient when autograd has it."""
    return bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)


def accumulates(parameter: nn.Parameter) -> bool:
    """Whether the pass adds to ``parameter.grad``, and does not return its gradient."""
    try:
        return torch._C._will_engine_execute_node(get_gradient_edge(parameter).node)
    except RuntimeError:
        return False


def refuse_autograd_grad(parameter: nn.Parameter) -> None:
    """Raise JigsawError where a pass is to return the gradient of a parameter that ranks share."""
    if not accumulates(parameter):
        raise JigsawError(
            "gradients of parameters that ranks share come from backward(), not from "
            "torch.autograd.grad()"
        )


class _Tracked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parameter: nn.Parameter, source: Source) -> Tensor:
        ctx.source = source
        ctx.set_materialize_grads(False)
        if source.destination.rows_over is not None:
            # Products use what was gathered of a weight. A graph that somebody keeps must not keep
            # its memory too, which would look like one more who sees it (arrivals.py).
            return parameter.new_empty(()).expand(parameter.shape)
        return parameter.view_as(parameter)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[None, None]:
        refuse_autograd_grad(ctx.source.parameter)
        if gradient is not None:
            current_pass().add(ctx.source, gradient)
        current_pass().complete(ctx.source)
        return None, None


class BackwardPass:
    """What one backward pass has on its way.

    Sums over the replicas begin in the order in which the pass came to the weights, as soon as they
    are known: an order that does not depend on who wants which gradient. A pass that ``holds`` its
    gradients sums none over ranks that hold a parameter alike.
    """

    def __init__(self, *, holds: bool = False) -> None:
        self._holds = holds
        self._parts: dict[Source | nn.Parameter, Part] = {}
        self._to_sum: deque[Part] = deque()
        self._sums = ReplicaSums()

    def expect(self, source: Source) -> None:
        """Take note that a gradient is to be given later."""
        self._part(source).outstanding += 1

    def give(self, source: Source, gradient: Tensor) -> None:
        """Add a gradient that was expected."""
        self._part(source).outstanding -= 1
        self.add(source, gradient)

    def add(self, source: Source, gradient: Tensor) -> None:
        """Add to the gradient of a parameter."""
        self._part(source).add(gradient)
        self._advance(source)

    def complete(self, source: Source) -> None:
        """Take note that the pass has been through all that uses a node, and wants its gradient."""
        self._part(source).is_wanted = True
        self._advance(source)

    def end(self) -> None:
        """Give its gradient to every parameter that the pass was asked for."""
        with torch.no_grad():
            BACKLOG.finish()
            if not self._holds:
                _begin_anew()
                self._take_what_was_held()
            self._begin_sums(of_unwanted=True)
            if self._holds:
                for part in self._parts.values():
                    _hold(part)
                return
            sum_shared(part for part in self._parts.values() if part.total is not None)
            self._sums.finish()
            for part in self._parts.values():
                part.deliver()

    def let_go(self) -> None:
        """Wait for what is on its way, of a pass that was broken off."""
        self._sums.wait()

    def _part(self, source: Source) -> Part:
        # Uses of a small parameter are summed on the rank, as they all are when the pass ends.
        by_rows = source.destination.rows_over is not None
        key = source if by_rows else source.parameter
        if key not in self._parts:
            self._parts[key] = part = Part(source.parameter, source.destination)
            if by_rows:
                self._to_sum.append(part)
        return self._parts[key]

    def _advance(self, source: Source) -> None:
        """Begin the sums that can begin now, and deliver a gradient that needs none."""
        self._begin_sums()
        part = self._part(source)
        # A pass alone gives nothing before its end, so that one which breaks off leaves nothing.
        if _adds_up and part.destination.is_here and part.is_complete:
            with torch.no_grad():
                part.deliver()
            part.total = None

    def _take_what_was_held(self) -> None:
        """Add what earlier passes held, also where this one did not come to the parameter."""
        for parameter in [*_held]:
            known = [part for part in self._parts.values() if part.parameter is parameter]
            if not known:
                source = Source(parameter, _held[parameter].destination)
                known = [self._part(source)]
                known[0].is_wanted = True
            _add_held(known[0])

    def _begin_sums(self, *, of_unwanted: bool = False) -> None:
        while self._to_sum:
            part = self._to_sum[0]
            if not (part.is_complete or (of_unwanted and part.is_known)):
                return
            self._to_sum.popleft()
            if self._holds:
                _hold(part)
            else:
                _add_held(part)
                self._sums.add(part)


_passes: dict[int, BackwardPass] = {}
_held: dict[nn.Parameter, Part] = {}
_holds = False
_adds_up = False  # whether gradients of passes before, or of this one, are to be added to others


def _begin_anew() -> None:
    global _adds_up
    _adds_up = False


@contextmanager
def held_gradients() -> Iterator[None]:
    """Within, backward passes keep gradients that several ranks make parts of, and exchange none.

    The next pass outside adds them to its own, and sums these over the ranks. However many passes
    make a gradient, it so travels once between replicas. Until then ``.grad`` lacks it, and the
    rank holds its part in the type of the parameter. Every rank enters and leaves the scope at the
    same place of the program; where it is left with an error, what was held is forgotten.
    """
    global _holds, _adds_up
    before, _holds, _adds_up = _holds, True, True
    try:
        yield
    except BaseException:
        _held.clear()
        _begin_anew()
        raise
    finally:
        _holds = before


def _hold(part: Part) -> None:
    """Keep a gradient, if anybody asked for it, for the pass that sums it."""
    if part.total is None or not part.is_wanted:
        return
    if part.parameter in _held:
        _held[part.parameter].add(part.total)
    else:
        _held[part.parameter] = Part(part.parameter, part.destination, part.total)
    part.total = None


def _add_held(part: Part) -> None:
    """Add what earlier passes held of a gradient."""
    held = _held.pop(part.parameter, None)
    if held is not None and held.total is not None:
        part.add(held.total)


def in_backward() -> bool:
    """Whether this is called in a backward pass, as what a checkpoint computes again is."""
    return torch._C._current_graph_task_id() != -1


def current_pass() -> BackwardPass:
    """The backward pass that this is called in."""
    number = torch._C._current_graph_task_id()
    if number not in _passes:
        _passes[number] = BackwardPass(holds=_holds)
        torch.autograd.Variable._execution_engine.queue_callback(partial(_end, number))
    return _passes[number]


def let_go_of_broken_passes() -> None:
    """Finish what backward passes that raised an error left to do; outside of any.

    Some ranks may have done a part of it, for which others wait.
    """
    if _passes:
        BACKLOG.finish()
        _held.clear()
        _begin_anew()
    while _passes:
        _, broken = _passes.popitem()
        broken.let_go()


def _end(number: int) -> None:
    _passes.pop(number).end()
