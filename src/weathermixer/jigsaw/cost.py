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

from weathermixer.jigsaw.buckets import BUCKET_BYTES
from weathermixer.jigsaw.layers import LayerNorm, Linear, RMSNorm
from weathermixer.jigsaw.layout import Dimension, shard
from weathermixer.jigsaw.mesh import Axis, Mesh
from weathermixer.jigsaw.pieces import local_parameters
from weathermixer.jigsaw.product import Features, Product, Scheme, Side, num_pieces

Pair = tuple[Scheme, Scheme]

# For an expanding and a contracting product with an elementwise function between them.
PAIRS: tuple[Pair, ...] = (("reduce", "gather"), ("gather", "reduce"), ("turn", "fold"))

_T = TypeVar("_T")


@dataclass(frozen=True)
class Cost:
    """What a rank sends, computes and keeps.

    ``calls`` are exchanges as they are handed to the backend, ``messages`` what of them goes to a
    peer. ``kept_bytes`` are of other ranks' pieces that the forward pass leaves for the backward
    pass.
    """

    bytes_sent: int = 0
    messages: int = 0
    calls: int = 0
    multiply_adds: int = 0
    kept_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            *(mine + theirs for mine, theirs in zip(self._values(), other._values(), strict=True))
        )

    def __mul__(self, times: int) -> Cost:
        return Cost(*(value * times for value in self._values()))

    def _values(self) -> list[int]:
        return [getattr(self, field.name) for field in fields(self)]


@dataclass(frozen=True)
class ProductCost:
    """The parts of a product's cost that a step pays in different numbers."""

    fetch: Cost  # of the weight, once while something keeps it
    forward: Cost
    backward: Cost


@dataclass(frozen=True)
class ProductMovement:
    """What the exchanges of a product cost, by what they move; each is over one axis."""

    fetch: Cost  # the weight, over ``weight_axis``
    weight_gradient: Cost  # over ``weight_axis``
    inputs: Cost  # gathered over the axis of ``source``
    outputs: Cost  # reduce-scattered over the axis of ``target``
    output_gradients: Cost  # gathered over the axis of ``target``
    input_gradients: Cost  # reduce-scattered over the axis of ``source``


def product_movement(
    product: Product, *, samples: int, element_bytes: int, input_gradient: bool = True
) -> ProductMovement:
    """What ``product`` moves on its rank, for activations of ``element_bytes`` each.

    On a mesh that exchanges narrower ones, what moves is as narrow. Messages and calls are those
    of a single map that stays as it lies, and of the maps of a pair.
    """
    source, target = product.source, product.target
    axis, rows = product.weight_axis, product.weight_rows
    width = product.weight.local_shape[1]
    slices = product.gradient_slices(element_bytes)
    of_weight = [
        [len(shard(count, slices, number)) * width for count in rows] for number in range(slices)
    ]
    of_input = _pieces(product, source, samples, element_bytes)
    of_output = _pieces(product, target, samples, element_bytes)

    def gathered(pieces: list[list[int]], over: Axis) -> Cost:
        sent_bytes = over.bytes_of(element_bytes)
        return sum((_gather(piece, over.index, sent_bytes) for piece in pieces), Cost())

    def reduced(pieces: list[list[int]], over: Axis) -> Cost:
        sent_bytes = over.bytes_of(element_bytes)
        return sum((_reduce(piece, over.index, sent_bytes) for piece in pieces), Cost())

    return ProductMovement(
        fetch=gathered([[count * width for count in rows]], axis),
        weight_gradient=reduced(of_weight, axis),
        inputs=gathered(of_input, source.axis),
        outputs=reduced(of_output, target.axis),
        output_gradients=gathered(of_output, target.axis),
        input_gradients=reduced(of_input, source.axis) if input_gradient else Cost(),
    )


def product_cost(
    product: Product, *, samples: int, element_bytes: int, input_gradient: bool = True
) -> ProductCost:
    """The cost of ``product`` on its rank, for activations of ``element_bytes`` each.

    Messages and calls are those of :func:`product_movement`.
    """
    source, target = product.source, product.target
    axis, rows = product.weight_axis, product.weight_rows
    moved = product_movement(
        product, samples=samples, element_bytes=element_bytes, input_gradient=input_gradient
    )
    multiply_adds = _features(source) * _features(target) * _rows(product) * samples
    weight = sum(rows) * product.weight.local_shape[1] if axis.size > 1 else 0
    kept = sum(
        _others(piece, source.axis.index, element_bytes)
        for piece in _pieces(product, source, samples, element_bytes)
    )
    return ProductCost(
        moved.fetch + Cost(kept_bytes=weight * element_bytes),
        moved.inputs + moved.outputs + Cost(multiply_adds=multiply_adds, kept_bytes=kept),
        moved.output_gradients
        + moved.weight_gradient
        + moved.input_gradients
        + Cost(multiply_adds=(2 if input_gradient else 1) * multiply_adds),
    )


def norm_cost(norm: LayerNorm | RMSNorm, *, samples: int, statistic_bytes: int) -> Cost:
    """The cost of a norm's statistics, in the forward pass and again in the backward pass."""
    numbers = (2 if isinstance(norm, LayerNorm) else 1) * norm.cut.rows * samples
    return gather_cost(norm.cut.axis, elements=numbers, element_bytes=statistic_bytes)


def gather_cost(axis: Axis, *, elements: int, element_bytes: int) -> Cost:
    """The cost of an all-gather over an axis, each rank of which has so many elements."""
    return _gather([elements] * axis.size, axis.index, element_bytes)


def halo_cost(axis: Axis, *, elements: int, element_bytes: int) -> Cost:
    """The cost of sending both neighbours an edge of so many elements, or its gradient back."""
    if axis.size == 1:
        return Cost()
    return _rounds([(elements, elements)] * 2, axis.bytes_of(element_bytes))


def shared_cost(model: nn.Module, *, parameter_bytes: int) -> Cost:
    """The cost of summing the gradients of parameters that several ranks hold alike."""
    numbers: dict[tuple[Axis, ...], int] = {}
    over_data: dict[Axis, int] = {}
    for _, parameter, piece in local_parameters(model):
        destination = piece.destination
        if destination.rows_over is None:
            numbers[destination.axes] = numbers.get(destination.axes, 0) + parameter.numel()
            if destination.data is not None:
                data = destination.data
                over_data[data] = over_data.get(data, 0) + parameter.numel()
    return sum(
        (
            gather_cost(axis, elements=count, element_bytes=parameter_bytes)
            for axes, count in numbers.items()
            for axis in axes
        ),
        sum(
            (_all_reduce(axis, count, parameter_bytes) for axis, count in over_data.items()), Cost()
        ),
    )


def replicas_cost(
    model: nn.Module,
    *,
    parameter_bytes: int,
    gradient_bytes: int,
    sharded: bool = False,
    passes: int = 1,
    without_kept_weights: Sequence[nn.Module] = (),
) -> Cost:
    """The cost of summing weights' gradients over the replicas, and of bringing back the sums.

    With a ``sharded`` optimizer the weights come back instead, as ``finish_step`` does. It holds
    where the pass comes to the weights in the opposite order to that of the model. Of several
    ``passes`` the gradients of a weight are summed on the rank, within
    :func:`~weathermixer.jigsaw.weights.kept_weights`; those of the modules without, such as blocks
    that are computed again, are sent for each pass.
    """
    weights, again = [], []
    apart = {each for module in without_kept_weights for each in module.parameters()}
    for _, parameter, piece in local_parameters(model):
        data = piece.destination.rows_over
        if data is not None and parameter.numel():
            weights.append((parameter.shape, data))
            if parameter in apart:
                again.append((parameter.shape, data))
    gradients = weights[::-1] + (passes - 1) * again[::-1]
    back_bytes, back = gradient_bytes, gradients
    if sharded:
        back_bytes, back = parameter_bytes, weights
    total = Cost()
    for element_bytes, order in ((gradient_bytes, gradients), (back_bytes, back)):
        filled = 0
        for number, ((rows, columns), data) in enumerate(order, start=1):
            peers = data.size - 1
            line = -(-rows // data.size) * columns
            total += Cost(bytes_sent=peers * line * element_bytes)
            filled += rows * columns * parameter_bytes
            if filled >= BUCKET_BYTES or number == len(order):
                total += Cost(messages=peers, calls=1)
                filled = 0
    return total


def layers_cost(
    model: nn.Module,
    *,
    samples: int,
    element_bytes: int,
    passes: int = 1,
    recompute: bool = False,
    forwards: int = 0,
    fetches: bool = True,
    without_input_gradient: Sequence[nn.Module] = (),
) -> Cost:
    """The cost of all layers of ``model`` in a forward and a backward pass.

    Several ``passes`` are those within :func:`~weathermixer.jigsaw.weights.kept_weights`, which
    gather the weights once. With ``recompute``, what a pass made is let go of, and made and
    gathered again in the backward pass. ``forwards`` are as many forward passes more, of which
    nothing is kept. Off, ``fetches`` tells that the weights are here already. The layers in
    ``without_input_gradient`` take data in the first pass.
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
                    total += cost.fetch * fetches + cost.forward * forwards
        elif isinstance(module, LayerNorm | RMSNorm):
            statistics = norm_cost(module, samples=samples, statistic_bytes=statistic_bytes)
            total += statistics * ((3 if recompute else 2) * passes + forwards)
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


def _num_pieces(product: Product, samples: int, element_bytes: int) -> int:
    """Pieces of a map in a pair, both maps of which exchange as much in one piece."""
    return num_pieces((product, product), samples=samples, element_bytes=element_bytes)


def _features(side: Side) -> int:
    return side.features[0] if side.by_rows else sum(side.features)


def _rows(product: Product) -> int:
    """Rows that a rank multiplies with: its own, or all of them where weights stay."""
    if product.scheme in ("turn", "fold"):
        return product.rows.size
    return product.rows.sizes(product.across.size)[product.across.index]


def _pieces(product: Product, side: Side, samples: int, element_bytes: int) -> list[list[int]]:
    """For each piece of the columns, the elements that each rank of the side's axis holds."""
    count = _num_pieces(product, samples, element_bytes)
    by_rank = product.rows.sizes(product.across.size)
    found = []
    for number in range(count):
        if product.moves_rows and not side.by_rows:
            # All rows, of which a piece has some of each rank across.
            columns = sum(len(shard(rows * samples, count, number)) for rows in by_rank)
            found.append([features * columns for features in side.features])
        else:
            found.append(
                [
                    features * len(shard(rows * samples, count, number))
                    for features, rows in zip(side.features, side.rows, strict=True)
                ]
            )
    return found


def _others(pieces: Sequence[int], place: int, element_bytes: int) -> int:
    """Bytes of the pieces that a gather brings."""
    return (sum(pieces) - pieces[place]) * element_bytes


def _gather(pieces: Sequence[int], place: int, element_bytes: int) -> Cost:
    """The cost of sending a rank's piece to all others, and receiving theirs."""
    others = [*pieces[:place], *pieces[place + 1 :]]
    return _rounds([(pieces[place], other) for other in others], element_bytes)


def _reduce(pieces: Sequence[int], place: int, element_bytes: int) -> Cost:
    """The cost of sending to each other rank what is summed there, and receiving what is here."""
    others = [*pieces[:place], *pieces[place + 1 :]]
    return _rounds([(other, pieces[place]) for other in others], element_bytes)


def _rounds(rounds: Sequence[tuple[int, int]], element_bytes: int) -> Cost:
    """Exchanges that send and receive so many elements; nothing moves where there are none."""
    return Cost(
        bytes_sent=sum(sent for sent, _ in rounds) * element_bytes,
        messages=sum(1 for sent, _ in rounds if sent),
        calls=sum(1 for sent, received in rounds if sent or received),
    )


def _all_reduce(axis: Axis, elements: int, element_bytes: int) -> Cost:
    """The cost of a sum over an axis as a ring takes it, in one call of the backend."""
    if not elements:
        return Cost()
    others = axis.size - 1
    return Cost(2 * others * elements // axis.size * element_bytes, 2 * others, calls=1)
