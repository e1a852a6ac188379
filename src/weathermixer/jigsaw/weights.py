"""Weights as products use them: gathered where they are cut across rows, in the product's type.

What a use of a weight gathers serves that use and its backward pass. Within
:func:`kept_weights` the first use gathers for all. Which it is depends on the program alone, so
every rank gathers as often as the others. A weight that moves is fetched while the layers before
its own compute, but not before they have sent what the others wait for.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from weathermixer.jigsaw.activity import ACTIVITY
from weathermixer.jigsaw.exchange import Gather
from weathermixer.jigsaw.gradients import Use, in_backward, use
from weathermixer.jigsaw.layout import offsets
from weathermixer.jigsaw.opaque import opaque
from weathermixer.jigsaw.pieces import Piece
from weathermixer.jigsaw.product import Product


def _count_step(*_: Any) -> None:
    """Take note of a step of any optimizer: fused ones change weights without a mark on them."""
    ACTIVITY.steps += 1


register_optimizer_step_post_hook(_count_step)


class HoldsWeight(Protocol):
    """A layer whose product uses its weight."""

    name: str
    product: Product
    weight: nn.Parameter
    pieces: dict[str, Piece]


class _State(NamedTuple):
    """What has to be the same for a gathered weight to be that of now."""

    dtype: torch.dtype
    version: int
    steps: int


@dataclass
class FetchedWeight:
    """A weight ``(outputs, inputs)`` as a product uses it: rows of other ranks may be on their way.

    ``own`` are the rows that this rank holds itself.
    """

    whole: Tensor
    own: range
    gather: Gather | None = None

    @property
    def is_arriving(self) -> bool:
        """Whether nobody has waited for the others' rows yet."""
        return self.gather is not None

    def wait(self) -> None:
        """Wait for the others' rows."""
        if self.gather is not None:
            self.gather.wait()
            self.gather = None


class WeightGather:
    """A weight's rows from all ranks of ``product.weight_axis``, in the type of a computation."""

    def __init__(self, layer: HoldsWeight) -> None:
        self._layer = layer
        self._begun: tuple[FetchedWeight, _State] | None = None
        self._keeps = False
        self._kept: tuple[FetchedWeight, _State] | None = None
        self._kept_use: Use | None = None
        self._last_dtype: torch.dtype | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> WeightGather:
        # What is on its way does not belong to a copy of the layer.
        memo[id(self)] = copied = WeightGather.__new__(WeightGather)
        WeightGather.__init__(copied, copy.deepcopy(self._layer, memo))
        return copied

    @property
    def moves(self) -> bool:
        """Whether other ranks hold rows of what the product uses."""
        return self._layer.product.weight_axis.size > 1

    def keep(self, keeps: bool) -> bool:
        """Whether to keep what is gathered from now on; whether it was kept until now."""
        before, self._keeps = self._keeps, keeps
        if not keeps:
            self._kept = self._kept_use = None
        return before

    def fetch(self, dtype: torch.dtype) -> FetchedWeight:
        """The matrix ``(outputs, inputs)`` to multiply with, all of which may not be there yet."""
        state = self._state(dtype)
        self._last_dtype = dtype
        if self._kept is not None and self._kept[1] == state:
            return self._kept[0]
        fetched = self._fetch(state)
        if self._keeps:
            self._kept = fetched, state
        return fetched

    def begin_ahead(self) -> bool:
        """Begin what the next use will need if it is like the last.

        False where there was none, and where it is here or on its way already.
        """
        if self._last_dtype is None or self._is_begun(self._state(self._last_dtype)):
            return False
        self.begin(self._last_dtype)
        return True

    def begin(self, dtype: torch.dtype) -> None:
        """Begin what the next use is going to need, unless it is here or on its way."""
        state = self._state(dtype)
        if not self.moves or self._is_begun(state):
            return
        self._let_go()
        # Not as tensors of inference mode, should the pass that uses them have gradients.
        with torch.inference_mode(False), torch.no_grad():
            own = self._layer.weight.detach().to(dtype)
            axis = self._layer.product.weight_axis.ahead()
            rows, columns = self._layer.product.weight_rows, own.shape[1]
            whole = own.new_empty(sum(rows), columns)
            shapes = [(count, columns) for count in rows]
            with ACTIVITY.at(f"{self._layer.name}, weight"):
                into = torch.split(whole, list(rows))
                gather = Gather(axis, own, shapes, into, dtype=axis.travels_in(dtype))
        self._begun = FetchedWeight(whole, offsets(rows)[axis.index], gather), state

    def _fetch(self, state: _State) -> FetchedWeight:
        if not self.moves:
            with torch.inference_mode(False), torch.no_grad():
                whole = self._layer.weight.detach().to(state.dtype)
            return FetchedWeight(whole, range(len(whole)))
        self.begin(state.dtype)
        assert self._begun is not None
        fetched, _ = self._begun
        self._begun = None
        if not self._layer.product.weight_axis.has_link:
            fetched.wait()
        return fetched

    def _is_begun(self, state: _State) -> bool:
        return any(held is not None and held[1] == state for held in (self._kept, self._begun))

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


class Ahead:
    """The weights to fetch while what follows a layer computes: the next two that move.

    A layer begins one when it has nothing more to send that the others wait for. What a norm sends
    is small and soon waited for, so that nothing large should travel just before it: then
    ``is_first`` says that the layer before it leaves it to the norm.
    """

    def __init__(self, *, is_first: bool = False) -> None:
        self.is_first = is_first
        self.gathers: tuple[WeightGather, ...] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Ahead:
        return Ahead(is_first=self.is_first)  # what follows does not belong to a copy of a layer

    def begin_next(self) -> None:
        """Begin the first of them that is neither here nor on its way."""
        # A block that is computed again in the backward pass is the last that needs its weights.
        if not in_backward():
            any(gather.begin_ahead() for gather in self.gathers)


def fetch_in_order(model: nn.Module) -> None:
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
    """Tell each layer which weights to fetch ahead."""
    layers = [module for module in model.modules() if hasattr(module, "ahead")]
    aheads = [cast("Ahead", layer.ahead) for layer in layers]
    for place, ahead in enumerate(aheads):
        following = [each for layer in layers[place + 1 :] for each in _gathers_of(layer)]
        norm_is_next = any(other.is_first for other in aheads[place + 1 : place + 2])
        moving = [gather for gather in following if gather.moves]
        ahead.gathers = () if norm_is_next else tuple(moving[:2])
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
