"""What an optimizer changes on a rank, where several instances of a model see their own samples.

Gradients are summed over ``data`` in every backward pass (gradients.py): sums, not means, so give
each replica its share of the loss.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_

from weathermixer.jigsaw.exchange import Gather, total_over
from weathermixer.jigsaw.layout import Block
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.pieces import LocalParameter, local_parameters


class Replicas:
    """The parameters of a model as an optimizer sees them, on a mesh with any number of replicas.

    With ``sharded``, each replica's optimizer has its own rows of every weight alone, and so its
    own part of the optimizer's state; the bytes sent are the same. Call ``finish_step`` after the
    optimizer's step.
    """

    def __init__(self, model: nn.Module, mesh: Mesh, *, sharded: bool = False) -> None:
        self._mesh = mesh
        self._members = [_Member(local, mesh, sharded) for local in local_parameters(model)]

    def parameters(self) -> dict[str, nn.Parameter]:
        """What the optimizer changes on this rank, by the parameters' names."""
        return {member.name: member.owned for member in self._members}

    def blocks(self) -> dict[str, Block]:
        """Which elements of the global parameters these are."""
        return {member.name: member.block for member in self._members}

    def gradient_norm(self) -> Tensor:
        """The Euclidean norm of the whole model's gradient; the same bits on all ranks."""
        return total_over(self._mesh.axes, self.gradient_square()[None])[0].sqrt()

    @torch.no_grad()
    def gradient_square(self) -> Tensor:
        """This rank's share of the square of that norm, in float64."""
        squares = torch.zeros((), dtype=torch.float64, device=self._mesh.device)
        for member in self._members:
            gradient = member.owned.grad
            if gradient is not None and member.is_counted:
                norm = torch.linalg.vector_norm(gradient)
                squares += norm.double().square()
        return squares

    def clip_gradients(self, max_norm: float, norm: Tensor | None = None) -> Tensor:
        """Scale the gradients down to a norm of at most ``max_norm``; their norm before.

        ``norm`` is :meth:`gradient_norm`, where it is known already.
        """
        norm = self.gradient_norm() if norm is None else norm
        clip_grads_with_norm_(self.parameters().values(), max_norm, norm)
        return norm

    @torch.no_grad()
    def finish_step(self) -> None:
        """Bring what the optimizer changed to every replica, and forget the gradients."""
        gathers = [member.begin_share() for member in self._members]
        for gather in gathers:
            if gather is not None:
                gather.wait()


class _Member:
    """A parameter, and the part of it that this replica's optimizer changes."""

    def __init__(self, local: LocalParameter, mesh: Mesh, sharded: bool) -> None:
        self.name, self.parameter, piece = local
        self.owned, self.block, self._data = self.parameter, piece.block, None
        destination = piece.destination
        destination.owned = None  # of an earlier optimizer
        if sharded and destination.data is not None:
            self._data = destination.data
            self._rows = destination.rows(self.parameter)
            own = self._rows[self._data.index]
            self.block = piece.block.rows(own)
            self.owned = nn.Parameter(
                self.parameter.detach()[own.start : own.stop],
                requires_grad=self.parameter.requires_grad,
            )
            destination.owned = self.owned
        # Of ranks that hold the same elements, one counts them.
        first = all(axis.index == 0 for axis in piece.shared_over)
        self.is_counted = first and (self._data is not None or mesh.data.index == 0)

    def begin_share(self) -> Gather | None:
        """Begin to gather what the replicas' optimizers changed, where each has its own rows."""
        self.parameter.grad = self.owned.grad = None
        if self._data is None:
            return None
        shapes = [(len(rows), *self.parameter.shape[1:]) for rows in self._rows]
        return Gather(self._data, self.owned.detach(), shapes, into=self.parameter.detach())
