"""Gradients of weights and what sums them over the replicas, as sizes that come and go.

The counterpart of ``jigsaw.gradients`` and ``gradient_sums``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from weathermixer.jigsaw.buckets import BUCKET_BYTES, MOST_UNDERWAY
from weathermixer.jigsaw.layers import Linear
from weathermixer.jigsaw.layout import shard
from weathermixer.planning.ledger import Held, Ledger


class Gradients:
    """The gradients of weights, as each becomes known; summed over replicas where there are any.

    A weight is used so many times in a pass as ``uses`` says. Of one in ``apart`` each use has a
    gradient of its own; of others, the uses are added up on the rank. So are passes that hold them.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        weight_bytes: int,
        gradient_bytes: int,
        sharded: bool,
        replicas: int,
        uses: Callable[[Linear], int],
        apart: Collection[Linear],
    ) -> None:
        self._new = ledger.new
        self._weight_bytes, self._gradient_bytes = weight_bytes, gradient_bytes
        self._sharded, self._replicas = sharded, replicas
        self._uses, self._apart = uses, apart
        self._totals: dict[Linear, Held] = {}
        self._counts: dict[Linear, int] = {}
        self._kept: dict[Linear, Held] = {}  # of earlier uses, where they need no sum
        self._holds = False
        self._held: list[Held] = []
        self._bucket: list[tuple[Linear, Held]] = []
        self._underway: list[list[Held]] = []
        self._small: list[Held] = []
        self._zeros: list[Held] = []

    @property
    def has_replicas(self) -> bool:
        """Whether gradients are summed over replicas."""
        return self._replicas > 1

    def give(self, layer: Linear, made: list[Held]) -> None:
        """Add the gradient of one use of a weight, which is taken out of ``made``."""
        own, gradient = layer.weight.numel() * self._weight_bytes, made.pop()
        if gradient.num_bytes != own:  # made in the type of the product
            gradient = self._new(own, "gradients")
        count = self._counts[layer] = self._counts.get(layer, 0) + 1
        is_of_autograd = not self.has_replicas and layer.product.weight_axis.size == 1
        if is_of_autograd or layer not in self._apart:
            before = self._totals.pop(layer, None)
            if before is not None:
                gradient = self._new(own, "gradients")
            del before
            if count < self._uses(layer):
                self._totals[layer] = gradient
                return
        before = self._kept.pop(layer, None)
        if before is not None:
            gradient = self._new(own, "gradients")
        del before
        if self._holds or not self.has_replicas:
            self._kept[layer] = gradient
            return
        self._bucket.append((layer, gradient))
        if sum(held.num_bytes for _, held in self._bucket) >= BUCKET_BYTES:
            self._begin()

    def give_small(self, gradient: Held, *, is_complete: bool) -> None:
        """Add the gradient of a small parameter, which is summed when a pass ends.

        ``is_complete`` says that the pass uses the parameter no more.
        """
        if self._small:
            total = self._new(gradient.num_bytes, "gradients")
            self._small.clear()
            gradient = total
        self._small.append(gradient)
        if is_complete and self.has_replicas and not self._zeros:
            # What autograd gives the parameter, which the sum is added to.
            self._zeros.append(self._new(gradient.num_bytes, "gradients"))

    def begin_pass(self, *, holds: bool) -> None:
        """Begin a pass, which ``holds`` gradients for a later one to sum over the replicas."""
        self._counts.clear()
        self._holds = holds

    def finish(self) -> None:
        """Sum what is left, as the end of a pass does."""
        if self.has_replicas and not self._holds:
            # Joined, and what is sent of that; then the sums, alone and added to the zeros.
            for part in ("exchange", "gradients"):
                made = [self._new(held.num_bytes, part) for held in self._small for _ in range(2)]
                del made
        if self._bucket:
            self._begin()
        self._underway.clear()

    def _begin(self) -> None:
        """Lay the gradients of a bucket into lines, and send them; earlier ones go on."""
        members, self._bucket = self._bucket, []
        shapes = [layer.weight.shape for layer, _ in members]
        elements = sum(len(shard(rows, self._replicas, 0)) * columns for rows, columns in shapes)
        is_own_memory = len(shapes) == 1 and shapes[0][0] % self._replicas == 0
        travelling: list[Held] = []
        if is_own_memory and self._sharded:
            travelling.append(members[0][1])
        elif not is_own_memory:
            lines = elements * self._replicas * self._weight_bytes
            travelling.append(self._new(lines, "exchange"))
        if self._gradient_bytes != self._weight_bytes:
            narrow = elements * self._replicas * self._gradient_bytes
            travelling += [self._new(narrow, "exchange") for _ in range(2)]
        line = self._new(elements * self._weight_bytes, "exchange")
        if self._sharded:
            members.clear()  # which are sent, and of which this replica needs its own rows
        if self._sharded:
            self._held.append(line)
        else:
            travelling.append(line)
            self._held += [gradient for _, gradient in members]
        self._underway.append(travelling)
        del self._underway[: -MOST_UNDERWAY - 1]
