"""Weights as products use them, gathered or cast, in the order in which they come and go, as sizes.

The counterpart of ``jigsaw.weights``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from weathermixer.jigsaw.layers import Linear
from weathermixer.jigsaw.weights import Ahead
from weathermixer.planning.ledger import Held, Ledger


class GatheredWeights:
    """The weights that are here or on their way, in the types that layers compute in.

    Those of ``apart`` are gathered for each use, those of other layers once.
    """

    def __init__(
        self,
        ledger: Ledger,
        layers: Sequence[Linear],
        *,
        weight_bytes: int,
        element_bytes: Callable[[Linear], int],
        apart: Collection[Linear],
    ) -> None:
        """``element_bytes`` are those of the type that a layer computes in."""
        self._new, self._weight_bytes = ledger.new, weight_bytes
        self._element_bytes, self._apart = element_bytes, apart
        self._layer_of = {layer.gathered: layer for layer in layers}
        self._wholes: dict[Linear, Held | None] = {}
        self._begun: dict[Linear, Held | None] = {}
        self.is_again = False  # a block is computed again, which fetches nothing ahead

    def forget(self) -> None:
        """Leave gathered weights to the maps that saved them."""
        self._wholes.clear()

    def begin(self, layer: Linear, element_bytes: int) -> None:
        """Begin to gather a weight that moves, unless it is here or on its way."""
        is_here = layer in self._wholes or layer in self._begun
        if layer.product.weight_axis.size > 1 and not is_here:
            self._begun[layer] = self._gather(layer, element_bytes)

    def begin_ahead(self, ahead: Ahead) -> None:
        """Begin the next weight that a layer fetches ahead."""
        following = [self._layer_of[gather] for gather in ahead.gathers]
        wanted = (layer for layer in following if not {layer} & {*self._wholes, *self._begun})
        if not self.is_again and (layer := next(wanted, None)) is not None:
            self._begun[layer] = self._gather(layer, self._element_bytes(layer))

    def fetch(self, layer: Linear, element_bytes: int) -> Held | None:
        """The matrix to multiply with; None where it is the parameter itself."""
        if layer in self._wholes:
            return self._wholes[layer]
        whole = (
            self._begun.pop(layer) if layer in self._begun else self._gather(layer, element_bytes)
        )
        if layer not in self._apart:
            self._wholes[layer] = whole
        return whole

    def _gather(self, layer: Linear, element_bytes: int) -> Held | None:
        product = layer.product
        if product.weight_axis.size == 1 and element_bytes == self._weight_bytes:
            return None
        elements = sum(product.weight_rows) * product.weight.local_shape[1]
        return self._new(elements * element_bytes, "gathered_weights")
