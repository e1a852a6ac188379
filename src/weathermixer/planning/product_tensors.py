"""The tensors of linear maps, forward and back, in the order in which they come and go, as sizes.

The counterpart of ``jigsaw.matmul``, ``weights`` and ``backlog``: who gathers what is said in
``jigsaw.product``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from weathermixer.jigsaw.layers import Linear
from weathermixer.jigsaw.pipeline import take_turns
from weathermixer.jigsaw.product import Side, num_pieces
from weathermixer.jigsaw.weights import Ahead
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


_Deferred = deque[tuple[int, Callable[[], None]]]


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
        element_bytes: Callable[[Linear], int],
        apart: Collection[Linear],
    ) -> None:
        """``element_bytes`` are those of the type that a layer computes in."""
        self._new, self._gradients = ledger.new, gradients
        self._samples, self._weight_bytes, self._apart = samples, weight_bytes, apart
        self._element_bytes = element_bytes
        self._layer_of = {layer.gathered: layer for layer in layers}
        self._has_link = layers[0].product.along.has_link
        self._wholes: dict[Linear, Held | None] = {}
        self._begun: dict[Linear, Held | None] = {}
        self._shared: _Deferred = deque()
        self._own: _Deferred = deque()
        self._travelling: deque[tuple[Held, Callable[[], Held], Callable[[], None]]] = deque()
        self._returned: list[tuple[Linear, list[Held]]] = []  # by the layer, to autograd
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
        saved, made, given = SavedMaps(), list[Held](), list[Held]()
        saved.inputs = [Factor() for _ in layers]
        if not _lies_by_rows(layers[0].product.source):
            saved.inputs[0].own = [x]

        for layer in layers:
            is_here = layer in self._wholes or layer in self._begun
            if layer.product.weight_axis.size > 1 and not is_here:
                self._begun[layer] = self._begin(layer, element_bytes)

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
                    saved.wholes.append(self._fetch(layer, element_bytes))
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
            work = partial(self._add_piece, layers[place], outputs[place], x[place], total)
            self._own.append((self._num_layers, work))

        def parameters(place: int) -> None:
            is_made = self._passes_by_pieces(layers[place], element_bytes, pieces)
            self._weight(layers[place], outputs.pop(), x.pop(), element_bytes, is_made=is_made)

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
                    self._catch_up()

        take_turns([pass_back(number) for number in range(pieces)])
        while outputs:
            parameters(len(outputs) - 1)
        del wholes
        self._finish_layer()
        for layer, whole in self._returned:
            self._gradients.give(layer, whole)
        self._returned.clear()
        return dx[0] if dx else None

    def finish(self) -> None:
        """Make and sum all gradients that are left, as the end of the pass does."""
        self._catch_up()
        while self._travelling:
            self._arrive()

    # -- weights and what travels ------------------------------------------------------------------

    def begin_ahead(self, ahead: Ahead) -> None:
        """Begin the next weight that a layer fetches ahead."""
        following = [self._layer_of[gather] for gather in ahead.gathers]
        wanted = (layer for layer in following if not {layer} & {*self._wholes, *self._begun})
        if not self.is_again and (layer := next(wanted, None)) is not None:
            self._begun[layer] = self._begin(layer, self._element_bytes(layer))

    def _fetch(self, layer: Linear, element_bytes: int) -> Held | None:
        """The matrix to multiply with; None where it is the parameter itself."""
        if layer in self._wholes:
            return self._wholes[layer]
        whole = (
            self._begun.pop(layer) if layer in self._begun else self._begin(layer, element_bytes)
        )
        if layer not in self._apart:
            self._wholes[layer] = whole
        return whole

    def _begin(self, layer: Linear, element_bytes: int) -> Held | None:
        product = layer.product
        if product.weight_axis.size == 1 and element_bytes == self._weight_bytes:
            return None
        elements = sum(product.weight_rows) * product.weight.local_shape[1]
        return self._new(elements * element_bytes, "gathered_weights")

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
            own = gathered.own_features * gathered.own_rows * self._samples * element_bytes
            if factor.others is None:
                factor.others = self._gathered(gathered, element_bytes)
            if gathered.features_first and pieces > 1 and not gathered.by_rows:
                message.append(self._new(own // pieces))  # its columns, laid end to end
        blocks = self._blocks(summed, element_bytes, pieces) if summed is not None else []
        made = [self._new(block, "exchange") for block in blocks]
        for _ in range(size - 1):
            yield
            if fills:
                self.fill()
        if ahead is not None:
            self.begin_ahead(ahead)
        if len(blocks) > 1:
            assert summed is not None
            own = blocks[summed.axis.index]
            made += [self._new(own, "exchange") for _ in blocks[2:]]
            yield
            for _ in blocks[1:] if fills else []:
                self.fill()
            made.append(self._summed_wide(own, len(blocks), element_bytes))

    def _summed_wide(self, num_bytes: int, ranks: int, element_bytes: int) -> Held:
        """What several contributions of a narrow type are summed in: float32."""
        is_narrow = ranks > 2 and element_bytes < 4
        return self._new(num_bytes * 4 // element_bytes if is_narrow else 0, "exchange")

    def _gathered(self, side: Side, element_bytes: int) -> Held:
        """What a gather of this rank's side brings; its own columns too where these differ."""
        sizes = zip(side.features, side.rows, strict=True)
        total = sum(features * rows for features, rows in sizes)
        if not side.by_rows:
            total -= side.own_features * side.own_rows
        return self._new(total * self._samples * element_bytes, "exchange")

    def _blocks(self, side: Side, element_bytes: int, pieces: int) -> list[int]:
        """Bytes of what a piece of a partial product has for each rank; none where it is whole."""
        if side.axis.size == 1:
            return []
        return [
            features * rows * self._samples * element_bytes // pieces
            for features, rows in zip(side.features, side.rows, strict=True)
        ]

    def _own_bytes(self, side: Side, element_bytes: int) -> int:
        return side.own_features * side.own_rows * self._samples * element_bytes

    def _num_pieces(self, layers: Sequence[Linear], element_bytes: int) -> int:
        products = [layer.product for layer in layers]
        return num_pieces(products, samples=self._samples, element_bytes=element_bytes)

    # -- gradients of weights ----------------------------------------------------------------------

    def _passes_by_pieces(self, layer: Linear, element_bytes: int, pieces: int) -> bool:
        is_alone = layer.product.weight_axis.size == 1
        return is_alone and pieces > 1 and element_bytes == self._weight_bytes

    def _add_piece(self, layer: Linear, outputs: Factor, x: Factor, total: list[Held]) -> None:
        """Add what a piece of both factors makes, into memory that is there; the last gives it."""
        if total:
            self._gradients.give(layer, total)

    def _weight(
        self, layer: Linear, outputs: Factor, x: Factor, element_bytes: int, *, is_made: bool
    ) -> None:
        """Make the gradient of a weight, or defer it, as a product's does."""
        product, axis = layer.product, layer.product.weight_axis
        columns = product.weight.local_shape[1]
        rows = sum(product.weight_rows)
        self._join(outputs)  # of which the gradient of the bias is the sum
        if is_made:
            return
        if not product.is_shared and not self._gradients.has_replicas:
            whole = [self._new(rows * columns * element_bytes, "gradients")]
            self._returned.append((layer, whole))
            return
        slices = product.gradient_slices(element_bytes)
        own = layer.weight.numel()
        total = self._new(own * self._weight_bytes, "gradients")
        is_whole = axis.size == 1 and element_bytes == self._weight_bytes
        made = 0 if is_whole else (rows * columns + (axis.size - 1) * own) * element_bytes
        for number in range(slices):
            then = (
                partial(self._gradients.give, layer, [total]) if number == slices - 1 else _nothing
            )
            block = own // slices * element_bytes
            work = partial(
                self._make, outputs, x, made // slices, block, element_bytes, axis.size, then
            )
            deferred = self._shared if axis.size > 1 else self._own
            deferred.append((self._num_layers, work))

    def _make(
        self,
        outputs: Factor,
        x: Factor,
        num_bytes: int,
        block: int,
        element_bytes: int,
        ranks: int,
        then: Callable[[], None],
    ) -> None:
        """Make a slice, of which each of the ranks sums a block, and send the others theirs."""
        self._join(x)
        summed = partial(self._summed_wide, block, ranks, element_bytes)
        self._travelling.append((self._new(num_bytes, "exchange"), summed, then))
        most = _MOST_TRAVELLING if self._has_link else 0
        while len(self._travelling) > most:
            self._arrive()

    def _join(self, factor: Factor) -> None:
        """Lay the pieces of an activation end to end."""
        if len(factor.own) > 1:
            factor.own = [self._new(sum(piece.num_bytes for piece in factor.own))]

    def _arrive(self) -> None:
        arrived, summed, then = self._travelling.popleft()
        summed()
        del arrived
        then()

    def fill(self) -> None:
        """Do a little of what was deferred, as a wait over a link does."""
        if self._has_link and (self._shared or self._own):
            self._do_next()

    def _do_next(self) -> None:
        (self._shared or self._own).popleft()[1]()

    def _catch_up(self) -> None:
        while self._shared or self._own:
            self._do_next()

    def _finish_layer(self) -> None:
        def is_due(deferred: _Deferred) -> bool:
            return bool(deferred) and deferred[0][0] < self._num_layers

        while is_due(self._shared) or is_due(self._own):
            self._do_next()
        self._num_layers += 1


def _lies_by_rows(side: Side) -> bool:
    return side.by_rows and side.axis.size > 1


def _nothing() -> None:
    """What follows a slice that is not the last."""
