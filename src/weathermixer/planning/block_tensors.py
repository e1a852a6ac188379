"""The tensors of norms and of the mixings of a block, forward and back, as sizes.

The counterpart of ``jigsaw.normalise`` and of ``Mixing`` of ``model.mixer``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

from torch import nn

from weathermixer.jigsaw.layers import LayerNorm, Linear
from weathermixer.model.mixer import Mixing, Modulation
from weathermixer.planning.ledger import Held
from weathermixer.planning.product_tensors import Products, SavedMaps


@dataclass
class SavedNorm:
    """A norm's input, and a mean and a scale of each row."""

    x: list[Held]
    statistics: Held


@dataclass
class SavedMixing:
    """What a mixing leaves for the backward pass."""

    norm: SavedNorm
    maps: SavedMaps
    modulated: list[Held]


class BlockTensors:
    """Norms and mixings on a rank, whose maps are those of ``products``.

    ``wide_bytes`` are those of an element in the type of the weights, in which ``wide_norms``
    compute, ``narrow_bytes`` those of the type of the blocks.
    """

    def __init__(
        self,
        new: Callable[[int], Held],
        products: Products,
        *,
        wide_bytes: int,
        narrow_bytes: int,
        wide_norms: Collection[nn.Module],
    ) -> None:
        self._new, self._products = new, products
        self._wide, self._narrow, self._wide_norms = wide_bytes, narrow_bytes, wide_norms

    def block(
        self, block: list[Mixing], x: Held, *, ends_early: bool = False
    ) -> tuple[Held, list[SavedMixing]]:
        """Apply a block's mixings: what they make, and what is saved.

        With ``ends_early`` what they make is not added to the last one's input.
        """
        saved = []
        for mixing in block:
            y, norm = self.norm(norm_of(mixing.norm), x)
            modulated = [] if mixing.modulation is None else [y]
            if mixing.modulation is not None:
                y = self._modulate(mixing.modulation, y, modulated)
            y, maps = self._products.forward(
                maps_of(mixing), y, self._narrow, partial(self._activate, mixing)
            )
            saved.append(SavedMixing(norm, maps, modulated))
            del modulated
            if not ends_early or mixing is not block[-1]:
                x = self._new(y.num_bytes)
            del y
        return x, saved

    def _modulate(self, modulation: Modulation, y: Held, saved: list[Held]) -> Held:
        """What a norm made, scaled and shifted; scales of tokens are saved beside it."""
        size = y.num_bytes
        shift: list[Held] = []
        if modulation.is_local:
            of_tokens = self._new(size)
            saved.append(self._new(size))
            del of_tokens
            of_tokens = self._new(size)
            shift.append(self._new(size))
            del of_tokens
        return self._new(size)

    def norm(self, norm: LayerNorm, x: Held) -> tuple[Held, SavedNorm]:
        """Apply a norm: what it makes, and what is saved."""
        rows, ranks = norm.cut.rows * self._products.samples, norm.cut.axis.size
        itemsize = self._itemsize(norm)
        wide = max(4, itemsize)
        widened = [self._new(x.num_bytes * wide // itemsize)] if wide != itemsize else []
        if ranks == 1:
            widened.clear()
            y = self._new(x.num_bytes)
        else:
            y = self._new(x.num_bytes * wide // itemsize)
            self._products.weights.begin_ahead(norm.ahead)
            # Means and variances of all ranks, and what they are merged by.
            merged = self._new((2 * ranks + 8) * rows * wide)
            del merged
            if wide != itemsize:
                y = self._new(x.num_bytes)
        del widened
        return y, SavedNorm([x], self._new(2 * rows * wide))

    def mixing_back(self, mixing: Mixing, dy: Held, saved: SavedMixing) -> Held:
        """The gradient of a mixing's input."""

        def differentiate(num_bytes: int) -> tuple[Held, Held]:
            hidden = self._activate(mixing, num_bytes)
            gradient = self._new(num_bytes)
            if drops(mixing):
                gradient = self._new(num_bytes)
            return hidden, gradient

        dx = self._products.backward(maps_of(mixing), dy, saved.maps, self._narrow, differentiate)
        assert dx is not None
        if saved.modulated:
            slopes = self._new(dx.num_bytes)
            dx = self._new(dx.num_bytes)
            del slopes
            saved.modulated.clear()
        dx = self.norm_back(norm_of(mixing.norm), dx.num_bytes, saved.norm)
        return self._new(dx.num_bytes)

    def norm_back(self, norm: LayerNorm, num_bytes: int, saved: SavedNorm) -> Held:
        """The gradient of a norm's input, of so many bytes."""
        itemsize = self._itemsize(norm)
        wide = max(4, itemsize)
        widened: list[Held] = []
        if norm.cut.axis.size > 1:
            if wide != itemsize:
                widened = [self._new(num_bytes * wide // itemsize) for _ in range(3)]
                widened.pop()
                self._products.deferred.fill()
                dx = self._new(num_bytes)
            else:
                dx = self._new(num_bytes)
                self._products.deferred.fill()
        else:
            dx = self._new(num_bytes)
        del widened
        saved.x.clear()
        return dx

    def _activate(self, mixing: Mixing, num_bytes: int) -> Held:
        """GELU, and what dropout makes of it; the places that it zeroes are drawn meanwhile."""
        active = self._new(num_bytes)
        dropped = drops(mixing)
        if not dropped or not num_bytes:
            return active
        elements = num_bytes // self._narrow
        count = math.ceil(elements * dropped + 8.0 * math.sqrt(elements * dropped) + 8.0)
        places = [self._new(8 * count), self._new(8 * count)]
        result = self._new(num_bytes)
        del places
        return result

    def _itemsize(self, norm: LayerNorm) -> int:
        return self._wide if norm in self._wide_norms else self._narrow


def linear(module: nn.Module) -> Linear:
    """A module of a network that is cut, which is a linear map."""
    assert isinstance(module, Linear)
    return module


def norm_of(module: nn.Module) -> LayerNorm:
    """A module of a network that is cut, which is a norm."""
    assert isinstance(module, LayerNorm)
    return module


def mixings(block: nn.Module) -> list[Mixing]:
    """The mixings of a block, in order."""
    return [each for each in block.children() if isinstance(each, Mixing)]


def maps_of(mixing: Mixing) -> list[Linear]:
    """The two maps of a mixing."""
    return [linear(mixing.expand), linear(mixing.contract)]


def drops(mixing: Mixing) -> float:
    """The probability with which a training zeroes what lies between the maps."""
    p: float = mixing.dropout.p
    return p
