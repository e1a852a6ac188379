"""Several instances of a model, each on its own samples: gradients summed over ``data``.

The weights' gradients travel while the backward pass goes on, each as soon as it is known, a block
of rows to each replica; the small parameters' are summed with those of other axes (gradients.py).
Sums, not means: give each replica its share of the loss.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from weathermixer.jigsaw.exchange import Gather, ReduceScatter, total_over
from weathermixer.jigsaw.layers import local_parameters
from weathermixer.jigsaw.layout import Block, shard
from weathermixer.jigsaw.mesh import Axis, Mesh


class Replicas:
    """The parameters of a model as an optimizer sees them, on a mesh with any number of replicas.

    Call ``finish_gradients`` between the backward pass and the optimizer step, and
    ``finish_step`` after it. With ``sharded``, each replica's optimizer has its own rows of every
    weight alone, and so its own part of the optimizer's state; the bytes sent are the same.
    """

    def __init__(self, model: nn.Module, mesh: Mesh, *, sharded: bool = False) -> None:
        self._mesh = mesh
        self._members = [_Member(*found, mesh.data, sharded) for found in local_parameters(model)]
        self._arrived: list[_Member] = []
        if mesh.data.size > 1:
            for member in self._members:
                if member.is_weight:
                    member.parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                        self._begin(member)
                    )

    def parameters(self) -> dict[str, nn.Parameter]:
        """What the optimizer changes on this rank, by the parameters' names."""
        return {member.name: member.owned for member in self._members}

    def blocks(self) -> dict[str, Block]:
        """Which elements of the global parameters these are."""
        return {member.name: member.block for member in self._members}

    @torch.no_grad()
    def finish_gradients(self) -> None:
        """Give every one of ``parameters`` its gradient, summed over the replicas."""
        for member in self._arrived:
            member.finish_reduce()
        for member in self._arrived:
            member.finish_gather()
        self._arrived = []

    @torch.no_grad()
    def finish_step(self) -> None:
        """Bring what the optimizer changed to every replica, and forget the gradients."""
        for member in self._members:
            member.begin_share()
        for member in self._members:
            member.finish_share()

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

    def _begin(self, member: _Member) -> Callable[[Tensor], None]:
        def hook(_: Tensor) -> None:
            with torch.no_grad():
                member.begin_reduce()
            self._arrived.append(member)

        return hook


class _Member:
    """One parameter, and the part of it that this replica's optimizer changes."""

    def __init__(
        self,
        name: str,
        parameter: nn.Parameter,
        block: Block,
        axes: tuple[Axis, ...],
        data: Axis,
        sharded: bool,
    ) -> None:
        self.name, self.parameter, self._data = name, parameter, data
        self.is_weight = parameter.ndim > 1
        parts = [shard(parameter.shape[0], data.size, place) for place in range(data.size)]
        self._rows = parts if self.is_weight else []
        self._is_sharded = sharded and self.is_weight and data.size > 1
        own = parts[data.index]
        self.block = block.rows(own) if self._is_sharded else block
        self.owned = (
            nn.Parameter(parameter.detach()[own.start : own.stop])
            if self._is_sharded
            else parameter
        )
        # Of ranks that hold the same elements, one counts them.
        first = all(axis.index == 0 for axis in axes)
        self.is_counted = first and (self._is_sharded or data.index == 0)
        self._sums: ReduceScatter | None = None
        self._gather: Gather | None = None

    def begin_reduce(self) -> None:
        gradient = self._gradient
        self._sums = ReduceScatter(self._data)
        own = self._rows[self._data.index]
        for place in self._data.peers()[:-1]:
            rows = self._rows[place]
            shape = (len(own), *gradient.shape[1:])
            self._sums.send(gradient[rows.start : rows.stop], shape)

    def finish_reduce(self) -> None:
        assert self._sums is not None
        own = self._rows[self._data.index]
        mine = self._sums.finish(self._gradient[own.start : own.stop])
        self._sums = None
        if self._is_sharded:
            self.owned.grad, self.parameter.grad = mine, None
        else:
            self._gather = self._spread(mine, self._gradient)

    def finish_gather(self) -> None:
        if self._gather is not None:
            self._gather.wait()
            self._gather = None

    def begin_share(self) -> None:
        if self._is_sharded:
            self._gather = self._spread(self.owned.detach(), self.parameter.detach())
        self.parameter.grad = self.owned.grad = None

    def finish_share(self) -> None:
        self.finish_gather()

    @property
    def _gradient(self) -> Tensor:
        assert self.parameter.grad is not None
        return self.parameter.grad

    def _spread(self, mine: Tensor, into: Tensor) -> Gather:
        shapes = [(len(rows), *into.shape[1:]) for rows in self._rows]
        return Gather(self._data, mine, shapes, into=into)
