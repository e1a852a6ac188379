"""The tensors of linear maps, forward and back, in the order in which they come and go, as sizes.

The counterpart of ``jigsaw.matmul``, ``weights`` and ``backlog``: who gathers what is said in
``jigsaw.product``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial

from weathermixer.jigsaw.layers import Linear
from weathermixer.jigsaw.product import Side, num_pieces
from weathermixer.planning.gradient_tensors import Gradients
from weathermixer.planning.ledger import Held, Ledger

# What lies between two maps: from the bytes of a piece to what is made of it, and in the backward
# pass to that again and its gradient.
Activate = Callable[[int], Held]
Differentiate = Callable[[int], tuple[Held, Held]]

_MOST_TRAVELLING = 16  # sums of gradients on their way, where nobody sees them arrive


@dataclass
class Factor:
    """What a rank has of an activation: its own part, in pieces or whole, and that of others."""

    own: list[Held] = field(default_factory=list)
    others: Held | None = None


@dataclass
class SavedMaps:
    """What the forward pass of one map, or of two, leaves for the backward pass."""

    wholes: list[Held | None] = field(default_factory=list)
    inner: list[Held] = field(default_factory=list)
    inputs: list[Factor] = field(default_factory=list)


class Products:
    """Maps as they are applied in one step: weights gathered, gradients deferred and on their way.

    The weights of ``apart`` are gathered for each use, those of other layers once.
    """

    def __init__(
        self,
        ledger: Ledger,
        layers: Sequence[Linear],
        gradients: Gradients,
        *,
        samples: int,
        weight_bytes: int,
        apart: Collection[Linear],
    ) -> None:
        self._new, self._gradients = ledger.new, gradients
        self._samples, self._weight_bytes, self._apart = samples, weight_bytes, apart
        self._has_link = layers[0].product.along.has_link
        moving = [layer for layer in layers[1:] if layer.product.weight_axis.size > 1]
        self._following = dict(zip([layers[0], *moving], moving, strict=False))
        self._wholes: dict[Linear, Held | None] = {}
        self._begun: dict[Linear, Held | None] = {}
        self._deferred: deque[tuple[int, Callable[[], None]]] = deque()
        self._travelling: deque[tuple[Held, Callable[[], None]]] = deque()
        self._num_layers = 0
        self.is_again = False  # a block is computed again, which fetches nothing ahead

    def forget_weights(self) -> None:
        """Leave gathered weights to the maps that saved them."""
        self._wholes.clear()

    def forward(
        self, layers: Sequence[Linear], x: Held, element_bytes: int, between: Activate | None = None
    ) -> tuple[Held, SavedMaps]:
        """Apply one map, or two with ``between`` them: what they make, and what is saved."""
        pieces = self._num_pieces(layers, element_bytes)
        saved, y = SavedMaps(), x
        own = [x]
        for place, layer in enumerate(layers):
            product = layer.product
            if place:
                assert between is not None
                own = [between(piece.num_bytes) for piece in saved.inner]
            is_last = place == len(layers) - 1
            num_bytes = self._own_bytes(product.target, element_bytes)
            if is_last:
                y = self._new(num_bytes)
            else:
                saved.inner = self._in_pieces(num_bytes, pieces)
            saved.wholes.append(self._fetch(layer, element_bytes))
            others = self._gathered(product.source, element_bytes)
            self._sum(product.target, element_bytes, pieces)
            is_given = place == 0 and not _lies_by_rows(product.source)
            saved.inputs.append(Factor([x] if is_given else [], others))
        del own
        return y, saved

    def backward(
        self,
        layers: Sequence[Linear],
        dy: Held,
        saved: SavedMaps,
        element_bytes: int,
        between: Differentiate | None = None,
        *,
        input_gradient: bool = True,
    ) -> Held | None:
        """The gradient of the input, where it is wanted; those of weights go where they belong."""
        pieces = self._num_pieces(layers, element_bytes)
        wholes, inner, inputs = saved.wholes, saved.inner, saved.inputs
        saved.wholes, saved.inner, saved.inputs = [], [], []
        own_dy, dx = [dy], None
        waiting: list[Callable[[], None]] = []
        for place in reversed(range(len(layers))):
            layer, x = layers[place], inputs.pop()
            product = layer.product
            outputs = Factor(own_dy, self._gathered(product.target, element_bytes))
            self._wait(product.target, pieces)
            num_bytes = self._own_bytes(product.source, element_bytes)
            if place:
                assert between is not None
                own_dy = []
                for piece in self._in_pieces(num_bytes, pieces):
                    self._sum(product.source, element_bytes, pieces, fills=True)
                    hidden, gradient = between(piece.num_bytes)
                    inner.pop()
                    x.own.append(hidden)
                    own_dy.append(gradient)
                    del hidden, gradient, piece
            elif input_gradient:
                dx = self._new(num_bytes)
                self._sum(product.source, element_bytes, pieces, fills=True)
            waiting.append(partial(self._weight, layer, outputs, x, element_bytes))
            del outputs, x
            if place and not self._has_link:
                waiting.pop()()
                self._catch_up()
        del own_dy, wholes
        waiting.reverse()
        while waiting:
            waiting.pop()()
        self._finish_layer()
        return dx

    def finish(self) -> None:
        """Make and sum all gradients that are left, as the end of the pass does."""
        self._catch_up()
        while self._travelling:
            self._arrive()

    # -- weights and what travels ------------------------------------------------------------------

    def _fetch(self, layer: Linear, element_bytes: int) -> Held | None:
        """The matrix to multiply with; None where it is the parameter itself."""
        if layer in self._wholes:
            whole = self._wholes[layer]
        elif layer in self._begun:
            whole = self._begun.pop(layer)
        else:
            whole = self._begin(layer, element_bytes)
        if layer not in self._apart:
            self._wholes[layer] = whole
        following = self._following.get(layer)
        if following is None or self.is_again:
            return whole
        if not {following} & {*self._wholes, *self._begun}:
            self._begun[following] = self._begin(following, element_bytes)
        return whole

    def _begin(self, layer: Linear, element_bytes: int) -> Held | None:
        product = layer.product
        if product.weight_axis.size == 1 and element_bytes == self._weight_bytes:
            return None
        elements = sum(product.weight_rows) * product.weight.local_shape[1]
        return self._new(elements * element_bytes, "gathered_weights")

    def _gathered(self, side: Side, element_bytes: int) -> Held | None:
        """What a gather of this rank's side brings; its own columns too where these differ."""
        if side.axis.size == 1:
            return None
        sizes = zip(side.features, side.rows, strict=True)
        total = sum(features * rows for features, rows in sizes)
        if not side.by_rows:
            total -= side.own_features * side.own_rows
        return self._new(total * self._samples * element_bytes)

    def _sum(self, side: Side, element_bytes: int, pieces: int, *, fills: bool = False) -> None:
        """Hold what a reduce-scatter to this rank's side needs while it is on its way."""
        size = side.axis.size
        if size == 1:
            return
        blocks = [
            features * rows * self._samples * element_bytes // pieces
            for features, rows in zip(side.features, side.rows, strict=True)
        ]
        own = blocks[side.axis.index]
        under_way = min(2, pieces)  # while one travels, another is made
        sent = self._new(under_way * (sum(blocks) + (size - 2) * own), "exchange")
        if fills:
            self._wait(side, 1)
        # Of a narrow type, several are summed in float32.
        summed = self._new(own * 4 // element_bytes if size > 2 and element_bytes < 4 else 0)
        del sent, summed

    def _own_bytes(self, side: Side, element_bytes: int) -> int:
        return side.own_features * side.own_rows * self._samples * element_bytes

    def _num_pieces(self, layers: Sequence[Linear], element_bytes: int) -> int:
        products = [layer.product for layer in layers]
        return num_pieces(products, samples=self._samples, element_bytes=element_bytes)

    def _in_pieces(self, num_bytes: int, pieces: int) -> list[Held]:
        return [self._new(num_bytes // pieces) for _ in range(pieces)]

    # -- gradients of weights ----------------------------------------------------------------------

    def _weight(self, layer: Linear, outputs: Factor, x: Factor, element_bytes: int) -> None:
        """Make the gradient of a weight, or defer it, as a product's does."""
        product, axis = layer.product, layer.product.weight_axis
        columns = product.weight.local_shape[1]
        rows = sum(product.weight_rows)
        self._join(outputs)  # of which the gradient of the bias is the sum
        if not product.is_shared and not self._gradients.has_replicas:
            self._gradients.give(layer, self._new(rows * columns * element_bytes, "gradients"))
            return
        slices = product.gradient_slices(element_bytes)
        own = layer.weight.numel()
        total = self._new(own * self._weight_bytes, "gradients")
        is_whole = axis.size == 1 and element_bytes == self._weight_bytes
        made = 0 if is_whole else (rows * columns + (axis.size - 1) * own) * element_bytes
        for number in range(slices):
            then = partial(self._gradients.give, layer, total) if number == slices - 1 else _nothing
            work = partial(self._make, outputs, x, made // slices, then)
            self._deferred.append((self._num_layers, work))

    def _make(self, outputs: Factor, x: Factor, made: int, then: Callable[[], None]) -> None:
        self._join(x)
        self._travelling.append((self._new(made, "exchange"), then))
        most = _MOST_TRAVELLING if self._has_link else 0
        while len(self._travelling) > most:
            self._arrive()

    def _join(self, factor: Factor) -> None:
        """Lay the pieces of an activation end to end."""
        if len(factor.own) > 1:
            factor.own = [self._new(sum(piece.num_bytes for piece in factor.own))]

    def _arrive(self) -> None:
        _, then = self._travelling.popleft()
        then()

    def _wait(self, side: Side, pieces: int) -> None:
        """Do a little of what was deferred in each wait for another rank, over a link."""
        if self._has_link:
            for _ in range((side.axis.size - 1) * pieces):
                self.fill()

    def fill(self) -> None:
        """Do a little of what was deferred, as a wait over a link does."""
        if self._has_link and self._deferred:
            self._deferred.popleft()[1]()

    def _catch_up(self) -> None:
        while self._deferred:
            self._deferred.popleft()[1]()

    def _finish_layer(self) -> None:
        while self._deferred and self._deferred[0][0] < self._num_layers:
            self._deferred.popleft()[1]()
        self._num_layers += 1


def _lies_by_rows(side: Side) -> bool:
    return side.by_rows and side.axis.size > 1


def _nothing() -> None:
    """What follows a slice that is not the last."""
