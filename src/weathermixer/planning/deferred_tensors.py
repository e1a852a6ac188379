"""Gradients of weights that are made while others wait, and travel, as sizes that come and go.

The counterpart of ``jigsaw.weight_gradient`` and ``backlog``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from weathermixer.jigsaw.layers import Linear
from weathermixer.planning.gradient_tensors import Gradients
from weathermixer.planning.ledger import Held, Ledger

_MOST_TRAVELLING = 16  # sums of gradients on their way, where nobody sees them arrive

_Deferred = deque[tuple[int, Callable[[], None]]]


@dataclass
class Factor:
    """What a rank has of an activation: its own part, in pieces or whole, and that of others."""

    own: list[Held] = field(default_factory=list)
    others: Held | None = None


class DeferredGradients:
    """Gradients of weights as layers defer them: made a little at a time, and on their way."""

    def __init__(
        self, ledger: Ledger, gradients: Gradients, *, weight_bytes: int, has_link: bool
    ) -> None:
        self._new, self._gradients = ledger.new, gradients
        self._weight_bytes, self._has_link = weight_bytes, has_link
        self._shared: _Deferred = deque()
        self._own: _Deferred = deque()
        self._travelling: deque[tuple[Held, Callable[[], Held], Callable[[], None]]] = deque()
        self._returned: list[tuple[Linear, list[Held]]] = []  # by the layer, to autograd
        self._num_layers = 0

    def defer_piece(self, layer: Linear, outputs: Factor, x: Factor, total: list[Held]) -> None:
        """Let what a piece of both factors makes be added into memory that is there.

        The last piece gives it: it has the ``total``.
        """
        work = partial(self._add_piece, layer, outputs, x, total)
        self._own.append((self._num_layers, work))

    def defer(
        self, layer: Linear, outputs: Factor, x: Factor, element_bytes: int, *, is_made: bool
    ) -> None:
        """Make the gradient of a weight, or defer it, as a product's does.

        ``is_made`` tells that it has been deferred by pieces.
        """
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

    def fill(self) -> None:
        """Do a little of what was deferred, as a wait over a link does."""
        if self._has_link and (self._shared or self._own):
            self._do_next()

    def catch_up(self) -> None:
        """Do everything that was deferred."""
        while self._shared or self._own:
            self._do_next()

    def finish_layer(self) -> None:
        """Do what the layers before this one deferred, and give what this one returns."""

        def is_due(deferred: _Deferred) -> bool:
            return bool(deferred) and deferred[0][0] < self._num_layers

        while is_due(self._shared) or is_due(self._own):
            self._do_next()
        self._num_layers += 1
        for layer, whole in self._returned:
            self._gradients.give(layer, whole)
        self._returned.clear()

    def finish(self) -> None:
        """Make and sum all gradients that are left, as the end of the pass does."""
        self.catch_up()
        while self._travelling:
            self._arrive()

    def _add_piece(self, layer: Linear, outputs: Factor, x: Factor, total: list[Held]) -> None:
        if total:
            self._gradients.give(layer, total)

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
        summed = partial(summed_wide, self._new, block, ranks, element_bytes)
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

    def _do_next(self) -> None:
        (self._shared or self._own).popleft()[1]()


def summed_wide(
    new: Callable[[int, str], Held], num_bytes: int, ranks: int, element_bytes: int
) -> Held:
    """What several contributions of a narrow type are summed in: float32."""
    is_narrow = ranks > 2 and element_bytes < 4
    return new(num_bytes * 4 // element_bytes if is_narrow else 0, "exchange")


def _nothing() -> None:
    """What follows a slice that is not the last."""
