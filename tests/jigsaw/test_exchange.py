"""Exchanges between ranks: the same bits everywhere, gathered no more often than needed."""

from __future__ import annotations

import os
import signal
import time
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from oracles.layers import Held, join, mixer
from support.networks import (
    UNEVEN,
    Sample,
    errors,
    gradient_of,
    held_gradients,
    held_parameters,
    linear_layers,
    network_on,
    whole_parameters,
)
from support.ranks import Lost, Pool, RankFailed
from weathermixer.jigsaw import mesh as meshes
from weathermixer.jigsaw.cost import product_cost
from weathermixer.jigsaw.exchange import (
    Gather,
    ReduceScatter,
    Round,
    all_gather,
    all_reduce,
    total_over,
)
from weathermixer.jigsaw.layers import Linear
from weathermixer.jigsaw.layout import Layout, LayoutError
from weathermixer.jigsaw.mesh import Mesh, RankLost
from weathermixer.jigsaw.tensors import load_whole
from weathermixer.jigsaw.weights import fetch_in_order, kept_weights

AXES = ("data", "domain", "tensor")
MESHES = [Layout(tensor=3), Layout(domain=2, tensor=2), Layout(data=2, domain=2, tensor=2)]


def contribution(rank: int) -> Tensor:
    """Numbers of many magnitudes, whose sum in float32 depends on its order."""
    generator = torch.Generator().manual_seed(rank)
    size = 1000
    return torch.randn(size, generator=generator) * 10 ** (
        6 * torch.rand(size, generator=generator) - 3
    )


def sums(mesh: Mesh) -> dict[str, Tensor]:
    own = contribution(mesh.layout.rank)
    found = {axis.name: all_reduce(axis, own) for axis in mesh.axes}
    assert torch.equal(own, contribution(mesh.layout.rank)), "what was given has changed"
    return found | {"all": total_over(mesh.axes, own)}


@pytest.mark.parametrize("layout", MESHES, ids=str)
def test_a_sum_has_the_same_bits_on_all_ranks_that_took_part(pool: Pool, layout: Layout) -> None:
    found = pool.run(sums, layout)
    for rank, own in enumerate(found):
        lines = {name: layout.at(rank).ranks_along(name) for name in AXES}
        lines["all"] = tuple(range(layout.world_size))
        for name, line in lines.items():
            exact = sum(contribution(other).double() for other in line)
            torch.testing.assert_close(own[name].double(), exact, rtol=1e-5, atol=1e-3)
            for other in line:
                assert torch.equal(own[name], found[other][name])


def test_the_order_of_a_sum_matters_to_its_bits() -> None:
    one, two, three = (contribution(rank) for rank in range(3))
    assert not torch.equal(one + two + three, three + two + one)


def still_held_after_an_exchange(mesh: Mesh) -> int:
    """How many of the tensors of an exchange are there when nobody has a name for them."""
    sent, received = torch.ones(1000), torch.empty(1000)
    Round(mesh.tensor, 1, sent, received).wait()
    held = [weakref.ref(tensor.untyped_storage()) for tensor in (sent, received)]
    del sent, received
    end = time.monotonic() + 2.0  # the thread that waited may only just have heard of the end
    while any(memory() for memory in held) and time.monotonic() < end:
        time.sleep(0.01)
    return sum(memory() is not None for memory in held)


def test_what_has_been_exchanged_is_not_held_any_longer(pool: Pool) -> None:
    assert pool.run(still_held_after_an_exchange, Layout(tensor=2)) == [0, 0]


def gathered(mesh: Mesh) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    axis = mesh.tensor
    rows = [2, 0, 3]  # rows of each rank, one of which has none
    shapes = [(count, 2) for count in rows]
    own = torch.full(shapes[axis.index], float(axis.index))
    into = torch.full((sum(rows), 2), -1.0)
    apart = Gather(axis, own, shapes).wait()
    Gather(axis, own, shapes, torch.split(into, rows)).wait()
    scattered = ReduceScatter(axis)
    for place in axis.peers()[:-1]:
        block = torch.full(shapes[place], 10.0**axis.index)
        scattered.send(block, shapes[axis.index])
    total = scattered.finish(torch.full(shapes[axis.index], 10.0**axis.index))
    return apart, all_gather(axis, torch.tensor([axis.index])), into, total


def test_pieces_of_any_size_arrive_in_the_order_of_the_ranks(pool: Pool) -> None:
    rows = [2, 0, 3]
    expected = torch.tensor([0.0, 0.0, 2.0, 2.0, 2.0])[:, None].expand(-1, 2)
    for rank, (apart, places, into, total) in enumerate(pool.run(gathered, Layout(tensor=3))):
        assert [len(piece) for piece in apart] == rows
        assert torch.equal(torch.cat(apart), expected)
        assert torch.equal(into, expected)
        assert [int(place) for place in places] == [0, 1, 2]
        assert torch.equal(total, torch.full((rows[rank], 2), 111.0))


def lose_rank_1(mesh: Mesh) -> str:
    axis, own = mesh.tensor, torch.ones(1000)
    all_reduce(axis, own)
    if axis.index == 1:
        # It has taken part in the first round of a sum, and its neighbours wait for the next. (In
        # the middle of a message gloo may not tell them: then whoever started the ranks ends them.)
        Round(axis, 1, own, torch.empty_like(own)).wait()
        os.kill(os.getpid(), signal.SIGKILL)
    with pytest.raises(RankLost) as lost:
        for _ in range(10):
            all_reduce(axis, own)
    return str(lost.value)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("overlap", [True, False])
def test_neighbours_of_a_rank_that_died_name_it(pool: Pool, size: int, overlap: bool) -> None:
    messages = pool.run(
        lose_rank_1, Layout(tensor=size), overlap=overlap, dying=[1], deadline_seconds=60
    )
    assert isinstance(messages.pop(1), Lost)
    for message in messages:
        assert "lost its connection to rank" in message
        assert "1" in message.partition("lost its connection to")[2].partition(",")[0]
        assert "along tensor" in message


def refused(mesh: Mesh, layout: Layout) -> str:
    with pytest.raises(LayoutError) as error:
        meshes.connect(layout)
    return str(error.value)


def test_a_mesh_of_another_number_of_ranks_is_refused_with_the_arithmetic(pool: Pool) -> None:
    for message in pool.run(refused, Layout(tensor=2), Layout(data=2, domain=2)):
        assert "data (2) × domain (2) × tensor (1) = 4 ranks, but 2 were started" in message
    with pytest.raises(LayoutError, match="2 ranks, but 1 was started"):
        meshes.connect(Layout(domain=2))


def sum_over_first(mesh: Mesh, layout: Layout) -> float | None:
    first = meshes.connect_first(layout)
    if first is None:
        return None
    assert first.layout == layout.at(mesh.layout.rank)
    own = torch.tensor([2.0**mesh.layout.rank], dtype=torch.float64)
    return float(total_over(first.axes, own))


@pytest.mark.parametrize("layout", [Layout(domain=2), Layout(data=2)])
def test_the_first_ranks_have_a_mesh_of_their_own(pool: Pool, layout: Layout) -> None:
    assert pool.run(sum_over_first, Layout(tensor=3), layout) == [3.0, 3.0, None]
    assert pool.run(sum_over_first, Layout(tensor=3), Layout()) == [1.0, None, None]
    with pytest.raises(LayoutError, match="2 ranks, but 1 was started"):
        meshes.connect_first(layout)


# Weights that are gathered: over `domain`, by a map over channels whose partial sums are reduced.

STATE, STATIC = UNEVEN.state, UNEVEN.static
GATHERING = Layout(domain=2)


def two_layers(mesh: Mesh, weights: dict[str, Tensor]) -> torch.nn.Sequential:
    layers = torch.nn.Sequential(
        *(Linear(4, 4, mesh, rows=6, scheme="reduce") for _ in range(2))
    ).double()
    load_whole(layers, weights)
    fetch_in_order(layers)
    return layers


def weights_drawn(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"weight": (4, 4), "bias": (4,)}
    return {
        f"{index}.{name}": torch.randn(shape, generator=generator, dtype=torch.float64)
        for index in range(2)
        for name, shape in shapes.items()
    }


def fetches(mesh: Mesh) -> dict[str, float]:
    """How often each weight was sent, in several situations."""
    layers = two_layers(mesh, weights_drawn(0))
    optimizer = torch.optim.AdamW(layers.parameters(), fused=True)
    x = torch.ones(3, 1, 4, dtype=torch.float64)
    (once,) = {
        product_cost(layer.product, samples=1, element_bytes=8).fetch.bytes_sent
        for layer in linear_layers(layers)
    }

    def counted(act: Callable[[], object]) -> float:
        before = mesh.counter.copy()
        act()
        return mesh.counter.since(before).bytes_sent / (2 * once)

    kept = []

    def use() -> None:
        kept.append(layers(x))

    found = {"first": counted(use), "second": counted(use)}
    with kept_weights(layers):
        found |= {"first in the scope": counted(use), "second in the scope": counted(use)}
        with torch.no_grad():
            found["without gradients"] = counted(use)
        sum(kept[-3:-1]).sum().backward()
        optimizer.step()
        found["after a step"] = counted(use)
        load_whole(layers, weights_drawn(1))
        found["after loading"] = counted(use)
        with kept_weights(layers, apart_from=[layers[0]]):
            found["in a scope within"] = counted(use)
    found["after the scope"] = counted(use)
    with kept_weights(layers, apart_from=[layers[0]]):
        found |= {"first with one apart": counted(use), "second with one apart": counted(use)}
    return found


def test_weights_are_gathered_once_in_a_scope_until_they_change(pool: Pool) -> None:
    for found in pool.run(fetches, GATHERING):
        assert found == {
            "first": 1,
            "second": 1,
            "first in the scope": 1,
            "second in the scope": 0,
            "without gradients": 0,
            "after a step": 1,
            "after loading": 1,
            "in a scope within": 0,
            "after the scope": 1,
            "first with one apart": 1,
            "second with one apart": 0.5,
        }


def outputs_after_changes(
    mesh: Mesh, fused: bool, keeps: bool
) -> list[tuple[Tensor, dict[str, Held]]]:
    """Outputs before and after each change, with the weights that they should be made with."""
    layers = two_layers(mesh, weights_drawn(0))
    with kept_weights(layers) if keeps else nullcontext():
        return change_often(layers, fused)


def change_often(layers: torch.nn.Sequential, fused: bool) -> list[tuple[Tensor, dict[str, Held]]]:
    optimizer = torch.optim.AdamW(layers.parameters(), lr=0.3, fused=fused)
    x = torch.ones(3, 1, 4, dtype=torch.float64)
    found, kept = [], []

    def look() -> None:
        # What was gathered before is still kept by graphs that were not run backward.
        kept.append(layers(x))
        found.append((kept[-1].detach(), held_parameters(layers)))

    look()
    layers(x).sum().backward()
    look()
    optimizer.step()
    look()
    load_whole(layers, weights_drawn(1))
    look()
    with torch.no_grad():
        linear_layers(layers)[1].weight.mul_(2.0)
    look()
    # Using the first layer alone begins to gather the second's weight, which then changes.
    kept.append(layers[0](x))
    optimizer.step()
    look()
    return found


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("keeps", [True, False])
def test_products_use_the_weights_of_the_moment(pool: Pool, fused: bool, keeps: bool) -> None:
    found = pool.run(outputs_after_changes, GATHERING, fused, keeps)
    outputs = []
    for looks in zip(*found, strict=True):
        whole = {name: join([weights[name] for _, weights in looks])[0] for name in looks[0][1]}
        y = torch.ones(3, 1, 4, dtype=torch.float64)
        for index in range(2):
            y = torch.nn.functional.linear(y, whole[f"{index}.weight"], whole[f"{index}.bias"])
        for output, _ in looks:
            torch.testing.assert_close(output, y, rtol=1e-12, atol=1e-12)
        outputs.append(y)
    changes = [not torch.equal(a, b) for a, b in pairwise(outputs)]
    assert changes == [False, True, True, True, True]


def two_rollouts(mesh: Mesh) -> dict[str, Held]:
    """Gradients of two backward passes, added up; between them a pass that keeps nothing."""
    network = network_on(mesh, UNEVEN, whole=whole_parameters(UNEVEN))
    for batch in (1, 2):
        sample = Sample.draw(UNEVEN, batch).on(mesh.layout, UNEVEN)
        network(sample.state, sample.static, passes=batch).backward(sample.gradient)
        with torch.no_grad():
            network(sample.state, sample.static)
    return held_gradients(network)


def test_gradients_of_several_backward_passes_add_up(pool: Pool) -> None:
    held = pool.run(two_rollouts, Layout(domain=2, tensor=2))
    found = {name: join([one[name] for one in held])[0] for name in held[0]}
    weights = {name: value.requires_grad_() for name, value in whole_parameters(UNEVEN).items()}
    for batch in (1, 2):
        sample = Sample.draw(UNEVEN, batch)
        output = mixer(weights, sample.state, sample.static, blocks=1, passes=batch)
        output.backward(sample.gradient)
    expected = {name: gradient_of(value) for name, value in weights.items()}
    assert max(errors(found, expected).values()) <= 1e-12


# The pool itself


def fail_on_rank_1(mesh: Mesh) -> None:
    if mesh.layout.rank == 1:
        raise ValueError("as it was meant to")
    all_reduce(mesh.tensor, torch.ones(1))


def die_on_rank_1(mesh: Mesh) -> None:
    if mesh.layout.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def never_end_on_rank_1(mesh: Mesh) -> None:
    while mesh.layout.rank == 1:
        pass


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (
            fail_on_rank_1,
            r"(?s)rank 1 of 2: Traceback.*fail_on_rank_1.*ValueError: as it was meant",
        ),
        (die_on_rank_1, "rank 1 of 2: it died"),
        (never_end_on_rank_1, "no answer from rank 1 in 2 s"),
    ],
)
def test_what_fails_on_a_rank_fails_in_its_test_and_spares_the_next(
    pool: Pool, function: Callable[[Mesh], None], reason: str
) -> None:
    with pytest.raises(RankFailed, match=reason):
        pool.run(function, Layout(tensor=2), deadline_seconds=2)
    assert len(pool.run(sums, Layout(tensor=2))) == 2


def from_first(mesh: Mesh) -> tuple[int, str]:
    def refuse() -> None:
        raise LayoutError(f"not on rank {mesh.layout.rank}")

    told = meshes.from_first_rank(lambda: 10 + mesh.layout.rank)
    with pytest.raises(LayoutError) as caught:
        meshes.from_first_rank(refuse)
    return told, str(caught.value)


def test_all_ranks_have_what_the_first_made_or_why_it_could_not(pool: Pool) -> None:
    assert pool.run(from_first, Layout(tensor=3)) == [(10, "not on rank 0")] * 3
