"""Edges of the neighbouring ranks, for what looks a little beyond its own part of a dimension.

The ranks along an axis stand in a circle: the first one's neighbour before it is the last. Edges
travel while something else is computed, forwards and, as gradients, back.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from weathermixer.jigsaw.activity import ACTIVITY
from weathermixer.jigsaw.exchange import Round
from weathermixer.jigsaw.layout import LayoutError
from weathermixer.jigsaw.mesh import Axis, Mesh
from weathermixer.jigsaw.opaque import opaque


class Halo(nn.Module):
    """Lets ranks see ``width`` elements of their neighbours along ``domain``, on both sides.

    ``x (..., elements / domain)`` → ``(..., width + elements / domain + width)``: the last elements
    of the rank before, the own ones, and the first of the rank after. One rank is its own neighbour
    on both sides, and so are all without a mesh. The gradients of what came go back to where it
    came from and are added there, where the input needs a gradient.
    """

    def __init__(self, width: int, mesh: Mesh | None = None) -> None:
        super().__init__()
        self.width = width
        self.axis: Axis | None = None if mesh is None else mesh.domain

    def forward(self, x: Tensor) -> Callable[[], Tensor]:
        """Begin to exchange the edges of ``x``; what is returned waits for them when it is called.

        Raises LayoutError where the rank has fewer elements than its neighbours are to see.
        """
        if x.shape[-1] < self.width:
            raise LayoutError(
                f"a Halo of {self.width} elements takes as many or more from each rank, but this "
                f"one has {x.shape[-1]}: choose a smaller width, or fewer ranks along domain"
            )
        if self.axis is None or self.axis.size == 1:
            return partial(_joined, x[..., x.shape[-1] - self.width :], x, x[..., : self.width])
        return _begun(x, _Edges(self.axis, self.width))


def _joined(before: Tensor, x: Tensor, after: Tensor) -> Tensor:
    return torch.cat([before, x, after], -1)


@opaque
def _begun(x: Tensor, edges: _Edges) -> Callable[[], Tensor]:
    x = _Begin.apply(x, edges)  # type: ignore[no-untyped-call]

    @opaque
    def wait() -> Tensor:
        whole: Tensor = _End.apply(x, edges)  # type: ignore[no-untyped-call]
        return whole

    return wait


class _Edges:
    """What goes to both neighbours and comes from them: edges forwards, their gradients back."""

    def __init__(self, axis: Axis, width: int) -> None:
        self._axis, self.width = axis, width
        self._rounds: list[Round] = []

    def send(self, to_before: Tensor, to_after: Tensor, where: str) -> None:
        """Begin to send two edges, of one shape."""
        dtype = self._axis.travels_in(to_after.dtype)
        with ACTIVITY.at(f"edges of neighbours, {where}"):
            for distance, edge in ((1, to_after), (-1, to_before)):
                sent = edge.to(dtype).contiguous()
                into = torch.empty_like(sent)
                self._rounds.append(Round(self._axis, distance, sent, into, kind="halo exchange"))

    def receive(self) -> list[Tensor]:
        """What came from the neighbour before and from the one after, in the type of the way."""
        rounds, self._rounds = self._rounds, []
        return [each.wait() for each in rounds]


class _Begin(torch.autograd.Function):
    """Begins to send edges forwards; in the backward pass, ends what :class:`_End` began."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, edges: _Edges) -> Tensor:
        ctx.edges, width = edges, edges.width
        edges.send(x[..., :width], x[..., x.shape[-1] - width :], "forward")
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor, None]:
        # In place, since _End made it for this alone.
        for_first, for_last = ctx.edges.receive()
        width = ctx.edges.width
        dx[..., :width] += for_first
        dx[..., dx.shape[-1] - width :] += for_last
        return dx, None


class _End(torch.autograd.Function):
    """Ends what :class:`_Begin` began; in the backward pass, begins to send gradients back.

    The pass then goes through what was computed meanwhile forwards before it comes to the end.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, edges: _Edges) -> Tensor:
        ctx.edges = edges
        before, after = edges.receive()
        return _joined(before.to(x.dtype), x, after.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        width = ctx.edges.width
        size = gradient.shape[-1] - 2 * width
        # The edge that came from the neighbour before was its last one.
        ctx.edges.send(gradient[..., :width], gradient[..., width + size :], "backward")
        return gradient[..., width : width + size].clone(), None
