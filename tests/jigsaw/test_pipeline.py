"""Columns that go through products in pieces: the same function, bits, and bytes as whole ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.ranks import Pool
from support.selection import exhaustive
from weathermixer.jigsaw import product
from weathermixer.jigsaw.cost import PAIRS, Pair, layers_cost, shared_cost
from weathermixer.jigsaw.dropout import Dropout, set_dropout_key
from weathermixer.jigsaw.gradients import JigsawError
from weathermixer.jigsaw.layers import Linear, feed_forward, initialise
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.pipeline import take_turns
from weathermixer.jigsaw.product import Features
from weathermixer.jigsaw.tensors import block_of, cut, gather, whole_gradients, whole_state

FEATURES, HIDDEN, ROWS, BATCH = 13, 11, 17, 2
MESHES = [
    Layout(tensor=2),
    Layout(domain=3),
    Layout(domain=2, tensor=2),
    *exhaustive(Layout(domain=2, tensor=3)),
]


@dataclass(frozen=True)
class Pass:
    """What a forward and a backward pass of a pair of maps made, and what it sent."""

    output: Tensor
    input_gradient: Tensor
    gradients: dict[str, Tensor]
    weights: dict[str, Tensor]
    sent: tuple[int, int, int]
    predicted: tuple[int, int, int]


def linked(mesh: Mesh, *, overlap: bool = True) -> Mesh:
    """The mesh as if a link lay between its ranks."""
    data, domain, tensor = (
        replace(axis, has_link=True, overlap=overlap)
        for axis in (mesh.data, mesh.domain, mesh.tensor)
    )
    return replace(mesh, data=data, domain=domain, tensor=tensor)


class TwoMaps(nn.Module):
    """A pair of maps with GELU and dropout between."""

    def __init__(self, mesh: Mesh, features: Features, pair: Pair, p: float) -> None:
        super().__init__()
        self.expand, self.contract = (
            Linear(*sizes, mesh, rows=ROWS, features=features, scheme=scheme, dtype=torch.float64)
            for sizes, scheme in zip(((FEATURES, HIDDEN), (HIDDEN, FEATURES)), pair, strict=True)
        )
        self.dropout = Dropout(p, mesh)

    def between(self, hidden: Tensor) -> Tensor:
        dropped: Tensor = self.dropout(F.gelu(hidden))
        return dropped

    def forward(self, x: Tensor) -> Tensor:
        return feed_forward(x, self.expand, self.between, self.contract)


def draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def run_pair(
    mesh: Mesh, features: Features, pair: Pair, pieces: int, p: float, overlap: bool
) -> Pass:
    """A pass in so many pieces, or fewer where there are not as many columns."""
    mesh = linked(mesh, overlap=overlap)
    along, across = (
        (mesh.domain, mesh.tensor) if features == "domain" else (mesh.tensor, mesh.domain)
    )
    with patch.object(product, "_pieces_of", lambda num_bytes, axis: pieces if num_bytes else 1):
        model = TwoMaps(mesh, features, pair, p)
        initialise(model, seed=1)
        assert model.expand.bias is not None
        nn.init.uniform_(model.expand.bias, generator=torch.Generator().manual_seed(5))
        set_dropout_key(model, seed=2, step=3)
        # (rows, batch, features), or with the rows and features of a map over what lies first.
        shape = (ROWS, BATCH, FEATURES) if features == "tensor" else (BATCH, ROWS, FEATURES)
        rows = 0 if features == "tensor" else 1
        part = block_of(shape, mesh, {rows: (across, ROWS), 2: (along, FEATURES)})
        x = cut(draw(*shape, seed=1), part).requires_grad_()
        before = mesh.counter.copy()
        y = model(x)
        y.backward(cut(draw(*shape, seed=2), part))
        counted = mesh.counter.since(before)
        cost = layers_cost(model, samples=BATCH, element_bytes=8) + shared_cost(
            model, parameter_bytes=8
        )
    assert x.grad is not None
    return Pass(
        gather(y, part),
        gather(x.grad, part),
        whole_gradients(model),
        whole_state(model),
        (counted.bytes_sent, counted.messages, counted.multiply_adds),
        (cost.bytes_sent, cost.messages, cost.multiply_adds),
    )


def expected(
    weights: dict[str, Tensor], features: Features
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The same on one process, in plain PyTorch."""
    weights = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    shape = (ROWS, BATCH, FEATURES) if features == "tensor" else (BATCH, ROWS, FEATURES)
    x = draw(*shape, seed=1).requires_grad_()
    hidden = F.gelu(F.linear(x, weights["expand.weight"], weights["expand.bias"]))
    y = F.linear(hidden, weights["contract.weight"], weights["contract.bias"])
    y.backward(draw(*shape, seed=2))
    assert x.grad is not None
    return (
        y,
        x.grad,
        {name: weight.grad for name, weight in weights.items() if weight.grad is not None},
    )


@pytest.mark.parametrize("pieces", [3, *exhaustive(1, 8, 40)])
@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
@pytest.mark.parametrize("features", ["tensor", "domain"])
@pytest.mark.parametrize("layout", MESHES, ids=str)
def test_pieces_make_the_function_and_gradients_of_one_process(
    pool: Pool, layout: Layout, features: Features, pair: Pair, pieces: int
) -> None:
    for found in pool.run(run_pair, layout, features, pair, pieces, 0.0, True):
        y, dx, gradients = expected(found.weights, features)
        torch.testing.assert_close(found.output, y, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.input_gradient, dx, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.gradients, gradients, rtol=1e-12, atol=1e-11)
        assert found.sent == found.predicted


@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
@pytest.mark.parametrize("features", ["tensor", "domain"])
def test_what_dropout_zeroes_does_not_depend_on_pieces(
    pool: Pool, features: Features, pair: Pair
) -> None:
    layout = Layout(domain=2, tensor=2)
    whole = pool.run(run_pair, layout, features, pair, 1, 0.3, True)
    in_pieces = pool.run(run_pair, layout, features, pair, 4, 0.3, True)
    for one, other in zip(whole, in_pieces, strict=True):
        torch.testing.assert_close(one.output, other.output, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(one.gradients, other.gradients, rtol=1e-12, atol=1e-11)
        assert one.sent[0] == other.sent[0]


@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_waiting_at_once_gives_the_same_bits(pool: Pool, pair: Pair) -> None:
    layout = Layout(domain=2, tensor=2)
    overlapping = pool.run(run_pair, layout, "tensor", pair, 4, 0.3, True)
    for one, other in zip(
        overlapping, pool.run(run_pair, layout, "tensor", pair, 4, 0.3, False), strict=True
    ):
        assert torch.equal(one.output, other.output)
        assert torch.equal(one.input_gradient, other.input_gradient)
        for name, gradient in one.gradients.items():
            assert torch.equal(gradient, other.gradients[name])


def refused(mesh: Mesh, between: Callable[[Tensor], Tensor]) -> str:
    model = TwoMaps(mesh, "tensor", ("reduce", "gather"), 0.0)
    initialise(model, seed=1)
    x = torch.ones(ROWS, mesh.tensor.size and model.expand.product.source.own_features)
    with pytest.raises(JigsawError) as error:
        feed_forward(
            x.double().requires_grad_(), model.expand, between, model.contract
        ).sum().backward()
    return str(error.value)


def hooked(mesh: Mesh) -> tuple[list[Tensor], Tensor | None]:
    """What hooks of a weight that stays where it is were told, and its gradient."""
    model = TwoMaps(mesh, "tensor", ("reduce", "gather"), 0.0)
    initialise(model, seed=1)
    told: list[Tensor] = []
    model.contract.weight.register_hook(told.append)
    part = block_of((ROWS, FEATURES), mesh, {0: (mesh.domain, ROWS), 1: (mesh.tensor, FEATURES)})
    model(cut(draw(ROWS, FEATURES, seed=1), part)).square().sum().backward()
    return told, model.contract.weight.grad


def test_hooks_of_a_weight_that_one_rank_knows_are_told_its_gradient(pool: Pool) -> None:
    for (told,), gradient in pool.run(hooked, Layout(tensor=2)):
        assert gradient is not None
        assert torch.equal(told, gradient)


def in_inference(mesh: Mesh, pair: Pair) -> tuple[Tensor, Tensor]:
    """The own part of the output, with and without inference mode."""
    model = TwoMaps(mesh, "tensor", pair, 0.0)
    initialise(model, seed=1)
    part = block_of((ROWS, FEATURES), mesh, {0: (mesh.domain, ROWS), 1: (mesh.tensor, FEATURES)})
    x = cut(draw(ROWS, FEATURES, seed=1), part)
    with torch.inference_mode():
        inferred = model(x).clone()
    return inferred.clone(), model(x).detach()


@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_inference_gives_the_same_bits(pool: Pool, pair: Pair) -> None:
    for inferred, expected in pool.run(in_inference, Layout(domain=2, tensor=2), pair):
        assert torch.equal(inferred, expected)


class Scaled(nn.Module):
    """An activation function with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


@pytest.mark.parametrize(
    ("between", "message"),
    [
        (lambda hidden: hidden.relu_(), "leave its input alone"),
        (lambda hidden: hidden[:1], "elementwise"),
        (Scaled(), "parameters"),
        (lambda hidden: F.dropout(hidden, 0.5), "random"),
    ],
    ids=["in place", "another shape", "parameters", "random"],
)
def test_what_lies_between_has_to_be_elementwise_and_repeatable(
    between: Callable[[Tensor], Tensor], message: str
) -> None:
    assert message in refused(Mesh.describe(), between)


def test_pieces_take_turns_so_that_the_next_one_works_before_each_wait() -> None:
    done: list[str] = []

    def piece(name: str):  # type: ignore[no-untyped-def]
        for stage in range(3):
            done.append(f"{name}{stage}")
            yield

    take_turns([piece("a"), piece("b"), piece("c")])
    assert done == ["a0", "b0", "a1", "c0", "b1", "a2", "c1", "b2", "c2"]
