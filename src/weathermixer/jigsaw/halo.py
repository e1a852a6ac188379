"""Edges of the neighbouring ranks, for what looks a little beyond its own part of a dimension.

The ranks along an axis stand in a circle: the first one's neighbour before it is the last. Edges
travel while something else is computed, forwards and, as gradients, back.
"""

from __future__ import annotations

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
        self.width, self.axis = width, (mesh or Mesh.describe()).domain

    @opaque
    def forward(self, x: Tensor) -> WidenedTensor:
        """Begin to send the edges of ``x``; what is returned is to be waited for.

        Raises LayoutError where the rank has fewer elements than its neighbours are to see.
        """
        if x.shape[-1] < self.width:
            raise LayoutError(
                f"a Halo of {self.width} elements takes as many or more from each rank, but this "
                f"one has {x.shape[-1]}: choose a smaller width, or fewer ranks along "
                f"{self.axis.name}"
            )
        return WidenedTensor(x, self.axis, self.width)


class WidenedTensor:
    """A tensor whose neighbours' edges are on their way."""

    def __init__(self, x: Tensor, axis: Axis, width: int) -> None:
        self._edges = _Edges(axis, width)
        self._x: Tensor = _Begin.apply(x, self._edges)  # type: ignore[no-untyped-call]

    @opaque
    def wait(self) -> Tensor:
        """The tensor with the edges of both neighbours."""
        whole: Tensor = _Widen.apply(self._x, self._edges)  # type: ignore[no-untyped-call]
        return whole


class _Edges:
    """What goes to both neighbours and comes from them: edges forwards, their gradients back."""

    def __init__(self, axis: Axis, width: int) -> None:
        self._axis, self.width = axis, width
        self._rounds: list[Round] = []
        self._came: list[Tensor] = []

    def send(self, to_before: Tensor, to_after: Tensor, where: str) -> None:
        """Begin to send two edges, of one shape."""
        if self._axis.size == 1:
            self._came = [to_after.contiguous(), to_before.contiguous()]
            return
        dtype = self._axis.travels_in(to_after.dtype)
        with ACTIVITY.at(f"edges of neighbours, {where}"):
            for distance, edge in ((1, to_after), (-1, to_before)):
                sent = edge.to(dtype).contiguous()
                into = torch.empty_like(sent)
                self._rounds.append(Round(self._axis, distance, sent, into, kind="halo exchange"))

    def receive(self) -> list[Tensor]:
        """What came from the neighbour before and from the one after, in the type of the way."""
        came = self._came or [each.wait() for each in self._rounds]
        self._rounds, self._came = [], []
        return came


class _Begin(torch.autograd.Function):
    """Begins to send edges forwards; in the backward pass, ends what :class:`_Widen` began."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, edges: _Edges) -> Tensor:
        ctx.edges, width = edges, edges.width
        edges.send(x[..., :width], x[..., x.shape[-1] - width :], "forward")
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor, None]:
        # In place, since _Widen made it for this alone.
        for_first, for_last = ctx.edges.receive()
        width = ctx.edges.width
        dx[..., :width] += for_first
        dx[..., dx.shape[-1] - width :] += for_last
        return dx, None


class _Widen(torch.autograd.Function):
    """Ends what :class:`_Begin` began; in the backward pass, begins to send gradients back.

    The pass then goes through what was computed meanwhile forwards before it comes to the end.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, edges: _Edges) -> Tensor:
        ctx.edges = edges
        before, after = edges.receive()
        return torch.cat([before.to(x.dtype), x, after.to(x.dtype)], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        width = ctx.edges.width
        size = gradient.shape[-1] - 2 * width
        # The edge that came from the neighbour before was its last one.
        ctx.edges.send(gradient[..., :width], gradient[..., width + size :], "backward")
        return gradient[..., width : width + size].clone(), None
