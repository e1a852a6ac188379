"""Weights that move: fetched before their product; their gradients come after the one before."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from support.networks import gradient_of
from support.ranks import Pool
from weathermixer.jigsaw.layers import ChannelLinear, Linear, TokenLinear, prefetch_in_order
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh

TOKENS, CHANNELS = 5, 6
# Rows of a token-mixing product are channels: cut over tensor, so the weights are gathered over it.
MOVING = Layout(tensor=2)


def two_layers(mesh: Mesh, *, first_moves: bool = True) -> list[Linear]:
    first: Linear = (
        TokenLinear(TOKENS, TOKENS, mesh, rows=CHANNELS)
        if first_moves
        else ChannelLinear(CHANNELS, CHANNELS, mesh, rows=TOKENS)
    )
    second = TokenLinear(TOKENS, TOKENS, mesh, rows=CHANNELS)
    layers = torch.nn.Sequential(first, second).double()
    first.initialise(0, "0")
    second.initialise(0, "1")
    prefetch_in_order(layers)
    return [first, second]


def own_channels(mesh: Mesh, whole: Tensor) -> Tensor:
    start = mesh.tensor.index * CHANNELS // 2
    return whole[..., start : start + CHANNELS // 2].contiguous()


def draw() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(TOKENS, 1, CHANNELS, generator=generator, dtype=torch.float64)


def order_of_the_backward_pass(mesh: Mesh, first_moves: bool) -> list[str]:
    first, second = two_layers(mesh, first_moves=first_moves)
    events: list[str] = []
    for name, layer in (("0", first), ("1", second)):
        layer.weight.register_post_accumulate_grad_hook(
            lambda _, name=name: events.append(f"gradient of weight {name}")
        )
    between = first(own_channels(mesh, draw()))
    between.register_hook(lambda _: events.append("product 0"))
    second(between).sum().backward()
    return events


@pytest.mark.parametrize("first_moves", [True, False])
def test_parts_of_a_gradient_travel_while_the_product_before_computes(
    pool: Pool, first_moves: bool
) -> None:
    for events in pool.run(order_of_the_backward_pass, MOVING, first_moves):
        assert events[0] == "product 0"
        assert sorted(events[1:]) == ["gradient of weight 0", "gradient of weight 1"]


def fetches_of_the_second_begun_with_the_first(mesh: Mesh) -> int:
    first, second = two_layers(mesh, first_moves=False)
    before = mesh.counter.copy()
    first.gathered.get(torch.float64)
    begun = mesh.counter.since(before).messages
    second(own_channels(mesh, draw()))  # what was begun has to be waited for
    return begun


def test_the_first_weight_that_moves_travels_beside_the_layers_before_it(pool: Pool) -> None:
    assert pool.run(fetches_of_the_second_begun_with_the_first, MOVING) == [1, 1]


def gradients(mesh: Mesh, case: str) -> tuple[Tensor, Tensor | None]:
    """Of the input and of the second weight, where the case is out of the ordinary."""
    first, second = two_layers(mesh)
    x = own_channels(mesh, draw()).requires_grad_()
    if case == "frozen":
        second.weight.requires_grad_(False)
        second(first(x)).sum().backward()
    else:
        # What was begun for the second layer without gradients must not serve a pass with them.
        with torch.no_grad():
            between = first(x)
        second(between + x).sum().backward()
    return gradient_of(x), second.weight.grad


def gradients_of_the_input_alone(mesh: Mesh) -> tuple[Tensor, Tensor | None]:
    """Of the input, asked for twice, and of the second weight, in a pass after these."""
    first, second = two_layers(mesh)
    x = own_channels(mesh, draw()).requires_grad_()
    for _ in range(2):
        (of_input,) = torch.autograd.grad(second(first(x)).sum(), x)
        assert second.weight.grad is None
    second(first(x)).sum().backward()
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
