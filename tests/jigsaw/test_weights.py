"""Weights that move: fetched before their product; their gradients come after the one before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from support.networks import gradient_of, over_tokens
from support.ranks import Pool
from weathermixer.jigsaw import matmul
from weathermixer.jigsaw.exchange import AllReduce, ReduceScatter
from weathermixer.jigsaw.layers import LayerNorm, Linear, initialise
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.weights import prefetch_in_order

TOKENS, CHANNELS = 5, 6
# Rows of a token-mixing product are channels: cut over tensor, so the weights are gathered over it.
MOVING = Layout(tensor=2)


def two_layers(mesh: Mesh, *, first_moves: bool = True) -> list[Linear]:
    first, second = (
        Linear(TOKENS, TOKENS, mesh, rows=CHANNELS, features="domain")
        if moves
        else Linear(CHANNELS, CHANNELS, mesh, rows=TOKENS)
        for moves in (first_moves, True)
    )
    layers = nn.Sequential(first, second).double()
    initialise(layers, seed=0)
    prefetch_in_order(layers)
    return [first, second]


def apply(layer: Linear, x: Tensor) -> Tensor:
    return over_tokens(layer, x) if layer.product.features_first else layer(x)


def own_channels(mesh: Mesh, whole: Tensor) -> Tensor:
    start = mesh.tensor.index * CHANNELS // 2
    return whole[..., start : start + CHANNELS // 2].contiguous()


def draw() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(TOKENS, 1, CHANNELS, generator=generator, dtype=torch.float64)


def order_of_the_backward_pass(mesh: Mesh, first_moves: bool) -> list[str]:
    first, second = two_layers(mesh, first_moves=first_moves)
    y = apply(second, apply(first, own_channels(mesh, draw())))
    return events_of_weight_gradients(y.sum())


def events_of_weight_gradients(loss: Tensor) -> list[str]:
    """What happens to gradients of weights in a backward pass, in order."""
    events: list[str] = []

    def noting(event: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            events.append(event)
            return function(*arguments)

        return noted

    def finish(sums: ReduceScatter, own: Tensor) -> Tensor:
        if sums._rounds:
            events.append("arrived")
        return plain_finish(sums, own)

    plain_finish = ReduceScatter.finish
    with (
        patch.object(ReduceScatter, "finish", finish),
        patch.object(ReduceScatter, "send", noting("sent", ReduceScatter.send)),
        patch.object(AllReduce, "__init__", noting("sums sent", AllReduce.__init__)),
        patch.object(AllReduce, "wait", noting("sums arrived", AllReduce.wait)),
        patch.object(matmul, "_weight_gradient", noting("product", matmul._weight_gradient)),
    ):
        loss.backward()
    return events


@pytest.mark.parametrize("first_moves", [True, False])
def test_parts_of_a_gradient_travel_while_the_product_before_computes(
    pool: Pool, first_moves: bool
) -> None:
    for events in pool.run(order_of_the_backward_pass, MOVING, first_moves):
        first = ["product", "sent"] if first_moves else ["product"]
        arrivals = ["arrived"] * events.count("sent")
        assert events == ["product", "sent", *first, *arrivals, "sums sent", "sums arrived"]


def order_behind_a_norm(mesh: Mesh) -> list[str]:
    norm = LayerNorm(CHANNELS, mesh, rows=TOKENS).double()
    _, second = two_layers(mesh)
    initialise(norm, seed=0)
    return events_of_weight_gradients(apply(second, norm(own_channels(mesh, draw()))).sum())


def test_the_gradient_of_a_weight_is_computed_while_the_sums_of_a_norm_travel(pool: Pool) -> None:
    for events in pool.run(order_behind_a_norm, MOVING):
        assert events[:5] == ["sums sent", "product", "sent", "sums arrived", "arrived"]


def fetches_of_the_second_begun_with_the_first(mesh: Mesh) -> int:
    first, second = two_layers(mesh, first_moves=False)
    before = mesh.counter.copy()
    first.gathered.get(torch.float64)
    begun = mesh.counter.since(before).messages
    apply(second, own_channels(mesh, draw()))  # what was begun has to be waited for
    return begun


def test_the_first_weight_that_moves_travels_beside_the_layers_before_it(pool: Pool) -> None:
    assert pool.run(fetches_of_the_second_begun_with_the_first, MOVING) == [1, 1]


def gradients(mesh: Mesh, case: str) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of the input and the second weight in a case out of the ordinary."""
    first, second = two_layers(mesh)
    x = own_channels(mesh, draw()).requires_grad_()
    if case == "frozen":
        second.weight.requires_grad_(False)
        apply(second, apply(first, x)).sum().backward()
    else:
        # What was begun for the second layer without gradients must not serve a pass with them.
        with torch.no_grad():
            between = apply(first, x)
        apply(second, between + x).sum().backward()
    return gradient_of(x), second.weight.grad


def gradients_of_the_input_alone(mesh: Mesh) -> tuple[Tensor, Tensor | None]:
    """Return the input's gradient, asked for twice, and then that of the second weight."""
    first, second = two_layers(mesh)
    x = own_channels(mesh, draw()).requires_grad_()
    for _ in range(2):
        (of_input,) = torch.autograd.grad(apply(second, apply(first, x)).sum(), x)
        assert second.weight.grad is None
    apply(second, apply(first, x)).sum().backward()
    return of_input, second.weight.grad


def test_the_gradient_of_the_input_alone_leaves_nothing_on_the_way(pool: Pool) -> None:
    outcomes = pool.run(gradients_of_the_input_alone, MOVING)
    first, second = (layer.weight.detach() for layer in two_layers(Mesh.describe()))
    x, weight = draw().requires_grad_(), second.clone().requires_grad_()
    mix(weight, mix(first, x)).sum().backward()
    found = torch.cat([of_input for of_input, _ in outcomes], dim=-1)
    torch.testing.assert_close(found, x.grad, rtol=1e-12, atol=1e-12)
    rows = [of_weight for _, of_weight in outcomes]
    torch.testing.assert_close(torch.cat(rows), weight.grad, rtol=1e-12, atol=1e-12)


def mix(matrix: Tensor, tokens: Tensor) -> Tensor:
    return torch.einsum("ot,tbc->obc", matrix, tokens)


@pytest.mark.parametrize("case", ["frozen", "without gradients first"])
def test_a_pass_out_of_the_ordinary_has_the_gradients_of_one_process(pool: Pool, case: str) -> None:
    outcomes = pool.run(gradients, MOVING, case)
    first, second = (layer.weight.detach() for layer in two_layers(Mesh.describe()))
    x = draw().requires_grad_()
    weight = second.clone().requires_grad_(case != "frozen")
    if case == "frozen":
        mix(weight, mix(first, x)).sum().backward()
    else:
        mix(weight, mix(first, x).detach() + x).sum().backward()
    found = torch.cat([of_input for of_input, _ in outcomes], dim=-1)
    torch.testing.assert_close(found, x.grad, rtol=1e-12, atol=1e-12)
    rows = [of_weight for _, of_weight in outcomes]
    if case == "frozen":
        assert rows == [None, None]
    else:
        torch.testing.assert_close(torch.cat(rows), weight.grad, rtol=1e-12, atol=1e-12)
