"""Gradients of small parameters that several ranks hold alike, summed when a backward pass ends.

Each such rank sees a part of the gradient: a bias of channels, say, that of its own tokens. The
parts of all of them are added in one exchange per axis, in the order of the ranks, so that
parameters that began with the same bits keep them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from weathermixer.jigsaw.exchange import total_over
from weathermixer.jigsaw.mesh import Axis


def shared(parameter: nn.Parameter, axes: tuple[Axis, ...]) -> Tensor:
    """The parameter, whose gradient will be the sum over ``axes`` when the backward pass ends."""
    axes = tuple(axis for axis in axes if axis.size > 1)
    if not axes:
        return parameter
    value: Tensor = _Shared.apply(parameter, axes)  # type: ignore[no-untyped-call]
    return value


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parameter: nn.Parameter, axes: tuple[Axis, ...]) -> Tensor:
        ctx.parameter, ctx.axes = parameter, axes
        return parameter.view_as(parameter)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None]:
        _pending.add(ctx.parameter, ctx.axes, gradient)
        return None, None


class _Pending:
    """Gradients that wait for the backward pass that they belong to to end.

    They are kept by pass: one that failed leaves nothing behind that a later one would take for its
    own.
    """

    def __init__(self) -> None:
        self._passes: dict[int, dict[tuple[Axis, ...], dict[nn.Parameter, Tensor]]] = {}

    def add(self, parameter: nn.Parameter, axes: tuple[Axis, ...], gradient: Tensor) -> None:
        number = torch._C._current_graph_task_id()
        if number not in self._passes:
            self._passes[number] = {}
            torch.autograd.Variable._execution_engine.queue_callback(partial(self.finish, number))
        members = self._passes[number].setdefault(axes, {})
        members[parameter] = members[parameter] + gradient if parameter in members else gradient

    @torch.no_grad()
    def finish(self, number: int) -> None:
        pending = self._passes.pop(number)
        for axes, members in pending.items():
            flat = total_over(axes, torch.cat([part.flatten() for part in members.values()]))
            parts = torch.split(flat, [parameter.numel() for parameter in members])
            for parameter, part in zip(members, parts, strict=True):
                total = part.view_as(parameter)
                parameter.grad = total.clone() if parameter.grad is None else parameter.grad + total


_pending = _Pending()
