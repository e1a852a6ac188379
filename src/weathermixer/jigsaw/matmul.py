"""Products on the pieces that ranks hold, differentiable: what moves, and what is computed then.

Forward: ``Y[p] = Σ_q W[p, q] X[q]`` over gathered pieces ``q``, reduce-scattered over ``p``.
Backward: ``dX[q] = Σ_p W[p, q]ᵀ dY[p]`` over gathered pieces ``p``, reduce-scattered over ``q``;
``dW[p, q] = dY[p] X[q]ᵀ``, reduce-scattered over ``weight_axis``. Since a gather and a
reduce-scatter over the same axis are adjoint, these are the gradients of the forward product. Two
products with an elementwise function between are one chain, through which the pieces of the columns
follow each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from weathermixer.jigsaw.activity import ACTIVITY
from weathermixer.jigsaw.backlog import BACKLOG
from weathermixer.jigsaw.between import Elementwise, apply_between, differentiate_between
from weathermixer.jigsaw.columns import Activation, Columns
from weathermixer.jigsaw.dropout import PieceOfMatrix, piece_of
from weathermixer.jigsaw.gradients import (
    Use,
    accumulates,
    current_pass,
    has_hooks,
    in_backward,
    let_go_of_broken_passes,
)
from weathermixer.jigsaw.layout import offsets
from weathermixer.jigsaw.pipeline import Contraction, take_turns
from weathermixer.jigsaw.product import Product, Side, num_pieces
from weathermixer.jigsaw.weight_gradient import GradientByPieces, WeightGradient
from weathermixer.jigsaw.weights import FetchedWeight


@dataclass(frozen=True)
class Map:
    """One use of a product and its parameters.

    ``begin`` lets the weight travel if it has to, ``fetch`` gives the matrix ``(outputs, inputs)``
    to multiply with, and ``then`` begins what may travel when the map has nothing more to send;
    ``name`` is that of the layer, for messages.
    """

    product: Product
    weight: Use
    bias: Use | None
    begin: Callable[[], None]
    fetch: Callable[[], FetchedWeight]
    then: Callable[[], None]
    name: str


def multiply(
    x: Tensor, maps: tuple[Map, ...], *, samples: int, between: Elementwise | None = None
) -> Tensor:
    """``W x + b`` of one map, or of two with ``between`` them, differentiable.

    ``x`` is this rank's matrix of the input as stored, of so many samples; the result is its
    matrix of the output.
    """
    if not in_backward():
        let_go_of_broken_passes()
    chain = _Chain(maps, between, samples, x.element_size())
    nodes = [
        None if parameter is None else parameter.node
        for one in maps
        for parameter in (one.weight, one.bias)
    ]
    y: Tensor = _Multiply.apply(chain, x, *nodes)  # type: ignore[no-untyped-call]
    return y


class _Chain:
    """One use of one map, or of two, and how its columns are cut into pieces.

    ``inputs`` and ``outputs`` are those of each map.
    """

    def __init__(
        self, maps: tuple[Map, ...], between: Elementwise | None, samples: int, element_bytes: int
    ) -> None:
        self.maps, self.between = maps, between
        products = [one.product for one in maps]
        self.has_link = products[0].along.has_link
        # While pieces of it travel, there are waits.
        self.has_waits = self.has_link and any(product.largest_message for product in products)
        self.num_pieces = num_pieces(products, samples=samples, element_bytes=element_bytes)

        def cut(side: Side) -> Columns:
            return Columns.of(side, samples=samples, num_pieces=self.num_pieces)

        def inner(side: Side) -> Columns:
            first = side.features_first and self.num_pieces == 1
            return self.inputs[0].on(replace(side, features_first=first))

        self.inputs = [cut(products[0].source)]
        self.inputs += [inner(product.source) for product in products[1:]]
        self.outputs = [inner(product.target) for product in products[:-1]]
        self.outputs += [cut(products[-1].target)]

    def inner_piece(self, number: int) -> PieceOfMatrix | None:
        """What a piece between the maps is of a matrix that is not cut into any."""
        if self.num_pieces == 1:
            return None
        source, inner = self.inputs[0], self.outputs[0]
        wholes = [range(inner.num_columns)]
        parts, starts = [inner.parts[number][inner.side.axis.index]], [0]
        if source.is_by_rows:
            wholes = offsets([sum(map(len, parts)) for parts in zip(*source.parts, strict=True)])
            parts = list(source.parts[number])
            starts = [within.start for within in source.within[number]]
        runs = tuple(
            (range(whole.start + part.start, whole.start + part.stop), start)
            for whole, part, start in zip(wholes, parts, starts, strict=True)
        )
        return PieceOfMatrix(
            inner.side.own_features,
            inner.num_columns,
            self.maps[0].product.features_first,
            runs,
        )


class _Multiply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, chain: _Chain, x: Tensor, *_: Tensor | None) -> Tensor:
        for one in chain.maps:
            one.begin()
        activations = [Activation(chain.inputs[0], x)]
        activations += [Activation(columns) for columns in chain.inputs[1:]]
        contractions: list[Contraction] = []
        wholes: list[Tensor] = []
        inner: list[Tensor] = []
        output = chain.outputs[-1]
        y: Tensor | None = None

        def contraction(place: int) -> Contraction:
            if place == len(contractions):
                one = chain.maps[place]
                weight = one.fetch()
                wholes.append(weight.whole)
                bias = None if one.bias is None else one.bias.source.parameter.detach()
                contractions.append(
                    Contraction(
                        chain.outputs[place],
                        _Blocks(weight.whole, one.product).forward,
                        f"{one.name}, forward",
                        None if bias is None else bias.to(x.dtype),
                        weight if weight.is_arriving else None,
                        one.then if place == len(activations) - 1 else None,
                    )
                )
            return contractions[place]

        def pass_through(number: int) -> Iterator[None]:
            nonlocal y
            for place, activation in enumerate(activations):
                if place:
                    assert chain.between is not None
                    with piece_of(chain.inner_piece(number)):
                        activation.put(apply_between(chain.between, inner[number]))
                if place == len(activations) - 1:
                    y = output.new_matrix(x) if y is None else y
                    made = output.side.matrix(y)[:, output.own(number)]
                else:
                    inner.append(chain.outputs[place].new_piece(x, number))
                    made = chain.outputs[place].side.matrix(inner[-1])
                yield from contraction(place).of(activation, number, made)

        take_turns([pass_through(number) for number in range(chain.num_pieces)])
        kept = [activation.kept() for activation in activations]
        ctx.save_for_backward(*wholes, *inner, *(each for tensors in kept for each in tensors))
        ctx.chain, ctx.num_kept = chain, [len(tensors) for tensors in kept]
        assert y is not None
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        _, of_input, *of_parameters = ctx.needs_input_grad
        adjoint = _Adjoint(ctx.chain, dy.contiguous(), ctx.saved_tensors, ctx.num_kept)
        ctx.maybe_clear_saved_tensors()  # so that they go as they have been used
        dx, gradients = adjoint.gradients(of_input, of_parameters)
        del adjoint  # and gathered weights with it, which what was deferred does not need
        BACKLOG.finish_layer()
        return None, dx, *gradients


class _Adjoint:
    """The gradients of a chain: first that of its input, which the ranks wait for."""

    def __init__(
        self, chain: _Chain, dy: Tensor, saved: Sequence[Tensor], num_kept: Sequence[int]
    ) -> None:
        self._chain = chain
        rest = iter(saved)
        self._wholes = [next(rest) for _ in chain.maps]
        self._inner = {
            number: next(rest) for _ in chain.outputs[1:] for number in range(chain.num_pieces)
        }
        # Of what lies between the maps this rank's own part is made again: it takes less time than
        # its memory is worth.
        self._x = {
            place: Activation.kept_from(
                columns, [next(rest) for _ in range(count)], is_given=place == 0
            )
            for place, (columns, count) in enumerate(zip(chain.inputs, num_kept, strict=True))
        }
        self._dy = {place: Activation(columns) for place, columns in enumerate(chain.outputs[:-1])}
        self._dy[len(chain.maps) - 1] = Activation(chain.outputs[-1], dy)
        self._like = dy

    def gradients(
        self, of_input: bool, of_parameters: Sequence[bool]
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        """The gradients of this rank's input, as stored, and of weight and bias of each map.

        They are None where they are not wanted, and where they are made or arrive later.
        """
        chain, found = self._chain, list[Tensor | None]([None] * len(of_parameters))
        dx: Tensor | None = None
        by_pieces = {
            place: GradientByPieces(
                one.product, self._dy[place], self._x[place], current_pass(), one.weight.source
            )
            for place, one in reversed([*enumerate(chain.maps)])
            if of_parameters[2 * place] and _may_wait(one) and self._passes_by_pieces(place)
        }

        def has_passed(place: int, number: int) -> None:
            if place in by_pieces:
                by_pieces[place].defer(number)

        def parameters(place: int) -> None:
            of_weight, of_bias = of_parameters[2 * place : 2 * place + 2]
            dy, x = self._dy.pop(place), self._x.pop(place)
            one = chain.maps[place]
            if of_bias:
                assert one.bias is not None
                found[2 * place + 1] = _bias_gradient(one.bias, dy)
            if place in by_pieces:
                if one.weight.is_local:
                    current_pass().complete(one.weight.source)
            elif of_weight:
                found[2 * place] = _weight_gradient(one, dy, x)

        def pass_back(number: int) -> Iterator[None]:
            nonlocal dx
            for place in reversed(range(len(chain.maps))):
                columns = chain.inputs[place]
                if place:
                    made = columns.new_piece(self._like, number)
                    into = columns.side.matrix(made)
                elif of_input:
                    dx = columns.new_matrix(self._like) if dx is None else dx
                    into = columns.side.matrix(dx)[:, columns.own(number)]
                else:
                    ACTIVITY.where = f"{chain.maps[0].name}, backward"
                    yield from self._dy[0].all_of(number, BACKLOG.fill)
                    has_passed(0, number)
                    return
                yield from self._contraction(place).of(self._dy[place], number, into, BACKLOG.fill)
                if place:
                    assert chain.between is not None
                    with piece_of(chain.inner_piece(number)):
                        hidden, gradient = differentiate_between(
                            chain.between, self._inner.pop(number), made
                        )
                    self._x[place].put(hidden)
                    self._dy[place - 1].put(gradient)
                    del made, into, hidden, gradient  # which this coroutine would keep
                has_passed(place, number)
                if place and not chain.has_waits:
                    # There is only one piece, and memory that is not needed after this.
                    parameters(place)
                    BACKLOG.catch_up()

        take_turns([pass_back(number) for number in range(chain.num_pieces)])
        for place in sorted(self._dy, reverse=True):
            parameters(place)
        return dx, found

    def _passes_by_pieces(self, place: int) -> bool:
        one, columns = self._chain.maps[place], self._chain.inputs[place]
        source = one.weight.source
        return GradientByPieces.serves(one.product, columns, self._like.dtype, source)

    def _contraction(self, place: int) -> Contraction:
        one = self._chain.maps[place]
        return Contraction(
            self._chain.inputs[place],
            _Blocks(self._wholes[place], one.product).backward,
            f"{one.name}, backward",
        )


def _may_wait(one: Map) -> bool:
    """Whether the gradient of a map's weight can be made later than the pass comes to it."""
    parameter = one.weight.source.parameter
    if not one.weight.is_local:
        return True
    return one.product.is_shared and accumulates(parameter) and not has_hooks(parameter)


def _weight_gradient(one: Map, dy: Activation, x: Activation) -> Tensor | None:
    """The gradient of this rank's weight; None where it is made and given later."""
    gradient, use = WeightGradient(one.product, dy, x), one.weight
    if not _may_wait(one):
        return gradient.whole()
    gradient.defer(current_pass(), use.source, name=one.name)
    if use.is_local:
        current_pass().complete(use.source)
    return None


def _bias_gradient(bias: Use, dy: Activation) -> Tensor | None:
    """The gradient of this rank's bias; None where it is on its way when this returns."""
    gradient = dy.own().sum(1, dtype=bias.source.parameter.dtype)
    if bias.is_local:
        return gradient
    current_pass().add(bias.source, gradient)
    return None


class _Blocks:
    """The block of a weight that connects an output piece ``p`` to an input piece ``q``."""

    def __init__(self, whole: Tensor, product: Product) -> None:
        self._whole = whole
        self._outputs = None if product.target.by_rows else offsets(product.target.features)
        self._inputs = None if product.source.by_rows else offsets(product.source.features)

    def forward(self, p: int, q: int) -> Tensor:
        block = self._whole
        if self._outputs is not None:
            block = block[self._outputs[p].start : self._outputs[p].stop]
        if self._inputs is not None:
            block = block[:, self._inputs[q].start : self._inputs[q].stop]
        return block

    def backward(self, q: int, p: int) -> Tensor:
        return self.forward(p, q).t()
