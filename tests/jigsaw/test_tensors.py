"""Tensors and parameters, cut into the pieces of ranks and put together again."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from support.networks import UNEVEN, Network, Sample, network_on, whole_parameters
from support.ranks import Pool
from weathermixer.jigsaw.layout import Block, Dimension, Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.tensors import (
    block_of,
    collect,
    cut,
    gather,
    join,
    load_whole,
    spread,
    whole_gradients,
    whole_state,
)

DIMENSIONS = st.builds(
    Dimension, st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple), st.integers(1, 3)
)
LAYOUTS = [Layout(domain=3), Layout(domain=2, tensor=2), Layout(data=2, tensor=2)]


@given(rows=DIMENSIONS, columns=DIMENSIONS, domain=st.integers(1, 4), tensor=st.integers(1, 4))
def test_what_is_cut_is_disjoint_and_joins_to_the_whole(
    rows: Dimension, columns: Dimension, domain: int, tensor: int
) -> None:
    whole = torch.arange(rows.size * 2 * columns.size).view(rows.size, 2, columns.size)
    layout = Layout(domain=domain, tensor=tensor)
    held: list[tuple[Tensor, Block]] = []
    for rank in range(layout.world_size):
        mesh = Mesh.describe(layout.at(rank))
        block = block_of(
            tuple(whole.shape), mesh, {0: (mesh.domain, rows), 2: (mesh.tensor, columns)}
        )
        held.append((cut(whole, block), block))
        assert held[-1][0].shape == block.local_shape
    elements = torch.cat([piece.flatten() for piece, _ in held])
    assert torch.equal(elements.sort().values, whole.flatten())
    assert torch.equal(join(held), whole)


def test_a_cut_is_a_copy() -> None:
    whole = torch.zeros(3)
    cut(whole, Block((3,), ((range(3),),))).fill_(1.0)
    assert not whole.any()


def passed_on(mesh: Mesh) -> tuple[Tensor, Tensor | None, int, int]:
    """A rank's part of what the first has, what comes back of twice the parts, and what it sent."""
    whole = torch.arange(7.0 * 3 * 5).view(7, 3, 5)
    ranks = [Mesh.describe(mesh.layout.at(rank)) for rank in range(mesh.layout.world_size)]
    blocks = [
        block_of((7, 3, 5), each, {0: (each.domain, 7), 2: (each.tensor, 5)}) for each in ranks
    ]
    before = mesh.counter.bytes_sent, mesh.counter.messages
    given = whole if mesh.layout.rank == 0 else None
    part = spread(given, blocks, torch.empty(0, dtype=torch.float64), mesh)
    torch.testing.assert_close(part, cut(whole, blocks[mesh.layout.rank]).double())
    back = collect(2.0 * part, blocks, mesh)
    sent = mesh.counter.bytes_sent - before[0], mesh.counter.messages - before[1]
    return part, back, *sent


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_the_first_rank_passes_on_what_it_has_and_gets_it_back(pool: Pool, layout: Layout) -> None:
    (first, back, *sent), *others = pool.run(passed_on, layout)
    torch.testing.assert_close(back, 2.0 * torch.arange(105.0, dtype=torch.float64).view(7, 3, 5))
    parts = [part for part, *_ in others]
    assert sent == [8 * sum(part.numel() for part in parts), len(parts)]
    assert first.dtype == torch.float64
    for part, nothing, *own in others:
        assert nothing is None
        assert own == [8 * part.numel(), 1]


def whole_on_ranks(mesh: Mesh) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    network = network_on(mesh, UNEVEN).to_empty(device="cpu").double()
    load_whole(network, whole_parameters(UNEVEN))
    sample = Sample.draw(UNEVEN, 1)
    tokens, state = (mesh.domain, UNEVEN.tokens), (mesh.tensor, UNEVEN.state)
    block = block_of(tuple(sample.state.shape), mesh, {0: tokens, 2: state})
    own = sample.on(mesh.layout, UNEVEN)
    output = network(own.state, own.static)
    output.backward(own.gradient / mesh.data.size)
    network.norm.bias.grad = None
    return gather(output, block), whole_state(network), whole_gradients(network)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_rank_gathers_the_whole_of_a_model(pool: Pool, layout: Layout) -> None:
    plain = Network(UNEVEN).double()
    plain.load_state_dict(whole_parameters(UNEVEN))
    sample = Sample.draw(UNEVEN, 1)
    expected = plain(sample.state, sample.static)
    expected.backward(sample.gradient)
    plain.norm.bias.grad = None
    for output, parameters, gradients in pool.run(whole_on_ranks, layout):
        torch.testing.assert_close(output, expected.detach(), rtol=1e-12, atol=1e-12)
        assert parameters.keys() == plain.state_dict().keys()
        for name, value in plain.state_dict().items():
            assert torch.equal(parameters[name], value), name
        assert parameters.keys() - gradients.keys() == {"norm.bias"}
        for name, gradient in gradients.items():
            torch.testing.assert_close(
                gradient, plain.get_parameter(name).grad, rtol=1e-12, atol=1e-12
            )


def test_a_state_of_another_model_is_refused() -> None:
    network = network_on(Mesh.describe(Layout(domain=2)), UNEVEN, whole=whole_parameters(UNEVEN))
    state = whole_parameters(UNEVEN)
    with pytest.raises(ValueError, match=r"encoder\.bias is \(5,\), not \(13,\)"):
        load_whole(network, state | {"encoder.bias": torch.zeros(5)})
    del state["norm.weight"]
    with pytest.raises(KeyError, match=r"norm\.weight"):
        load_whole(network, state)
