"""Replicas that each see a part of the samples train as one process that sees them all."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from oracles.layers import Held, join, mixer
from support.networks import (
    UNEVEN,
    Sample,
    errors,
    gradient_of,
    held_parameters,
    mesh_name,
    network_on,
    whole_parameters,
)
from support.ranks import Pool
from weathermixer.jigsaw.cost import layers_cost, shared_cost
from weathermixer.jigsaw.layers import LayerNorm, initialise
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.replicas import Replicas

MESHES = [
    Layout(data=data, domain=domain, tensor=tensor)
    for data, domain, tensor in ((2, 1, 1), (3, 1, 1), (2, 2, 1), (2, 1, 2), (2, 2, 2), (1, 2, 2))
]
SAMPLES = 6
STEPS = 3
adamw = partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1, betas=(0.9, 0.95))


@pytest.fixture(scope="module", params=MESHES, ids=mesh_name)
def layout(request: pytest.FixtureRequest) -> Layout:
    found: Layout = request.param
    return found


class Trained(NamedTuple):
    gradients: dict[str, Held]  # of the first step, as the optimizer of a rank saw them
    parameters: dict[str, Held]
    norms: list[Tensor]
    state_elements: int
    bytes_sent: int


def samples_of(step: int) -> Sample:
    drawn = Sample.draw(UNEVEN, SAMPLES)
    return Sample(drawn.state.roll(step, 0), drawn.static, drawn.gradient.roll(-step, 2))


def train(mesh: Mesh, sharded: bool, fused: bool) -> Trained:
    network = network_on(mesh, UNEVEN, whole=whole_parameters(UNEVEN))
    replicas = Replicas(network, mesh, sharded=sharded)
    optimizer = adamw(replicas.parameters().values(), fused=fused)
    norms, gradients = [], {}
    before = mesh.counter.copy()
    for step in range(STEPS):
        sample = samples_of(step).of_replica(mesh.layout).on(mesh.layout, UNEVEN)
        output = network(sample.state, sample.static)
        # This replica's share of the mean over all samples.
        ((output * sample.gradient).sum() / SAMPLES).backward()
        if step == 0:
            blocks = replicas.blocks()
            gradients = {
                name: Held(blocks[name].shape, blocks[name].ranges, gradient_of(owned).clone())
                for name, owned in replicas.parameters().items()
            }
        norms.append(replicas.gradient_norm())
        optimizer.step()
        replicas.finish_step()
        assert all(parameter.grad is None for parameter in network.parameters())
    return Trained(
        gradients,
        held_parameters(network),
        norms,
        sum(
            state["exp_avg"].numel()
            for parameter, state in optimizer.state.items()
            if parameter.ndim > 1
        ),
        mesh.counter.since(before).bytes_sent,
    )


def train_alone() -> tuple[dict[str, Tensor], dict[str, Tensor], list[Tensor]]:
    """Gradients of the first step, parameters after the last and norms, from the description."""
    weights = {name: value.requires_grad_() for name, value in whole_parameters(UNEVEN).items()}
    optimizer = adamw(weights.values())
    norms, gradients = [], {}
    for step in range(STEPS):
        sample = samples_of(step)
        output = mixer(weights, sample.state, sample.static, blocks=UNEVEN.blocks, passes=1)
        optimizer.zero_grad()
        ((output * sample.gradient).sum() / SAMPLES).backward()
        found = {name: gradient_of(value).clone() for name, value in weights.items()}
        if step == 0:
            gradients = found
        norms.append(torch.cat([gradient.flatten() for gradient in found.values()]).norm())
        optimizer.step()
    return gradients, {name: value.detach() for name, value in weights.items()}, norms


@pytest.mark.parametrize("fused", [False, True], ids=["", "fused"])
@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
def test_replicas_train_as_one_process_with_all_samples(
    pool: Pool, layout: Layout, sharded: bool, fused: bool
) -> None:
    trained = pool.run(train, layout, sharded, fused)
    gradients, parameters, norms = train_alone()
    found, holders = {}, {}
    for name in gradients:
        found[name], holders[name] = join([rank.gradients[name] for rank in trained])
        copies = 1 if sharded else layout.data
        if gradients[name].ndim > 1:
            assert torch.all(holders[name] == copies), name
    assert max(errors(found, gradients).values()) <= 1e-12
    found = {
        name: join([rank.parameters[name] for rank in trained])[0] for name in trained[0].parameters
    }
    for name, error in errors(found, parameters).items():
        # AdamW divides by the size of a gradient, and this one is nothing but rounding.
        if not name.endswith("token_contract.bias"):
            assert error <= 1e-12, name
    for rank in trained:
        assert [float(norm) for norm in rank.norms] == pytest.approx(
            [float(norm) for norm in norms], rel=1e-12
        )
        assert all(torch.equal(a, b) for a, b in zip(rank.norms, trained[0].norms, strict=True))


@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
def test_each_replica_keeps_its_share_of_the_optimizers_state_and_sends_no_more_for_it(
    pool: Pool, layout: Layout, sharded: bool
) -> None:
    trained = pool.run(train, layout, sharded, True)
    weights = sum(value.numel() for value in whole_parameters(UNEVEN).values() if value.ndim > 1)
    kept = [rank.state_elements for rank in trained]
    if sharded:
        assert sum(kept) == weights
        largest_row = max(UNEVEN.inputs.size, 2 * UNEVEN.channels, UNEVEN.tokens.size)
        num_weights = 6
        assert max(kept) <= math.ceil(weights / layout.world_size) + num_weights * largest_row
    else:
        assert sum(kept) == layout.data * weights
    other = pool.run(train, layout, not sharded, True)
    assert [rank.bytes_sent for rank in trained] == [rank.bytes_sent for rank in other]


def bytes_of_step(mesh: Mesh, sharded: bool) -> int:
    network = network_on(mesh, UNEVEN, whole=whole_parameters(UNEVEN))
    replicas = Replicas(network, mesh, sharded=sharded)
    sample = Sample.draw(UNEVEN, 1).on(mesh.layout, UNEVEN)
    before = mesh.counter.copy()
    network(sample.state, sample.static).backward(sample.gradient)
    replicas.finish_step()
    return mesh.counter.since(before).bytes_sent


@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
def test_replicas_add_a_reduce_and_a_gather_of_the_weights_a_rank_has(
    pool: Pool, layout: Layout, sharded: bool
) -> None:
    sent = pool.run(bytes_of_step, layout, sharded)
    for rank, bytes_sent in enumerate(sent):
        here = layout.at(rank)
        network = network_on(Mesh.describe(here), UNEVEN)
        model = layers_cost(
            network, samples=1, element_bytes=8, without_input_gradient=(network.encoder,)
        ) + shared_cost(network, parameter_bytes=8)
        elements, parts = 0, layout.data
        for parameter in network.parameters():
            if parameter.ndim > 1:
                rows, width = parameter.shape
                # To each of the others its rows of this rank's gradient, and then these here.
                elements += 2 * (parts - 1) * math.ceil(rows / parts) * width
        assert bytes_sent == model.bytes_sent + 8 * elements


def backward_after_one_that_failed(mesh: Mesh) -> Tensor:
    """The gradient of a shared bias where the backward pass before was broken off."""
    norm = LayerNorm(3, mesh, rows=4).double()
    initialise(norm, seed=0)
    x = torch.arange(6.0, dtype=torch.float64).view(2, 1, 3).requires_grad_()

    def fail(_: Tensor) -> None:
        raise ArithmeticError

    before = x * 1.0
    before.register_hook(fail)
    with pytest.raises(ArithmeticError):
        norm(before).sum().backward()
    norm(x).sum().backward()
    assert norm.bias.grad is not None
    return norm.bias.grad


def test_a_backward_pass_that_failed_takes_nothing_from_the_next(pool: Pool) -> None:
    for gradient in pool.run(backward_after_one_that_failed, Layout(domain=2)):
        assert gradient.tolist() == [4.0, 4.0, 4.0]  # one for each of four tokens
