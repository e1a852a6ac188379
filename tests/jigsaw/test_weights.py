"""Weights that move: fetched before their product, their gradients made whenever there is time."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from support.networks import gradient_of, over_tokens
from support.ranks import Pool
from weathermixer.jigsaw.exchange import Round
from weathermixer.jigsaw.layers import LayerNorm, Linear, initialise
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.weights import fetch_in_order

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
    fetch_in_order(layers)
    return [first, second]


def apply(layer: Linear, x: Tensor) -> Tensor:
    return over_tokens(layer, x) if layer.product.features_first else layer(x)


def own_channels(mesh: Mesh, whole: Tensor) -> Tensor:
    own = CHANNELS // mesh.tensor.size
    start = mesh.tensor.index * own
    return whole[..., start : start + own].contiguous()


def draw() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(TOKENS, 1, CHANNELS, generator=generator, dtype=torch.float64)


def step_that_fills(mesh: Mesh, always: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a step whose ranks do what can wait in every wait, or in none."""
    norm = LayerNorm(CHANNELS, mesh, rows=TOKENS).double()
    initialise(norm, seed=0)
    first, second = two_layers(mesh)
    x = own_channels(mesh, draw()).requires_grad_()
    has_ended = property(lambda exchange: not always)
    with patch.object(Round, "has_ended", has_ended):
        apply(second, apply(first, norm(x))).square().sum().backward()
    assert first.weight.grad is not None
    assert second.weight.grad is not None
    return gradient_of(x), first.weight.grad, second.weight.grad


def step_on_ranks_at_odds(mesh: Mesh) -> tuple[Tensor, Tensor, Tensor]:
    return step_that_fills(mesh, always=mesh.layout.rank == 0)


@pytest.mark.parametrize("layout", [MOVING, Layout(tensor=3)], ids=str)
def test_ranks_may_make_gradients_in_different_waits(pool: Pool, layout: Layout) -> None:
    together = pool.run(step_that_fills, layout, False)
    for expected, found in zip(together, pool.run(step_on_ranks_at_odds, layout), strict=True):
        for one, other in zip(expected, found, strict=True):
            assert torch.equal(one, other)


def messages_of_the_first(mesh: Mesh) -> list[int]:
    """What the first layer sends when the second, which moves, was not used before, and when so."""
    first, second = two_layers(mesh, first_moves=False)
    x, found = own_channels(mesh, draw()), []
    for _ in range(2):
        before = mesh.counter.copy()
        between = apply(first, x)
        found.append(mesh.counter.since(before).messages)
        apply(second, between)
    return found


def test_a_weight_that_moves_travels_beside_the_layer_before_it(pool: Pool) -> None:
    for at_first, then in pool.run(messages_of_the_first, MOVING):
        assert then == at_first + 1


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
