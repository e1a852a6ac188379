"""The tensors of linear maps, forward and back, in the order in which they come and go, as sizes.

The counterpart of ``jigsaw.matmul``: who gathers what is said in ``jigsaw.product``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from weathermixer.jigsaw.layers import Linear
from weathermixer.jigsaw.pipeline import take_turns
from weathermixer.jigsaw.product import Side, num_pieces
from weathermixer.jigsaw.weights import Ahead
from weathermixer.planning.deferred_tensors import DeferredGradients, Factor, summed_wide
from weathermixer.planning.gradient_tensors import Gradients
from weathermixer.planning.ledger import Held, Ledger
from weathermixer.planning.weight_tensors import GatheredWeights

# What lies between two maps: from the bytes of a piece to what is made of it, and in the backward
# pass to that again and its gradient.
Activate = Callable[[int], Held]
Differentiate = Callable[[int], tuple[Held, Held]]


@dataclass
class SavedMaps:
    """What the forward pass of one map, or of two, leaves for the backward pass."""

    wholes: list[Held | None] = field(default_factory=list)
    inner: list[Held] = field(default_factory=list)
    inputs: list[Factor] = field(default_factory=list)


class Products:
    """Maps as they are applied in one step, with their ``weights`` and ``deferred`` gradients.

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
        element_bytes: Callable[[Linear], int],
        apart: Collection[Linear],
    ) -> None:
        """``element_bytes`` are those of the type that a layer computes in."""
        self._new = ledger.new
        self.samples, self._weight_bytes = samples, weight_bytes  # those in hand, which may change
        self._has_link = layers[0].product.along.has_link
        self.weights = GatheredWeights(
            ledger, layers, weight_bytes=weight_bytes, element_bytes=element_bytes, apart=apart
        )
        self.deferred = DeferredGradients(
            ledger, gradients, weight_bytes=weight_bytes, has_link=self._has_link
        )

    def forward(
        self, layers: Sequence[Linear], x: Held, element_bytes: int, between: Activate | None = None
    ) -> tuple[Held, SavedMaps]:
        """Apply one map, or two with ``between`` them: what they make, and what is saved."""
        pieces = self._num_pieces(layers, element_bytes)
        saved, made, given = SavedMaps(), list[Held](), list[Held]()
        saved.inputs = [Factor() for _ in layers]
        if not _lies_by_rows(layers[0].product.source):
            saved.inputs[0].own = [x]

        for layer in layers:
            self.weights.begin(layer, element_bytes)

        def pass_through(number: int) -> Iterator[None]:
            for place, layer in enumerate(layers):
                product = layer.product
                is_last = place == len(layers) - 1 and number == pieces - 1
                num_bytes = self._own_bytes(product.target, element_bytes)
                if place:
                    assert between is not None
                    given.append(between(saved.inner[number].num_bytes))
                if place < len(layers) - 1:
                    saved.inner.append(self._new(num_bytes // pieces))
                elif not made:
                    made.append(self._new(num_bytes))
                if place == len(saved.wholes):
                    saved.wholes.append(self.weights.fetch(layer, element_bytes))
                yield from self._contraction(
                    product.source,
                    product.target,
                    saved.inputs[place],
                    element_bytes,
                    pieces,
                    ahead=layer.ahead if is_last else None,
                )

        take_turns([pass_through(number) for number in range(pieces)])
        return made[0], saved

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
        wholes, inner, x = saved.wholes, saved.inner, saved.inputs
        saved.wholes, saved.inner, saved.inputs = [], [], []
        outputs = [Factor() for _ in layers]
        outputs[-1].own = [dy]
        dx: list[Held] = []
        has_waits = self._has_link and any(layer.product.largest_message for layer in layers)
        by_pieces = {
            place: self._new(layer.weight.numel() * self._weight_bytes, "gradients")
            for place, layer in reversed([*enumerate(layers)])
            if self._passes_by_pieces(layer, element_bytes, pieces)
        }

        def has_passed(place: int, number: int) -> None:
            if place not in by_pieces:
                return
            total = [by_pieces.pop(place)] if number == pieces - 1 else []
            self.deferred.defer_piece(layers[place], outputs[place], x[place], total)

        def parameters(place: int) -> None:
            is_made = self._passes_by_pieces(layers[place], element_bytes, pieces)
            self.deferred.defer(
                layers[place], outputs.pop(), x.pop(), element_bytes, is_made=is_made
            )

        def pass_back(number: int) -> Iterator[None]:
            for place in reversed(range(len(layers))):
                product = layers[place].product
                num_bytes = self._own_bytes(product.source, element_bytes)
                summed: Side | None = product.source
                made: list[Held] = []
                if place:
                    made.append(self._new(num_bytes // pieces))
                elif not input_gradient:
                    summed = None
                elif not dx:
                    dx.append(self._new(num_bytes))
                yield from self._contraction(
                    product.target, summed, outputs[place], element_bytes, pieces, fills=True
                )
                if place:
                    assert between is not None
                    hidden, gradient = between(num_bytes // pieces)
                    inner.pop()
                    x[place].own.append(hidden)
                    outputs[place - 1].own.append(gradient)
                    del made, hidden, gradient
                has_passed(place, number)
                if place and not has_waits:
                    parameters(place)
                    self.deferred.catch_up()

        take_turns([pass_back(number) for number in range(pieces)])
        while outputs:
            parameters(len(outputs) - 1)
        del wholes
        self.deferred.finish_layer()
        return dx[0] if dx else None

    def _contraction(
        self,
        gathered: Side,
        summed: Side | None,
        factor: Factor,
        element_bytes: int,
        pieces: int,
        *,
        fills: bool = False,
        ahead: Ahead | None = None,
    ) -> Iterator[None]:
        """Gather a piece of an activation, and reduce-scatter what is made of it, if anything.

        Others let it wait where this yields; with ``fills``, a wait makes a little of a gradient.
        What comes ``ahead`` begins when there is nothing more to send.
        """
        size = gathered.axis.size
        message: list[Held] = []
        if size > 1:
            own = gathered.own_features * gathered.own_rows * self.samples * element_bytes
            if factor.others is None:
                factor.others = self._gathered(gathered, element_bytes)
            if gathered.features_first and pieces > 1 and not gathered.by_rows:
                message.append(self._new(own // pieces))  # its columns, laid end to end
        blocks = self._blocks(summed, element_bytes, pieces) if summed is not None else []
        made = [self._new(block, "exchange") for block in blocks]
        for _ in range(size - 1):
            yield
            if fills:
                self.deferred.fill()
        if ahead is not None:
            self.weights.begin_ahead(ahead)
        if len(blocks) > 1:
            assert summed is not None
            own = blocks[summed.axis.index]
            made += [self._new(own, "exchange") for _ in blocks[2:]]
            yield
            for _ in blocks[1:] if fills else []:
                self.deferred.fill()
            made.append(summed_wide(self._new, own, len(blocks), element_bytes))

    def _gathered(self, side: Side, element_bytes: int) -> Held:
        """What a gather of this rank's side brings; its own columns too where these differ."""
        sizes = zip(side.features, side.rows, strict=True)
        total = sum(features * rows for features, rows in sizes)
        if not side.by_rows:
            total -= side.own_features * side.own_rows
        return self._new(total * self.samples * element_bytes, "exchange")

    def _blocks(self, side: Side, element_bytes: int, pieces: int) -> list[int]:
        """Bytes of what a piece of a partial product has for each rank; none where it is whole."""
        if side.axis.size == 1:
            return []
        return [
            features * rows * self.samples * element_bytes // pieces
            for features, rows in zip(side.features, side.rows, strict=True)
        ]

    def _own_bytes(self, side: Side, element_bytes: int) -> int:
        return side.own_features * side.own_rows * self.samples * element_bytes

    def _num_pieces(self, layers: Sequence[Linear], element_bytes: int) -> int:
        products = [layer.product for layer in layers]
        return num_pieces(products, samples=self.samples, element_bytes=element_bytes)

    def _passes_by_pieces(self, layer: Linear, element_bytes: int, pieces: int) -> bool:
        is_alone = layer.product.weight_axis.size == 1
        return is_alone and pieces > 1 and element_bytes == self._weight_bytes


def _lies_by_rows(side: Side) -> bool:
    return side.by_rows and side.axis.size > 1
