"""Passes out of the ordinary: several, partial, broken off or kept; and training after them.

Every gradient is compared with that of one process, in plain PyTorch and float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from oracles.layers import Held, cut, mixer
from support.networks import (
    UNEVEN,
    Network,
    Sample,
    errors,
    gradient_of,
    held_activation,
    held_gradients,
    held_parameters,
    join_each,
    mesh_name,
    network_on,
    whole_parameters,
)
from support.ranks import Pool
from support.selection import exhaustive
from weathermixer.jigsaw.gradients import JigsawError
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.replicas import Replicas
from weathermixer.jigsaw.weights import kept_weights

MESHES = [
    Layout(domain=3),
    Layout(data=2),
    Layout(domain=2, tensor=2),
    Layout(data=2, tensor=2),
]
SAMPLES = 4
BATCHES = (SAMPLES, 2 * SAMPLES)
RATE = 1e-2


# Tests of one mesh follow one another, so that its ranks are started once.
@pytest.fixture(scope="module", params=MESHES, ids=mesh_name)
def layout(request: pytest.FixtureRequest) -> Layout:
    found: Layout = request.param
    return found


def gradients_alone(
    *samples: Sample, passes: int = 1, scale: float = 1.0, frozen: Sequence[str] = ()
) -> dict[str, Tensor]:
    """The sums of gradients of some samples, and the last one's state, on one process."""
    weights = {
        name: (scale * value).requires_grad_(name not in frozen)
        for name, value in whole_parameters(UNEVEN).items()
    }
    for sample in samples:
        state = sample.state.clone().requires_grad_()
        output = mixer(weights, state, sample.static, blocks=1, passes=passes)
        output.backward(sample.gradient)
    found = {"state": gradient_of(state)}
    return found | {name: value.grad for name, value in weights.items() if value.grad is not None}


def own_sample(mesh: Mesh, batch: int = SAMPLES) -> Sample:
    """A rank's part of the samples that its replica sees."""
    return Sample.draw(UNEVEN, batch).of_replica(mesh.layout).on(mesh.layout, UNEVEN)


def owned_gradients(replicas: Replicas) -> dict[str, Held]:
    """The gradients of what a rank's optimizer changes."""
    blocks = replicas.blocks()
    return {
        name: Held(blocks[name].shape, blocks[name].ranges, owned.grad)
        for name, owned in replicas.parameters().items()
        if owned.grad is not None
    }


def check(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, error in errors(found, {name: expected[name] for name in found}).items():
        assert error <= 1e-12, name


def several_passes(
    mesh: Mesh, passes: int, sharded: bool, keeps: bool, reentrant: bool | None
) -> dict[str, Held]:
    network = network_on(mesh, UNEVEN, whole=whole_parameters(UNEVEN))
    network.reentrant = reentrant
    replicas = Replicas(network, mesh, sharded=sharded)
    for batch in BATCHES:
        sample = own_sample(mesh, batch)
        with kept_weights(network) if keeps else nullcontext():
            output = network(sample.state, sample.static, passes=passes)
        output.backward(sample.gradient)
    return owned_gradients(replicas)


@pytest.mark.parametrize(
    ("sharded", "reentrant"),
    [
        (False, None),
        (True, False),
        (False, True),
        *exhaustive((True, None), (False, False), (True, True)),
    ],
)
def test_gradients_of_passes_before_a_step_add_up(
    pool: Pool, layout: Layout, sharded: bool, reentrant: bool | None
) -> None:
    samples = [Sample.draw(UNEVEN, batch) for batch in BATCHES]
    for passes, keeps in ((1, False), (2, False), (2, True)):
        held = pool.run(several_passes, layout, passes, sharded, keeps, reentrant)
        expected = gradients_alone(*samples, passes=passes)
        found = join_each(held)
        assert found.keys() == expected.keys() - {"state"}
        check(found, expected)


FROZEN = [
    ["encoder.weight"],
    ["blocks.0.token_expand.weight", "blocks.0.channel_contract.weight"],
    ["decoder.bias"],
    ["norm.weight", "norm.bias"],
    ["encoder.weight", "encoder.bias", "blocks.0.token_norm.weight", "blocks.0.token_norm.bias"],
]


def train_frozen(
    mesh: Mesh, frozen: Sequence[str], sharded: bool
) -> tuple[dict[str, Held], dict[str, Held]]:
    """The gradients of a pass, and the parameters after a step."""
    network = network_on(mesh, UNEVEN, whole=whole_parameters(UNEVEN))
    for name in frozen:
        network.get_parameter(name).requires_grad_(False)
    replicas = Replicas(network, mesh, sharded=sharded)
    optimizer = torch.optim.SGD(replicas.parameters().values(), lr=RATE)
    sample = own_sample(mesh)
    network(sample.state, sample.static).backward(sample.gradient)
    gradients = owned_gradients(replicas)
    optimizer.step()
    replicas.finish_step()
    return gradients, held_parameters(network)


@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
def test_what_is_frozen_stays_and_the_rest_is_trained(
    pool: Pool, layout: Layout, sharded: bool
) -> None:
    for frozen in FROZEN:
        trained = pool.run(train_frozen, layout, frozen, sharded)
        expected = gradients_alone(Sample.draw(UNEVEN, SAMPLES), frozen=frozen)
        gradients = join_each([gradients for gradients, _ in trained])
        assert gradients.keys() == expected.keys() - {"state"}
        check(gradients, expected)
        whole = whole_parameters(UNEVEN)
        after = {name: value - RATE * expected.get(name, 0.0) for name, value in whole.items()}
        check(join_each([parameters for _, parameters in trained]), after)


def train_while_some_keep(mesh: Mesh, keepers: Sequence[int]) -> dict[str, Held]:
    """The parameters after some steps in which some ranks keep every output and its graph."""
    network = network_on(mesh, UNEVEN, whole=whole_parameters(UNEVEN))
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE)
    sample = own_sample(mesh)
    keeps, kept = mesh.layout.rank in keepers, []
    for _ in range(3):
        optimizer.zero_grad()
        output = network(sample.state, sample.static)
        output.backward(sample.gradient, retain_graph=keeps)
        if keeps:
            kept.append(output)
        optimizer.step()
    return held_parameters(network)


@pytest.mark.parametrize("keepers", [[0], [1]])
def test_what_a_rank_keeps_does_not_matter_to_the_others(
    pool: Pool, layout: Layout, keepers: list[int]
) -> None:
    found = join_each(pool.run(train_while_some_keep, layout, keepers, deadline_seconds=30))
    weights = {name: value.requires_grad_() for name, value in whole_parameters(UNEVEN).items()}
    optimizer = torch.optim.SGD(weights.values(), lr=RATE)
    sample = Sample.draw(UNEVEN, SAMPLES)
    for _ in range(3):
        optimizer.zero_grad()
        mixer(weights, sample.state, sample.static, blocks=1, passes=1).backward(sample.gradient)
        optimizer.step()
    check(found, {name: value.detach() for name, value in weights.items()})


class BrokenOff(Exception):
    """Raised on every rank in the middle of a pass."""


def break_off(*_: object) -> None:
    raise BrokenOff


def break_forward(network: Network, sample: Sample) -> None:
    handle = network.blocks[0].get_submodule("channel_expand").register_forward_hook(break_off)
    with pytest.raises(BrokenOff):
        network(sample.state, sample.static)
    handle.remove()


def break_without_gradients(network: Network, sample: Sample) -> None:
    with torch.no_grad():
        break_forward(network, sample)


def break_in_inference(network: Network, sample: Sample) -> None:
    with torch.inference_mode():
        break_forward(network, sample)


def break_backward(network: Network, sample: Sample) -> None:
    def break_later(_module: object, _inputs: object, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(break_off)

    handle = network.blocks[0].get_submodule("token_expand").register_forward_hook(break_later)
    with pytest.raises(BrokenOff):
        network(sample.state, sample.static).backward(sample.gradient)
    handle.remove()
    network.zero_grad()


def refuse_grad(network: Network, sample: Sample) -> None:
    """A way to ask for a gradient that cannot be told to other ranks."""
    for name in ("blocks.0.token_norm.bias", "encoder.weight", "encoder.bias"):
        output = network(sample.state, sample.static)
        with pytest.raises(JigsawError, match=r"come from backward\(\), not from torch\.autograd"):
            torch.autograd.grad(output, network.get_parameter(name), sample.gradient)


BREAKS = [
    (break_forward, None),
    *exhaustive((break_without_gradients, None)),
    (break_in_inference, None),
    (refuse_grad, None),
    (break_backward, None),
    *exhaustive((break_backward, False)),
    (break_backward, True),
]


def train_after(
    mesh: Mesh, spoil: Callable[[Network, Sample], None], scale: float, reentrant: bool | None
) -> dict[str, Held]:
    """Gradients after a pass that came to nothing, with weights that may have changed since."""
    network = network_on(mesh, UNEVEN, whole=whole_parameters(UNEVEN))
    network.reentrant = reentrant
    replicas = Replicas(network, mesh)
    sample = own_sample(mesh)
    for _ in range(2):
        spoil(network, sample)
    if scale != 1.0:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(scale)
    network(sample.state, sample.static).backward(sample.gradient)
    return owned_gradients(replicas)


@pytest.mark.parametrize(("spoil", "reentrant"), BREAKS)
def test_training_goes_on_after_a_pass_that_was_broken_off(
    pool: Pool,
    layout: Layout,
    spoil: Callable[[Network, Sample], None],
    reentrant: bool | None,
) -> None:
    for scale in (1.0, 1.5):
        held = pool.run(train_after, layout, spoil, scale, reentrant, deadline_seconds=30)
        check(join_each(held), gradients_alone(Sample.draw(UNEVEN, SAMPLES), scale=scale))


def ask_differently(mesh: Mesh, asking: Sequence[int]) -> tuple[dict[str, Held], dict[str, Held]]:
    """What ranks get of which some ask for the gradient of their input alone, and what later."""
    network = network_on(mesh, UNEVEN, whole=whole_parameters(UNEVEN))
    sample = own_sample(mesh)
    state = sample.state.requires_grad_()
    output = network(state, sample.static)
    if mesh.layout.rank in asking:
        (gradient,) = torch.autograd.grad(output, state, sample.gradient)
        assert all(parameter.grad is None for parameter in network.parameters())
    else:
        output.backward(sample.gradient)
        gradient = gradient_of(state).clone()  # to which the next pass adds
    first = held_gradients(network) | {
        "state": held_activation(mesh.layout, UNEVEN.tokens, UNEVEN.state, gradient)
    }
    network.zero_grad()
    network(sample.state, sample.static).backward(sample.gradient)
    return first, held_gradients(network)


@pytest.mark.parametrize("asking", [[0], [1, 2], [0, 1, 2, 3]], ids=str)
def test_ranks_may_ask_for_different_gradients(
    pool: Pool, layout: Layout, asking: list[int]
) -> None:
    whole = Sample.draw(UNEVEN, SAMPLES)
    expected = gradients_alone(whole)
    for rank, (first, later) in enumerate(
        pool.run(ask_differently, layout, asking, deadline_seconds=30)
    ):
        # A replica's own samples are all that its input's gradient depends on.
        expected |= {"state": gradients_alone(whole.of_replica(layout.at(rank)))["state"]}
        for gradients in (first, later):
            own = {name: cut(expected[name], part.ranges) for name, part in gradients.items()}
            check({name: part.tensor for name, part in gradients.items()}, own)
        assert (first.keys() == {"state"}) == (rank in asking)
        assert later.keys() == expected.keys() - {"state"}
