"""Differentiable exchanges compute, and have the gradients of, what one process computes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from support.ranks import Pool
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.operations import all_gather, all_reduce, reduce_scatter

RANKS = 3
SIZES = [3, 0, 2]  # one rank has nothing
Results = list[Tensor]  # one of each rank


def draw(size: int, rank: int) -> Tensor:
    """A matrix whose columns are cut, and no block in memory."""
    generator = torch.Generator().manual_seed(10 * size + rank)
    return torch.randn(size, 4, generator=generator, dtype=torch.float64).t()


def reduced(mesh: Mesh) -> tuple[Tensor, Tensor]:
    x = draw(5, mesh.layout.rank).requires_grad_()
    return passed(x, all_reduce(x, mesh.tensor), mesh)


def gathered(mesh: Mesh) -> tuple[Tensor, Tensor]:
    x = draw(SIZES[mesh.layout.rank], mesh.layout.rank).requires_grad_()
    return passed(x, all_gather(x, mesh.tensor, -1, SIZES), mesh)


def gathered_alike(mesh: Mesh) -> tuple[Tensor, Tensor]:
    x = draw(2, mesh.layout.rank).requires_grad_()
    return passed(x, all_gather(x, mesh.tensor, 1), mesh)


def scattered(mesh: Mesh) -> tuple[Tensor, Tensor]:
    x = draw(5, mesh.layout.rank).requires_grad_()
    return passed(x, reduce_scatter(x, mesh.tensor, -1, SIZES), mesh)


def passed(x: Tensor, y: Tensor, mesh: Mesh) -> tuple[Tensor, Tensor]:
    """A result, and the gradient of ``x`` where this rank's loss weighs the result."""
    (y * weights(y.shape[1], mesh.layout.rank)).sum().backward()
    assert x.grad is not None
    return y.detach(), x.grad


def weights(size: int, rank: int) -> Tensor:
    return draw(size, 100 + rank)


CASES: dict[str, tuple[Callable[..., object], list[int], Callable[[Results], Results]]] = {
    "all_reduce": (reduced, [5] * RANKS, lambda xs: [torch.stack(xs).sum(0)] * RANKS),
    "all_gather": (gathered, SIZES, lambda xs: [torch.cat(xs, 1)] * RANKS),
    "all_gather alike": (gathered_alike, [2] * RANKS, lambda xs: [torch.cat(xs, 1)] * RANKS),
    "reduce_scatter": (
        scattered,
        [5] * RANKS,
        lambda xs: list(torch.split(torch.stack(xs).sum(0), SIZES, 1)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_exchange_and_its_gradient_are_those_of_one_process(pool: Pool, name: str) -> None:
    on_ranks, sizes, alone = CASES[name]
    xs = [draw(size, rank).requires_grad_() for rank, size in enumerate(sizes)]
    ys = alone(xs)
    losses = [(y * weights(y.shape[1], rank)).sum() for rank, y in enumerate(ys)]
    torch.stack(losses).sum().backward()
    found = pool.run(on_ranks, Layout(tensor=RANKS))
    for (y, gradient), x, expected in zip(found, xs, ys, strict=True):
        torch.testing.assert_close(y, expected.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient, x.grad, rtol=1e-12, atol=1e-12)


def test_over_one_rank_nothing_is_done() -> None:
    axis, x = Mesh.describe().tensor, draw(5, 0)
    assert all_reduce(x, axis) is x
    assert all_gather(x, axis, 0) is x
    assert reduce_scatter(x, axis, 0, [4]) is x
