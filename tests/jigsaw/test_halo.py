"""Edges of neighbours, and their gradients, are those of the whole laid in a circle."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from support.ranks import Pool
from support.selection import exhaustive
from weathermixer.jigsaw.count import Counter
from weathermixer.jigsaw.halo import Halo
from weathermixer.jigsaw.layout import Layout, LayoutError
from weathermixer.jigsaw.mesh import Mesh

LINES = 3
# What each rank has of the dimension that is cut; neighbours may see all of it, from both sides.
SIZES = {1: [4], 2: [5, 2], 3: [2, 5, 3]}


class Seen(NamedTuple):
    widened: Tensor
    gradient: Tensor | None
    counted: Counter  # of the forward pass, and of the backward pass
    counted_back: Counter


def drawn(ranks: int) -> Tensor:
    generator = torch.Generator().manual_seed(ranks)
    return torch.randn(LINES, sum(SIZES[ranks]), generator=generator, dtype=torch.float64)


def weights(rank: int, width: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 + rank)
    shape = (LINES, size + 2 * width)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def widened(mesh: Mesh, width: int, exchange_dtype: torch.dtype | None, is_data: bool) -> Seen:
    mesh = mesh.exchanging(exchange_dtype)
    own = drawn(mesh.domain.size).split(SIZES[mesh.domain.size], 1)[mesh.domain.index]
    own = own.requires_grad_(not is_data)
    before = mesh.counter.copy()
    wait = Halo(width, mesh)(own)
    y = wait()
    after = mesh.counter.copy()
    if y.requires_grad:
        (y * weights(mesh.domain.index, width, own.shape[1])).sum().backward()
    back = mesh.counter.since(after)
    return Seen(y.detach(), own.grad, after.since(before), back)


def expected(ranks: int, width: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """What each rank sees, and the gradient of what it holds: element by element, by index."""
    whole, total = drawn(ranks).numpy(), sum(SIZES[ranks])
    gradient = np.zeros_like(whole)
    first, found = 0, []
    for rank, size in enumerate(SIZES[ranks]):
        places = [(first + step) % total for step in range(-width, size + width)]
        found.append((whole[:, places], range(first, first + size)))
        own = weights(rank, width, size).numpy()
        for column, place in enumerate(places):
            gradient[:, place] += own[:, column]
        first += size
    return [(seen, gradient[:, own.start : own.stop]) for seen, own in found]


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_see_what_a_circle_has_beside_them_and_get_its_gradient(
    pool: Pool, ranks: int, width: int
) -> None:
    arguments = width, None, False
    found = (
        [widened(Mesh.describe(), *arguments)]
        if ranks == 1
        else pool.run(widened, Layout(domain=ranks), *arguments)
    )
    for rank, (seen, gradient) in zip(found, expected(ranks, width), strict=True):
        np.testing.assert_array_equal(rank.widened.numpy(), seen)
        assert rank.gradient is not None
        np.testing.assert_allclose(rank.gradient.numpy(), gradient, rtol=1e-14, atol=1e-14)
        sent = (2 * LINES * width * 8, 2, 2) if ranks > 1 else (0, 0, 0)
        for counted in (rank.counted, rank.counted_back):
            assert (counted.bytes_sent, counted.messages, counted.calls) == sent


def test_of_data_nothing_is_sent_back_and_the_other_axes_send_nothing(pool: Pool) -> None:
    for rank in pool.run(widened, Layout(data=2, domain=1, tensor=2), 1, None, True):
        assert rank.counted == rank.counted_back == Counter()
    for rank in pool.run(widened, Layout(domain=2), 1, None, True):
        assert rank.counted.messages == 2
        assert rank.counted_back == Counter()


@pytest.mark.parametrize("ranks", [2, *exhaustive(3)])
def test_edges_travel_as_narrow_as_what_products_exchange(pool: Pool, ranks: int) -> None:
    width = 2
    found = pool.run(widened, Layout(domain=ranks), width, torch.bfloat16, False)
    for rank, (seen, gradient) in zip(found, expected(ranks, width), strict=True):
        inner = seen[:, width:-width]
        np.testing.assert_array_equal(rank.widened.numpy()[:, width:-width], inner)
        rounded = torch.from_numpy(seen).bfloat16().double().numpy()
        np.testing.assert_array_equal(rank.widened.numpy()[:, :width], rounded[:, :width])
        np.testing.assert_array_equal(rank.widened.numpy()[:, -width:], rounded[:, -width:])
        assert rank.gradient is not None
        np.testing.assert_allclose(rank.gradient.numpy(), gradient, atol=2.0**-5)
        assert rank.counted.bytes_sent == rank.counted_back.bytes_sent == 2 * LINES * width * 2


def test_a_rank_that_has_less_than_its_neighbours_are_to_see_is_refused() -> None:
    with pytest.raises(LayoutError, match="takes as many or more from each rank, but this one has"):
        Halo(3)(torch.ones(2, 2))
