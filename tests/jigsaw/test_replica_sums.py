"""Sums over replicas: what a bucket holds, the same bits on all, and what a smaller type costs."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from support.networks import (
    UNEVEN,
    Sample,
    gradient_of,
    mesh_name,
    network_on,
    whole_parameters,
)
from support.ranks import Pool
from support.selection import exhaustive
from weathermixer.jigsaw import buckets, lines
from weathermixer.jigsaw.buckets import Bucket, Filling
from weathermixer.jigsaw.cost import layers_cost, replicas_cost, shared_cost
from weathermixer.jigsaw.exchange import ReduceScatter
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.lines import LineGather, LineSum
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.replicas import Replicas

REPLICAS = [Layout(data=2, tensor=2), *exhaustive(Layout(data=3), Layout(data=5))]
SIZES = replace(UNEVEN, blocks=2)
# So that the small network has several, of one weight and of more.
SMALL_BUCKET = 1000


def rows_of(weight: Tensor, replica: int, replicas: int) -> Tensor:
    """The rows that a replica owns, of parts that differ by a row at most, larger ones first."""
    return torch.tensor_split(weight, replicas)[replica]


@pytest.mark.parametrize("replicas", [1, 2, 3, 7])
@pytest.mark.parametrize("shapes", [[(6, 2)], [(5, 3)], [(2, 1), (6, 4), (1, 2)]], ids=str)
def test_a_replica_owns_one_line_of_a_bucket(shapes: list[tuple[int, int]], replicas: int) -> None:
    weights = [torch.randn(shape) for shape in shapes]
    copies = [weight.clone() for weight in weights]
    bucket = Bucket(shapes, replicas)
    lines = bucket.lines(weights)
    for replica in range(replicas):
        for own, weight in zip(bucket.owned(lines[replica], replica), weights, strict=True):
            assert torch.equal(own, rows_of(weight, replica, replicas))
    found = [torch.zeros_like(weight) for weight in weights]
    bucket.fill(found, lines.double())
    for weight, copied in zip(found, copies, strict=True):
        assert torch.equal(weight, copied)


def test_a_bucket_is_full_at_its_size_and_of_one_kind() -> None:
    filling: Filling[str] = Filling()
    found: list[list[str]] = []
    for name, mib in (("a", 20), ("b", 20), ("C", 1), ("D", 40), ("e", 1)):
        found += filling.add(name, mib * 2**20, name.isupper())
    assert [*found, *filling.rest()] == [["a", "b"], ["C", "D"], ["e"]]


# Backends that are taken for NCCL: none, so that gloo does its rounds; or gloo itself.
ROUNDS: set[str] = set()
COLLECTIVES = {"gloo"}


def sums_and_gathers(mesh: Mesh, backends: set[str], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    axis = mesh.data
    own = contributions(axis.size)[axis.index]
    with patch.object(lines, "COLLECTIVE_BACKENDS", backends):
        line = LineSum(axis, own, dtype).wait()
        gathered = torch.zeros_like(own)
        gathered[axis.index] = line
        return line, LineGather(axis, gathered[axis.index], gathered).wait()


def contributions(ranks: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(ranks, ranks, 50, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("backends", [ROUNDS, COLLECTIVES], ids=["rounds", "collectives"])
@pytest.mark.parametrize("layout", REPLICAS, ids=mesh_name)
def test_each_rank_gets_its_line_of_a_sum_and_all_lines_of_a_gather(
    pool: Pool, layout: Layout, backends: set[str], dtype: torch.dtype
) -> None:
    expected = contributions(layout.data).sum(0)
    near = 4.0 * torch.finfo(dtype).eps
    for rank, (line, gathered) in enumerate(pool.run(sums_and_gathers, layout, backends, dtype)):
        place = layout.at(rank).coordinates.data
        torch.testing.assert_close(line, expected[place], rtol=near, atol=near)
        torch.testing.assert_close(gathered, expected, rtol=near, atol=near)


def step(
    mesh: Mesh, sharded: bool, dtype: torch.dtype | None
) -> tuple[dict[str, Tensor], int, int, int]:
    """Gradients of what a rank's optimizer changes, and calls, messages and bytes of the step."""
    whole = whole_parameters(SIZES, torch.float32)
    network = network_on(mesh, SIZES, whole=whole)
    replicas = Replicas(network, mesh, sharded=sharded, gradient_dtype=dtype)
    sample = Sample.draw(SIZES, 2 * mesh.data.size, torch.float32).of_replica(mesh.layout)
    sample = sample.on(mesh.layout, SIZES)
    before = mesh.counter.copy()
    with (
        patch.object(buckets, "BUCKET_BYTES", SMALL_BUCKET),
        patch.object(lines, "COLLECTIVE_BACKENDS", COLLECTIVES),
    ):
        network(sample.state, sample.static).backward(sample.gradient)
        gradients = {
            name: gradient_of(owned).clone() for name, owned in replicas.parameters().items()
        }
        replicas.finish_step()
    counted = mesh.counter.since(before)
    return gradients, counted.calls, counted.messages, counted.bytes_sent


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["", "bfloat16"])
@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
@pytest.mark.parametrize("layout", REPLICAS, ids=mesh_name)
def test_replicas_have_the_same_bits_in_as_many_exchanges_as_predicted(
    pool: Pool, layout: Layout, sharded: bool, dtype: torch.dtype | None
) -> None:
    ranks = pool.run(step, layout, sharded, dtype)
    for rank, (gradients, calls, messages, bytes_sent) in enumerate(ranks):
        if not sharded:
            first = ranks[rank % layout.ways][0]
            assert all(torch.equal(gradients[name], first[name]) for name in first)
        network = network_on(Mesh.describe(layout.at(rank)), SIZES)
        with patch("weathermixer.jigsaw.cost.BUCKET_BYTES", SMALL_BUCKET):
            cost = replicas_cost(
                network,
                parameter_bytes=4,
                gradient_bytes=4 if dtype is None else dtype.itemsize,
                sharded=sharded,
            )
        assert cost.calls > 4
        cost += shared_cost(network, parameter_bytes=4)
        cost += layers_cost(
            network,
            samples=2,
            element_bytes=4,
            without_input_gradient=(network.encoder,),
        )
        assert (calls, messages, bytes_sent) == (cost.calls, cost.messages, cost.bytes_sent)


def sum_in_bfloat16(mesh: Mesh, numbers: int) -> tuple[Tensor, Tensor]:
    """What bfloat16 numbers come to, over replicas and over the ranks of an instance."""
    parts = partial_sums(mesh.layout.world_size, numbers)
    own = parts[mesh.layout.rank]
    over_data = (
        LineSum(mesh.data, own.float(), torch.bfloat16).wait() if mesh.data.size > 1 else own
    )
    within = ReduceScatter(mesh.tensor)
    for place in mesh.tensor.peers()[:-1]:
        within.send(own[place].bfloat16(), (numbers,))
    return over_data, within.finish(own[mesh.tensor.index].bfloat16())


def partial_sums(ranks: int, numbers: int) -> Tensor:
    """Each rank's parts of what the ranks sum, ``(rank, rank that has the sum, numbers)``."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(ranks, ranks, numbers, dtype=torch.float64, generator=generator)


def relative_error(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("ranks", [2, 4, *exhaustive(8)])
def test_sums_over_replicas_are_as_near_however_many_there_are(pool: Pool, ranks: int) -> None:
    """Numbers rounded to bfloat16 and summed in float32 have the error of one rounding.

    Of each number it is 2⁻⁸ at most, and 1/√3 of that in the mean of squares where all fractions
    are equally likely, times what numbers between two powers of two make of it, which is below 1.
    """
    numbers = 4000
    for rank, (line, _) in enumerate(pool.run(sum_in_bfloat16, Layout(data=ranks), numbers)):
        exact = partial_sums(ranks, numbers)[:, rank].sum(0)
        assert line.dtype == torch.float32
        assert 0.5e-3 < relative_error(line, exact) < 2.0**-8 / 3**0.5


@pytest.mark.parametrize("ranks", [2, 4, *exhaustive(8)])
def test_sums_of_bfloat16_within_an_instance_are_as_near_on_any_number_of_ranks(
    pool: Pool, ranks: int
) -> None:
    """What is sent is rounded, and the sum is: two roundings, whose squares add up."""
    numbers = 4000
    one_rounding = relative_error(
        (rounded := partial_sums(1, numbers)).bfloat16().double(), rounded
    )
    for rank, (_, own) in enumerate(pool.run(sum_in_bfloat16, Layout(tensor=ranks), numbers)):
        exact = partial_sums(ranks, numbers)[:, rank].sum(0)
        assert own.dtype == torch.bfloat16
        expected = one_rounding * 2.0**0.5
        assert relative_error(own.double(), exact) == pytest.approx(expected, rel=0.1)
