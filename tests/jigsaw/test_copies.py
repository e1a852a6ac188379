"""Copies of a model that is cut are models of their own, and are what copies of a plain one are."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from oracles.layers import Held, mixer
from support.networks import (
    UNEVEN,
    Network,
    Sample,
    errors,
    gradient_of,
    held_gradients,
    held_parameters,
    join_each,
    mesh_name,
    network_on,
    whole_parameters,
)
from support.ranks import Pool
from weathermixer.jigsaw.cutting import CutNorm, parallelize
from weathermixer.jigsaw.layers import initialise
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.pieces import Piece

MESHES = [Layout(domain=3), Layout(domain=2, tensor=2), Layout(data=2, tensor=2)]
SAMPLES = 2
RATE = 1e-2
STEPS = 3


@pytest.fixture(scope="module", params=MESHES, ids=mesh_name)
def layout(request: pytest.FixtureRequest) -> Layout:
    found: Layout = request.param
    return found


def own_sample(mesh: Mesh) -> Sample:
    return Sample.draw(UNEVEN, SAMPLES).of_replica(mesh.layout).on(mesh.layout, UNEVEN)


def gradients_alone(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
    sample = Sample.draw(UNEVEN, SAMPLES)
    mixer(leaves, sample.state, sample.static, blocks=1, passes=1).backward(sample.gradient)
    return {name: gradient_of(leaf) for name, leaf in leaves.items()}


def check(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, error in errors(found, expected).items():
        assert error <= 1e-12, name


def take_step(network: Network, sample: Sample) -> None:
    network(sample.state, sample.static).backward(sample.gradient)
    torch.optim.SGD(network.parameters(), lr=RATE).step()


def copied(mesh: Mesh, after_a_pass: bool) -> tuple[dict[str, Held], dict[str, Held], list[int]]:
    """Gradients of a copy and, changed meanwhile, of its original; and messages of their passes."""
    network = network_on(mesh, UNEVEN, whole=whole_parameters(UNEVEN))
    sample = own_sample(mesh)
    if after_a_pass:
        network(sample.state, sample.static)
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    messages = []
    for model in (other, network):
        before = mesh.counter.copy()
        model(sample.state, sample.static).backward(sample.gradient)
        messages.append(mesh.counter.since(before).messages)
    return held_gradients(other), held_gradients(network), messages


@pytest.mark.parametrize("after_a_pass", [False, True])
def test_a_deep_copy_and_its_original_are_apart(
    pool: Pool, layout: Layout, after_a_pass: bool
) -> None:
    ranks = pool.run(copied, layout, after_a_pass)
    whole = whole_parameters(UNEVEN)
    check(join_each([of_copy for of_copy, _, _ in ranks]), gradients_alone(whole))
    larger = {name: 1.5 * value for name, value in whole.items()}
    check(join_each([of_original for _, of_original, _ in ranks]), gradients_alone(larger))
    for _, _, (of_copy, of_original) in ranks:
        assert of_copy == of_original


def averaged(mesh: Mesh) -> tuple[dict[str, Held], dict[str, Held]]:
    """The average of a model over some steps, and its gradients."""
    network = network_on(mesh, UNEVEN, whole=whole_parameters(UNEVEN))
    average = AveragedModel(network)
    sample = own_sample(mesh)
    for _ in range(STEPS):
        network.zero_grad()
        take_step(network, sample)
        average.update_parameters(network)
        with torch.no_grad():
            average(sample.state, sample.static)
    average(sample.state, sample.static).backward(sample.gradient)
    return held_parameters(average.module), held_gradients(average.module)


def test_weights_are_averaged_as_those_of_a_plain_model(pool: Pool, layout: Layout) -> None:
    ranks = pool.run(averaged, layout)
    weights, steps = whole_parameters(UNEVEN), []
    for _ in range(STEPS):
        gradients = gradients_alone(weights)
        weights = {name: value - RATE * gradients[name] for name, value in weights.items()}
        steps.append(weights)
    whole = {name: torch.stack([step[name] for step in steps]).mean(0) for name in weights}
    check(join_each([parameters for parameters, _ in ranks]), whole)
    check(join_each([gradients for _, gradients in ranks]), gradients_alone(whole))


def restored(mesh: Mesh) -> tuple[list[str], bool, bool, dict[str, Held]]:
    """Names in a state dict; whether outputs differ before it is loaded, and agree afterwards."""
    network = network_on(mesh, UNEVEN, whole=whole_parameters(UNEVEN))
    other = network_on(mesh, UNEVEN).to_empty(device="cpu").double()
    initialise(other, seed=1)
    sample = own_sample(mesh)
    state = copy.deepcopy(network.state_dict())
    with torch.no_grad():
        expected = network(sample.state, sample.static)
        before = other(sample.state, sample.static)
    other.load_state_dict(state)
    after = other(sample.state, sample.static)
    after.backward(sample.gradient)
    agree = torch.equal(after, expected)
    return list(state), not torch.equal(before, expected), agree, held_gradients(other)


def test_a_state_dict_restores_a_model_under_the_names_of_the_plain_one(
    pool: Pool, layout: Layout
) -> None:
    ranks = pool.run(restored, layout)
    for names, differed, agree, _ in ranks:
        assert names == list(Network(UNEVEN, device="meta").state_dict())
        assert differed
        assert agree
    expected = gradients_alone(whole_parameters(UNEVEN))
    check(join_each([gradients for _, _, _, gradients in ranks]), expected)


def test_parameters_of_copies_and_on_another_device_tell_their_pieces() -> None:
    mesh = Mesh.describe(Layout(domain=2, tensor=2, rank=3))
    described = parallelize(nn.Sequential(nn.LayerNorm(5, device="meta")), mesh, {"0": CutNorm(4)})
    for model in (described, described.to_empty(device="cpu"), copy.deepcopy(described).double()):
        for parameter in model.parameters():
            piece = parameter.piece  # type: ignore[attr-defined]
            assert isinstance(piece, Piece)
            assert piece.block.ranges == ((range(3, 5),),)
            assert [axis.name for axis in piece.shared_over] == ["domain"]
