"""What an optimizer changes on a rank, where several instances of a model see their own samples.

Gradients are summed over ``data`` in every backward pass (gradients.py): sums, not means, so give
each replica its share of the loss.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_

from weathermixer.jigsaw.arrivals import WeightArrival
from weathermixer.jigsaw.buckets import Filling
from weathermixer.jigsaw.exchange import total_over
from weathermixer.jigsaw.layout import Block, shard
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.pieces import LocalParameter, local_parameters


class Replicas:
    """The parameters of a model as an optimizer sees them, on a mesh with any number of replicas.

    With ``sharded``, each replica's optimizer has its own rows of every weight alone, and so its
    own part of the optimizer's state; the bytes sent are the same. Call ``finish_step`` after the
    optimizer's step. The gradients of weights travel between replicas in ``gradient_dtype``, by
    default the type of the weights, in which they are summed either way.
    """

    def __init__(
        self,
        model: nn.Module,
        mesh: Mesh,
        *,
        sharded: bool = False,
        gradient_dtype: torch.dtype | None = None,
    ) -> None:
        self._mesh = mesh
        self._arrivals: list[WeightArrival] = []
        self._members = [
            _Member(local, mesh, sharded, gradient_dtype) for local in local_parameters(model)
        ]

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
        """Bring what the optimizer changed to every replica, and forget the gradients.

        Weights travel when this returns. Whatever looks at one waits for it, and need not know.
        """
        for member in self._members:
            member.parameter.grad = member.owned.grad = None
        self.publish()

    @torch.no_grad()
    def publish(self) -> None:
        """Bring what was changed in :meth:`parameters` to every replica, as ``finish_step`` does.

        Gradients are left alone.
        """
        for arrival in self._arrivals:  # of weights that nobody has used since the last step
            arrival.finish()
        self._arrivals = [
            WeightArrival(
                self._mesh.data,
                [member.parameter for member in members],
                [member.owned for member in members],
            )
            for members in self._buckets()
        ]

    def _buckets(self) -> Iterator[list[_Member]]:
        """The parameters of which each replica has changed its own rows, in their order."""
        filling: Filling[_Member] = Filling()
        for member in self._members:
            weight = member.parameter
            if member.is_sharded and weight.numel():
                yield from filling.add(member, weight.nbytes, weight.dtype)
        yield from filling.rest()


class _Member:
    """A parameter, and the part of it that this replica's optimizer changes."""

    def __init__(
        self, local: LocalParameter, mesh: Mesh, sharded: bool, gradient_dtype: torch.dtype | None
    ) -> None:
        self.name, self.parameter, piece = local
        self.owned, self.block = self.parameter, piece.block
        destination = piece.destination
        destination.owned = None  # of an earlier optimizer
        destination.dtype = gradient_dtype
        self.is_sharded = sharded and destination.rows_over is not None
        if self.is_sharded:
            own = shard(self.parameter.shape[0], mesh.data.size, mesh.data.index)
            self.block = piece.block.rows(own)
            self.owned = nn.Parameter(
                self.parameter.detach()[own.start : own.stop],
                requires_grad=self.parameter.requires_grad,
            )
            destination.owned = self.owned
        # Of ranks that hold the same elements, one counts them.
        first = all(axis.index == 0 for axis in piece.shared_over)
        self.is_counted = first and (self.is_sharded or mesh.data.index == 0)
