"""What each product moves and computes on each rank, from sizes alone; and what is cheapest.

The formulas are derived in docs/jigsaw.md. They share no code with the exchanges that they
predict, and a test holds both equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TypeVar

from torch import nn

from weathermixer.jigsaw.layers import LayerNorm, Linear, RMSNorm
from weathermixer.jigsaw.layout import Dimension
from weathermixer.jigsaw.mesh import Axis, Mesh
from weathermixer.jigsaw.pieces import local_parameters
from weathermixer.jigsaw.product import Features, Product, Scheme, Side

Pair = tuple[Scheme, Scheme]

# For an expanding and a contracting product with an elementwise function between them.
PAIRS: tuple[Pair, ...] = (("reduce", "gather"), ("gather", "reduce"), ("turn", "fold"))

_T = TypeVar("_T")


@dataclass(frozen=True)
class Cost:
    """What a rank sends, computes and keeps.

    ``kept_bytes`` are of other ranks' pieces that the forward pass leaves for the backward pass.
    """

    bytes_sent: int = 0
    messages: int = 0
    multiply_adds: int = 0
    kept_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.bytes_sent + other.bytes_sent,
            self.messages + other.messages,
            self.multiply_adds + other.multiply_adds,
            self.kept_bytes + other.kept_bytes,
        )

    def __mul__(self, times: int) -> Cost:
        return Cost(
            self.bytes_sent * times,
            self.messages * times,
            self.multiply_adds * times,
            self.kept_bytes * times,
        )


@dataclass(frozen=True)
class ProductCost:
    """The parts of a product's cost that a step pays in different numbers."""

    fetch: Cost  # of the weight, once while something keeps it
    forward: Cost
    backward: Cost


def product_cost(
    product: Product, *, samples: int, element_bytes: int, input_gradient: bool = True
) -> ProductCost:
    """The cost of ``product`` on its rank, for activations of ``element_bytes`` each."""
    source, target = product.source, product.target
    axis, rows = product.weight_axis, product.weight_rows
    width = product.weight.local_shape[1]
    multiply_adds = _features(source) * _features(target) * _rows(product) * samples
    fetch = _sends([rows[axis.index] * width] * (axis.size - 1), element_bytes) + Cost(
        kept_bytes=sum(rows) * width * element_bytes if axis.size > 1 else 0
    )
    forward = _gather(source, samples, element_bytes) + _reduce(target, samples, element_bytes)
    backward = _gather(target, samples, element_bytes) + _sends(
        [count * width for place, count in enumerate(rows) if place != axis.index], element_bytes
    )
    products = 1
    if input_gradient:
        products = 2
        backward += _reduce(source, samples, element_bytes)
    return ProductCost(
        fetch,
        forward
        + Cost(multiply_adds=multiply_adds, kept_bytes=_others(source, samples, element_bytes)),
        backward + Cost(multiply_adds=products * multiply_adds),
    )


def norm_cost(norm: LayerNorm | RMSNorm, *, samples: int, statistic_bytes: int) -> Cost:
    """The cost of a norm's statistics, in the forward pass and again in the backward pass."""
    numbers = (2 if isinstance(norm, LayerNorm) else 1) * norm.cut.rows * samples
    return _sends([numbers] * (norm.cut.axis.size - 1), statistic_bytes)


def shared_cost(model: nn.Module, *, parameter_bytes: int) -> Cost:
    """The cost of summing the gradients of parameters that several ranks hold alike."""
    numbers: dict[tuple[Axis, ...], int] = {}
    for _, parameter, piece in local_parameters(model):
        axes = piece.destination.axes
        if axes:
            numbers[axes] = numbers.get(axes, 0) + parameter.numel()
    return sum(
        (
            _sends([count] * (axis.size - 1), parameter_bytes)
            for axes, count in numbers.items()
            for axis in axes
        ),
        Cost(),
    )


def layers_cost(
    model: nn.Module,
    *,
    samples: int,
    element_bytes: int,
    passes: int = 1,
    recompute: bool = False,
    without_input_gradient: Sequence[nn.Module] = (),
) -> Cost:
    """The cost of all layers of ``model`` in a forward and a backward pass.

    Several ``passes`` are those within :func:`~weathermixer.jigsaw.weights.kept_weights`, which
    gather the weights once. With ``recompute``, what a pass made is let go of, and made and
    gathered again in the backward pass. The layers in ``without_input_gradient`` take data in the
    first pass.
    """
    statistic_bytes = max(4, element_bytes)
    total = Cost()
    for module in model.modules():
        if isinstance(module, Linear):
            for number in range(passes):
                cost = product_cost(
                    module.product,
                    samples=samples,
                    element_bytes=element_bytes,
                    input_gradient=number > 0 or module not in without_input_gradient,
                )
                total += cost.forward + cost.backward
                if recompute:
                    total += cost.fetch * 2 + cost.forward
                elif number == 0:
                    total += cost.fetch
        elif isinstance(module, LayerNorm | RMSNorm):
            statistics = norm_cost(module, samples=samples, statistic_bytes=statistic_bytes)
            total += statistics * ((3 if recompute else 2) * passes)
    return total


def cheapest_scheme(
    inputs: int | Dimension,
    outputs: int | Dimension,
    mesh: Mesh,
    *,
    rows: int | Dimension,
    features: Features = "tensor",
    samples: int = 1,
    input_gradient: bool = True,
) -> Scheme:
    """The scheme of a single linear map that is cheapest in a step, as ``cheapest`` means it.

    Where the map's input is data, ``input_gradient`` is False.
    """

    def cost(scheme: Scheme, other: Mesh) -> Cost:
        product = Product.on(other, inputs, outputs, rows=rows, features=features, scheme=scheme)
        return _step_cost(product, samples, input_gradient=input_gradient)

    return cheapest(("reduce", "gather"), lambda scheme: _busiest(mesh, partial(cost, scheme)))


def cheapest_pair(
    size: int | Dimension,
    hidden: int | Dimension,
    mesh: Mesh,
    *,
    rows: int | Dimension,
    features: Features = "tensor",
    samples: int = 1,
) -> Pair:
    """The schemes of two maps, ``size`` to ``hidden`` and back, that are cheapest in a step."""

    def cost(pair: Pair, other: Mesh) -> Cost:
        expand, contract = (
            Product.on(other, *sizes, rows=rows, features=features, scheme=scheme)
            for sizes, scheme in zip(((size, hidden), (hidden, size)), pair, strict=True)
        )
        return _step_cost(expand, samples) + _step_cost(contract, samples)

    return cheapest(PAIRS, lambda pair: _busiest(mesh, partial(cost, pair)))


def cheapest(candidates: Sequence[_T], cost: Callable[[_T], Cost]) -> _T:
    """The candidate that sends the fewest bytes; of those as good, the one that keeps the fewest.

    As good is what sends no more than a thousandth more.
    """
    costs = [cost(candidate) for candidate in candidates]
    enough = 1.001 * min(found.bytes_sent for found in costs)
    places = [place for place, found in enumerate(costs) if found.bytes_sent <= enough]
    return candidates[min(places, key=lambda place: costs[place].kept_bytes)]


def busiest(costs: Iterable[Cost]) -> Cost:
    """The largest of each number over several ranks."""
    every = list(costs)
    return Cost(*(max(getattr(cost, field.name) for cost in every) for field in fields(Cost)))


def _busiest(mesh: Mesh, cost: Callable[[Mesh], Cost]) -> Cost:
    return busiest(cost(Mesh.describe(corner)) for corner in mesh.layout.corners())


def _step_cost(product: Product, samples: int, *, input_gradient: bool = True) -> Cost:
    cost = product_cost(product, samples=samples, element_bytes=1, input_gradient=input_gradient)
    return cost.fetch + cost.forward + cost.backward


def _features(side: Side) -> int:
    return side.features[0] if side.by_rows else sum(side.features)


def _rows(product: Product) -> int:
    """Rows that a rank multiplies with: its own, or all of them where weights stay."""
    if product.scheme in ("turn", "fold"):
        return product.rows.size
    return product.rows.sizes(product.across.size)[product.across.index]


def _gather(side: Side, samples: int, element_bytes: int) -> Cost:
    place = side.axis.index
    own = side.features[place] * side.rows[place] * samples
    return _sends([own] * (side.axis.size - 1), element_bytes)


def _others(side: Side, samples: int, element_bytes: int) -> int:
    """Bytes of the pieces that a gather brings."""
    return sum(
        features * rows * samples * element_bytes
        for place, (features, rows) in enumerate(zip(side.features, side.rows, strict=True))
        if place != side.axis.index
    )


def _reduce(side: Side, samples: int, element_bytes: int) -> Cost:
    return _sends(
        [
            features * rows * samples
            for place, (features, rows) in enumerate(zip(side.features, side.rows, strict=True))
            if place != side.axis.index
        ],
        element_bytes,
    )


def _sends(elements: Sequence[int], element_bytes: int) -> Cost:
    """Messages of so many elements each; none is sent where there is nothing in it."""
    return Cost(sum(elements) * element_bytes, sum(1 for count in elements if count))
