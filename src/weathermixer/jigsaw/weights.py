"""Weights as products use them: gathered where they are cut across rows, in the product's type.

What a use of a weight gathers serves that use and its backward pass. Within
:func:`kept_weights` the first use gathers for all. Which it is depends on the program alone, so
every rank gathers as often as the others. A weight that moves is fetched while the layers before
its own compute.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple, Protocol
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from weathermixer.jigsaw.activity import ACTIVITY
from weathermixer.jigsaw.exchange import Gather
from weathermixer.jigsaw.gradients import Use, in_backward, use
from weathermixer.jigsaw.opaque import opaque
from weathermixer.jigsaw.pieces import Piece
from weathermixer.jigsaw.product import Product


def _count_step(*_: Any) -> None:
    """Take note of a step of any optimizer: fused ones change weights without a mark on them."""
    ACTIVITY.steps += 1


register_optimizer_step_post_hook(_count_step)


class HoldsWeight(Protocol):
    """A layer whose product uses its weight."""

    product: Product
    weight: nn.Parameter
    pieces: dict[str, Piece]


class _State(NamedTuple):
    """What has to be the same for a gathered weight to be that of now."""

    dtype: torch.dtype
    version: int
    steps: int


class WeightGather:
    """A weight's rows from all ranks of ``product.weight_axis``, in the type of a computation."""

    def __init__(self, layer: HoldsWeight) -> None:
        self._layer = layer
        self._following: WeightGather | None = None
        self._begun: tuple[Gather, Tensor, _State] | None = None
        self._keeps = False
        self._kept: tuple[Tensor, _State] | None = None
        self._kept_use: Use | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> WeightGather:
        # Neither what is on its way nor the layers that follow belong to a copy of the layer.
        memo[id(self)] = copied = WeightGather.__new__(WeightGather)
        WeightGather.__init__(copied, copy.deepcopy(self._layer, memo))
        return copied

    @property
    def moves(self) -> bool:
        """Whether other ranks hold rows of what the product uses."""
        return self._layer.product.weight_axis.size > 1

    def follow(self, following: WeightGather) -> None:
        """Begin ``following``, which moves, whenever this one has been asked for."""
        self._following = following

    def keep(self, keeps: bool) -> bool:
        """Whether to keep what is gathered from now on; whether it was kept until now."""
        before, self._keeps = self._keeps, keeps
        if not keeps:
            self._kept = self._kept_use = None
        return before

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """The matrix ``(outputs, inputs)`` to multiply with."""
        state = self._state(dtype)
        if self._kept is not None and self._kept[1] == state:
            whole = self._kept[0]
        else:
            whole = self._fetch(state)
            if self._keeps:
                self._kept = whole, state
        # A block that is computed again in the backward pass is the last that needs its weights.
        if self._following is not None and not in_backward():
            self._following.prefetch(dtype)
        return whole

    def prefetch(self, dtype: torch.dtype) -> None:
        """Begin what the next use is going to need, unless it is here or on its way."""
        state = self._state(dtype)
        if self._kept is not None and self._kept[1] == state:
            return
        if self._begun is not None and self._begun[2] == state:
            return
        self._let_go()
        # Not as tensors of inference mode, should the pass that uses them have gradients.
        with torch.inference_mode(False), torch.no_grad():
            own = self._layer.weight.detach().to(dtype)
            rows, columns = self._layer.product.weight_rows, own.shape[1]
            whole = own.new_empty(sum(rows), columns)
            shapes = [(count, columns) for count in rows]
            into = torch.split(whole, list(rows))
            gather = Gather(self._layer.product.weight_axis.ahead(), own, shapes, into)
        self._begun = gather, whole, state

    def _fetch(self, state: _State) -> Tensor:
        if not self.moves:
            with torch.inference_mode(False), torch.no_grad():
                return self._layer.weight.detach().to(state.dtype)
        self.prefetch(state.dtype)
        assert self._begun is not None
        gather, whole, _ = self._begun
        gather.wait()
        self._begun = None
        return whole

    def _let_go(self) -> None:
        """Finish what was begun for a pass that was broken off, or before weights changed."""
        if self._begun is not None:
            self._begun[0].wait()
            self._begun = None

    def _state(self, dtype: torch.dtype) -> _State:
        return _State(dtype, self._layer.weight._version, ACTIVITY.steps)

    def use(self, dtype: torch.dtype) -> Use:
        """The parameter in the graph: one node for all uses of a weight that is kept."""
        weight, destination = self._layer.weight, self._layer.pieces["weight"].destination
        if not self._keeps or not torch.is_grad_enabled():
            return use(weight, destination, is_cut=self.moves)
        if self._kept is not None and self._kept[1] != self._state(dtype):
            self._kept = self._kept_use = None
        if self._kept_use is None:
            self._kept_use = use(weight, destination, is_cut=self.moves)
        return self._kept_use


def prefetch_in_order(model: nn.Module) -> None:
    """Let each weight that moves be gathered while the layers before it compute.

    The order is that in which the layers were registered, which must be the one they are used in.
    """
    _link(model)

    @opaque
    def link_copy(module: nn.Module, _: Any) -> None:
        if module not in _linked:
            _link(module)

    model.register_forward_pre_hook(link_copy)


_linked: WeakSet[nn.Module] = WeakSet()


def _link(model: nn.Module) -> None:
    """Let each weight that moves begin when the one that moves before it is used.

    The first that moves begins when the first of all is used, so that it too has products to travel
    beside.
    """
    gathers = _gathers_of(model)
    moving = [gather for gather in gathers[1:] if gather.moves]
    for gather, following in pairwise([*gathers[:1], *moving]):
        gather.follow(following)
    _linked.add(model)


def _gathers_of(model: nn.Module) -> list[WeightGather]:
    held = (getattr(module, "gathered", None) for module in model.modules())
    return [gather for gather in held if isinstance(gather, WeightGather)]


@contextmanager
def kept_weights(model: nn.Module, *, apart_from: Iterable[nn.Module] = ()) -> Iterator[None]:
    """Within, the first use of each weight of ``model`` gathers it, and the others use it again.

    For a rollout, whose steps use the same weights, and for a forecast. Modules ``apart_from``
    these gather for each use, as those should whose activations are computed again in the backward
    pass, to save memory. A weight that is changed is gathered anew. Every rank enters and leaves
    the scope at the same place of the program. It costs the memory of the gathered weights: of one
    over features that are cut over ``tensor``, ``1 / tensor``; unless it stays where it is.
    """
    apart = {gather for module in apart_from for gather in _gathers_of(module)}
    gathers = [gather for gather in _gathers_of(model) if gather not in apart]
    before = [gather.keep(True) for gather in gathers]
    try:
        yield
    finally:
        for gather, kept in zip(gathers, before, strict=True):
            gather.keep(kept)
