"""What the layers of Jigsaw compute and exchange in a pass, as parts of phases.

Products have the shapes that ``jigsaw/matmul.py`` multiplies, exchanges the bytes and calls of
``jigsaw/cost.py``; work on single elements is counted by the tensors that it reads and writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import nn

from weathermixer.jigsaw.cost import Cost, norm_cost, product_movement
from weathermixer.jigsaw.layers import LayerNorm, Linear
from weathermixer.jigsaw.layout import Layout, offsets, shard
from weathermixer.jigsaw.mesh import Axis
from weathermixer.jigsaw.product import Product, Side, num_pieces
from weathermixer.planning.machine import ProductType, Work
from weathermixer.planning.step_time import ElementWork, MatrixProduct, Phase, PlannedExchange


@dataclass
class PassWork:
    """What is gathered of one pass, forward or backward, until it becomes a phase."""

    name: str
    ranks_per_node: int
    products: list[MatrixProduct] = field(default_factory=list)
    elementwise: list[ElementWork] = field(default_factory=list)
    exchanges: list[PlannedExchange] = field(default_factory=list)

    def phase(self) -> Phase:
        """All of it as one phase."""
        return Phase(
            self.name, tuple(self.products), tuple(self.elementwise), tuple(self.exchanges)
        )

    def add_elements(
        self, kind: Work, elements: int, *, tensors: int, element_bytes: int, kernels: int = 1
    ) -> None:
        """Add work that reads and writes so many ``tensors`` of so many elements."""
        num_bytes = elements * tensors * element_bytes
        self.elementwise.append(ElementWork(kind, elements, num_bytes, kernels))

    def add_exchange(self, cost: Cost, axis: Axis, *, beside: float = 0.0) -> None:
        """Add an exchange over an axis, of which the share ``beside`` travels while it computes."""
        within = share_within_node(axis, self.ranks_per_node)
        for is_between, share in ((False, within), (True, 1.0 - within)):
            for is_beside, part in ((True, beside), (False, 1.0 - beside)):
                if share * part and cost.calls:
                    self.exchanges.append(
                        PlannedExchange(
                            cost.bytes_sent * share * part,
                            cost.calls * share * part,
                            is_between,
                            is_beside,
                        )
                    )


def share_within_node(axis: Axis, ranks_per_node: int) -> float:
    """The share of a rank's peers along an axis that are on its own node.

    Nodes hold ranks of consecutive numbers, as launchers place them.
    """
    if axis.size == 1:
        return 1.0
    own = axis.ranks[axis.index] // ranks_per_node
    peers = [rank for place, rank in enumerate(axis.ranks) if place != axis.index]
    return sum(1 for rank in peers if rank // ranks_per_node == own) / len(peers)


@dataclass(frozen=True)
class LayerWork:
    """Adds what layers do to the work of a forward and of a backward pass.

    ``samples`` are those of a rank; ``dtype`` is the arithmetic of products, ``element_bytes``
    what an element of an activation takes, and ``weight_bytes`` one of a weight as it is held.
    """

    forward: PassWork
    backward: PassWork
    samples: int
    dtype: ProductType
    element_bytes: int
    weight_bytes: int = 4

    def linear(
        self, layer: nn.Module, *, input_gradient: bool = True, fetches: bool = True
    ) -> None:
        """Add a map that stands alone."""
        assert isinstance(layer, Linear)
        self._maps((layer,), input_gradient=input_gradient, fetches=fetches)

    def pair(self, expand: nn.Module, contract: nn.Module, *, fetches: bool = True) -> None:
        """Add two maps with an activation function between, which is computed twice."""
        assert isinstance(expand, Linear) and isinstance(contract, Linear)
        self._maps((expand, contract), fetches=fetches)
        hidden = expand.product.target.own_features * _columns(expand.product, self.samples)
        pieces = num_pieces(
            (expand.product, contract.product),
            samples=self.samples,
            element_bytes=self.element_bytes,
        )
        for work in (self.forward, self.backward):
            self._elements(work, "activation", hidden, 2, pieces)
        self._elements(self.backward, "activation_backward", hidden, 3, pieces)

    def norm(self, layer: nn.Module) -> int:
        """Add a layer norm, with what comes on top where its channels are cut; its elements."""
        assert isinstance(layer, LayerNorm)
        elements = layer.cut.own * layer.cut.rows * self.samples
        self._elements(self.forward, "norm", elements, 2)
        is_cut = layer.cut.axis.size > 1
        if is_cut:
            self._elements(self.forward, "copy", elements, 4, 12)
            # In place of the fused kernel: eight passes over tensors of that size.
            self._elements(self.backward, "copy", elements, 18, 24)
            statistics = norm_cost(
                layer, samples=self.samples, statistic_bytes=max(4, self.element_bytes)
            )
            self.forward.add_exchange(statistics, layer.cut.axis)
            self.backward.add_exchange(statistics, layer.cut.axis, beside=1.0)
        else:
            self._elements(self.backward, "norm_backward", elements, 3)
        return elements

    def modulation(self, elements: int, *, of_tokens: bool) -> None:
        """Add the scaling and shifting of what a norm made; of products with noise, the kernels.

        ``of_tokens`` tells of noise that each token has of its own.
        """
        self._elements(self.forward, "copy", elements, 2, 4)
        # Gradients of what the norm made and of the scale, and two sums over tokens.
        self._elements(self.backward, "copy", elements, 9, 7)
        if of_tokens:
            # Two products that write, each added to what samples have; both are read once more.
            self._elements(self.forward, "copy", elements, 8, 4)
            self._elements(self.backward, "copy", elements, 2, 2)

    def point_noise(self, elements: int) -> None:
        """Add the noise of all points of fields, which is read once for all of their channels."""
        self._elements(self.forward, "copy", elements, 2)
        # The products that the gradient of the amplitude is the sum of.
        self._elements(self.backward, "copy", elements, 3, 2)

    def residual(self, elements: int) -> None:
        """Add the sum of a layer's input and output, and that of their gradients."""
        self._elements(self.forward, "copy", elements, 3)
        self._elements(self.backward, "copy", elements, 3)

    def copies(self, elements: int, *, forward: int, backward: int, kind: Work = "copy") -> None:
        """Add copies of so many elements in either pass."""
        for work, count in ((self.forward, forward), (self.backward, backward)):
            if count:
                self._elements(work, kind, elements * count, 2, count)

    def _elements(
        self, work: PassWork, kind: Work, elements: int, tensors: int, kernels: int = 1
    ) -> None:
        work.add_elements(
            kind, elements, tensors=tensors, element_bytes=self.element_bytes, kernels=kernels
        )

    def _maps(
        self, layers: tuple[Linear, ...], *, input_gradient: bool = True, fetches: bool
    ) -> None:
        products = [layer.product for layer in layers]
        pieces = num_pieces(products, samples=self.samples, element_bytes=self.element_bytes)
        # What is left to wait for is the last piece; in the backward pass gradients of weights
        # fill that wait too.
        hidden = 1.0 - 1.0 / pieces
        for layer, product in zip(layers, products, strict=True):
            arrives = fetches and product.weight_axis.size > 1 and product.weight_axis.has_link
            forward = _shapes(product, self.samples, pieces, arrives=arrives)
            self.forward.products += [self._product(*shape) for shape in forward]
            shapes = _shapes(product, self.samples, pieces)
            backward = [(k, n, m, count) for m, n, k, count in shapes]
            is_same_type = self.element_bytes == self.weight_bytes
            of_weight = _weight_shapes(
                product, self.samples, self.element_bytes, pieces if is_same_type else 1
            )
            self.backward.products += [
                self._product(*shape)
                for shape in (*(backward if input_gradient else ()), *of_weight)
            ]
            if layer.bias is not None:
                outputs = product.target.own_features * _columns(product, self.samples)
                self._elements(self.backward, "copy", outputs, 1)
            moved = product_movement(
                product,
                samples=self.samples,
                element_bytes=self.element_bytes,
                input_gradient=input_gradient,
            )
            if fetches:
                self.fetch(layer)
            source, target = product.source.axis, product.target.axis
            self.forward.add_exchange(moved.inputs, source, beside=hidden)
            self.forward.add_exchange(moved.outputs, target, beside=hidden)
            self.backward.add_exchange(moved.output_gradients, target, beside=1.0)
            self.backward.add_exchange(moved.input_gradients, source, beside=1.0)
            self.backward.add_exchange(moved.weight_gradient, product.weight_axis, beside=1.0)
            self._sums(product)

    def fetch(self, layer: Linear) -> None:
        """Add the gather of a weight, known ahead, and its cast to the type of products."""
        product = layer.product
        moved = product_movement(product, samples=1, element_bytes=self.element_bytes)
        self.forward.add_exchange(moved.fetch, product.weight_axis, beside=1.0)
        if self.element_bytes != self.weight_bytes:
            self._elements(self.forward, "copy", layer.weight.numel(), 3)
            self._elements(self.backward, "copy", layer.weight.numel(), 3)

    def _sums(self, product: Product) -> None:
        """Add what sums others' contributions, and copies what is sent as it does not lie."""
        for side, summed, gathered in (
            (product.target, self.forward, self.backward),
            (product.source, self.backward, self.forward),
        ):
            if side.axis.size > 1:
                own = side.own_features * _side_columns(side, self.samples)
                others = side.axis.size - 1
                self._elements(summed, "copy", own * others, 3, others)
                if not side.features_first:
                    self._elements(gathered, "copy", own, 2)
        if product.weight_axis.size > 1:
            others = product.weight_axis.size - 1
            own = product.weight.local_shape[0] * product.weight.local_shape[1]
            self._elements(self.backward, "copy", own * others, 3, others)

    def _product(self, m: int, n: int, k: int, count: int) -> MatrixProduct:
        return MatrixProduct(m, n, k, self.dtype, count)


def _columns(product: Product, samples: int) -> int:
    """Columns that a rank has of a product's output."""
    return _side_columns(product.target, samples)


def _side_columns(side: Side, samples: int) -> int:
    return side.own_rows * samples


def _shapes(
    product: Product, samples: int, pieces: int, *, arrives: bool = False
) -> Iterable[tuple[int, int, int, int]]:
    """``(m, n, k)`` and number of the products of a forward pass: of each pair of pieces.

    Where the weight ``arrives`` meanwhile, the rows that the rank has come first, in the pieces
    that begin before the others are waited for: two of them.
    """
    source, target = product.source, product.target
    blocks = offsets(target.features)
    own = offsets(product.weight_rows)[product.weight_axis.index]
    for q in range(source.axis.size):
        for p in range(target.axis.size):
            side, place = (source, q) if source.by_rows else (target, p)
            columns = side.rows[place] * samples
            early = min(2, pieces) if arrives and q == source.axis.index else 0
            first, last = (
                min(max(end, blocks[p].start), blocks[p].stop) for end in (own.start, own.stop)
            )
            divided = first - blocks[p].start, last - first, blocks[p].stop - last
            sizes = [(rows, columns // pieces, early) for rows in divided]
            sizes += [(target.features[p], columns // pieces, pieces - early)]
            sizes += [(target.features[p], columns % pieces, 1)]
            for rows, n, count in sizes:
                if rows and n and source.features[q] and count:
                    yield rows, n, source.features[q], count


def _weight_shapes(
    product: Product, samples: int, element_bytes: int, pieces: int
) -> Iterable[tuple[int, int, int, int]]:
    """``(m, n, k)`` and number of the products that make the gradient of a weight.

    One that is the rank's alone is made in pieces, others in slices of rows.
    """
    source, target = product.source, product.target
    # Where ranks hold different rows, all of them lie in one matrix.
    inputs = source.features[:1] if source.by_rows else source.features
    outputs = offsets(target.features[:1] if target.by_rows else target.features)
    columns = max(sum(side.rows) if side.by_rows else side.own_rows for side in (source, target))
    columns *= samples
    if product.weight_axis.size > 1:
        pieces = 1
    # A rank alone has no waits to fill.
    is_sliced = product.is_shared and pieces == 1
    slices = product.gradient_slices(element_bytes) if is_sliced else 1
    for rows in offsets(product.weight_rows):
        for number in range(slices):
            part = shard(len(rows), slices, number)
            first, last = rows.start + part.start, rows.start + part.stop
            for here in outputs:
                m = min(last, here.stop) - max(first, here.start)
                for k in inputs:
                    for n, count in ((columns // pieces, pieces), (columns % pieces, 1)):
                        if m > 0 and k and n:
                            yield m, k, n, count


def lines_through_node(layout: Layout, ranks_per_node: int) -> int:
    """Ranks of one line along ``data`` that a node holds, at the least 1."""
    return max(1, min(layout.data, ranks_per_node // layout.ways))


def linears(model: nn.Module) -> list[Linear]:
    """The maps of a model, in the order in which it holds them."""
    return [module for module in model.modules() if isinstance(module, Linear)]
