"""Weights gathered before they are needed: they do not depend on what is being computed.

Their gradients go back the same way, one product later than they are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.weak import TensorWeakRef

from weathermixer.jigsaw.exchange import Gather, ReduceScatter
from weathermixer.jigsaw.product import Product

_Version = tuple[int, int]


class _OptimizerSteps:
    """Steps that any optimizer took. Fused ones change weights without a mark on the tensors."""

    def __init__(self) -> None:
        self.taken = 0
        register_optimizer_step_post_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.taken += 1


_steps = _OptimizerSteps()


class HoldsWeight(Protocol):
    """A layer whose product uses its weight."""

    product: Product
    weight: nn.Parameter


class WayBack:
    """On which the other ranks' parts of a weight's gradient come, in one use of the weight."""

    def __init__(self) -> None:
        self._sums: ReduceScatter | None = None

    def begin(self, sums: ReduceScatter) -> None:
        """Called in a backward pass, with what has been sent to the others."""
        self._sums = sums
        torch.autograd.Variable._execution_engine.queue_callback(self._end)

    def finish(self, own: Tensor) -> Tensor:
        """This rank's gradient, given its own part."""
        assert self._sums is not None
        sums, self._sums = self._sums, None
        return sums.finish(own)

    def _end(self) -> None:
        # torch.autograd.grad may want no gradient of the weight. The parts come all the same, and
        # the next message must not find their place.
        if self._sums is not None:
            self._sums.drop()
            self._sums = None


@dataclass(frozen=True)
class Weight:
    """A weight as one product uses it.

    ``own`` is the parameter, or stands for it in the graph; ``whole (outputs, inputs)`` is what the
    product uses, in the type of the computation. Where ``whole`` was gathered, the product begins
    ``way_back`` in the backward pass.
    """

    own: Tensor
    whole: Tensor
    way_back: WayBack


class WeightGather:
    """A weight's rows from all ranks of ``product.weight_axis``, in the type of a computation.

    What one pass gathered is used again by others for as long as something keeps it (the backward
    pass that needs it) and the weight has not changed.
    """

    def __init__(self, layer: HoldsWeight) -> None:
        self._layer = layer
        self._following: WeightGather | None = None
        self._begun: tuple[Gather, Tensor, _Version] | None = None
        self._kept: tuple[TensorWeakRef, _Version] | None = None
        self._way_back: tuple[Tensor, WayBack] | None = None

    @property
    def moves(self) -> bool:
        return self._layer.product.weight_axis.size > 1

    @property
    def _version(self) -> _Version:
        return self._layer.weight._version, _steps.taken

    def follow(self, following: WeightGather) -> None:
        """Begin ``following``, which moves, whenever this one has been asked for."""
        self._following = following

    def get(self, dtype: torch.dtype) -> Weight:
        """The weight for one use of this rank's product."""
        if self.moves:
            whole = self._wait(dtype)
            own, way_back = self._take_way_back()
            weight = Weight(own, whole, way_back)
        else:
            weight = Weight(self._layer.weight, self._layer.weight.detach().to(dtype), WayBack())
        # A block that is computed again in the backward pass is the last that needs its weights.
        if self._following is not None and torch._C._current_graph_task_id() == -1:
            self._following._prepare(dtype)
        return weight

    def _prepare(self, dtype: torch.dtype) -> None:
        """Begin to gather, and make the way back: before the product that comes before this one."""
        self._begin(dtype)
        self._way_back = _way_back(self._layer.weight)

    def _take_way_back(self) -> tuple[Tensor, WayBack]:
        found, self._way_back = self._way_back, None
        # What was made under no_grad, for a pass that never came here, leads nowhere.
        if found is None or found[0].requires_grad != torch.is_grad_enabled():
            return _way_back(self._layer.weight)
        return found

    def _wait(self, dtype: torch.dtype) -> Tensor:
        whole = self._held(dtype)
        if whole is None:
            self._begin(dtype)
            assert self._begun is not None
            gather, whole, version = self._begun
            gather.wait()
            self._begun = None
            self._kept = (TensorWeakRef(whole), version)
        return whole

    def _begin(self, dtype: torch.dtype) -> None:
        version = self._version
        if self._begun is not None:
            gather, whole, begun_version = self._begun
            if whole.dtype == dtype and begun_version == version:
                return
            gather.wait()  # for nothing: but what arrives must not find its place taken
        if self._held(dtype) is not None:
            return
        own = self._layer.weight.detach().to(dtype)
        rows, columns = self._layer.product.weight_rows, own.shape[1]
        whole = own.new_empty(sum(rows), columns)
        shapes = [(count, columns) for count in rows]
        self._begun = (
            Gather(self._layer.product.weight_axis, own, shapes, into=whole),
            whole,
            version,
        )

    def _held(self, dtype: torch.dtype) -> Tensor | None:
        if self._kept is None:
            return None
        reference, version = self._kept
        whole = reference()
        if whole is None or whole.dtype != dtype or version != self._version:
            return None
        held: Tensor = whole
        return held


def _way_back(weight: nn.Parameter) -> tuple[Tensor, WayBack]:
    """What stands for a weight in one use of it, and the way back of its gradient."""
    way_back = WayBack()
    own: Tensor = _Return.apply(weight, way_back)  # type: ignore[no-untyped-call]
    return own, way_back


class _Return(torch.autograd.Function):
    """The weight itself, whose gradient is complete when the other ranks' parts have arrived.

    Of the nodes that are ready, the backward pass takes the one that was made last. This one is
    made before the product that comes before the weight's own, and so waits after it: the parts
    travel meanwhile.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, way_back: WayBack) -> Tensor:
        ctx.way_back = way_back
        return weight.detach()

    @staticmethod
    def backward(ctx: Any, own: Tensor) -> tuple[Tensor, None]:
        return ctx.way_back.finish(own), None


def link(gathers: Sequence[WeightGather]) -> None:
    """Let each weight that moves begin when the one that moves before it is used.

    ``gathers`` come in the order in which they are used. The first that moves begins when the first
    of all is used, so that it too has products to travel beside.
    """
    moving = [gather for gather in gathers[1:] if gather.moves]
    for gather, following in pairwise([*gathers[:1], *moving]):
        gather.follow(following)
