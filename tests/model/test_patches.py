from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oracles.mixer import patches, rings
from weathermixer.jigsaw.halo import Halo
from weathermixer.model.patches import from_patches, to_patches, to_rings

small = st.integers(1, 4)


@given(
    batch=small,
    channels=small,
    rows=small,
    columns=small,
    patch=st.tuples(small, st.integers(1, 9)),
    dtype=st.sampled_from([torch.bfloat16, torch.float32, torch.float64]),
    before=st.integers(0, 2),
)
def test_patches_stand_in_the_described_order_and_go_back_to_fields(
    batch: int,
    channels: int,
    rows: int,
    columns: int,
    patch: tuple[int, int],
    dtype: torch.dtype,
    before: int,
) -> None:
    grid = (rows * patch[0], columns * patch[1])
    generator = torch.Generator().manual_seed(0)
    # A part of a larger tensor: neither its beginning nor its strides are those of a whole one.
    whole = torch.randn((batch, channels, grid[0], before + grid[1]), generator=generator)
    fields = whole.to(dtype)[..., before:].requires_grad_()
    tokens = to_patches(fields, patch)
    for index in range(batch):
        expected = patches(fields[index].detach().double().numpy(), patch)
        assert np.array_equal(tokens[:, index].detach().double().numpy(), expected)
    assert torch.equal(from_patches(tokens, patch, grid), fields)

    # No value is computed with: the gradient of each is the other.
    weights = torch.randn(tokens.shape, generator=generator).to(dtype)
    (gradient,) = torch.autograd.grad(tokens, fields, weights)
    assert torch.equal(to_patches(gradient, patch), weights)
    (of_tokens,) = torch.autograd.grad(from_patches(tokens, patch, grid), tokens, gradient)
    assert torch.equal(of_tokens, weights)


def test_a_block_of_longitudes_is_a_block_of_tokens_and_of_variables_one_of_features() -> None:
    fields = torch.randn(1, 6, 4, 12)
    tokens = to_patches(fields, (2, 3))
    west = to_patches(fields[..., :6], (2, 3))
    assert torch.equal(tokens[: len(west)], west)
    first = to_patches(fields[:, :2], (2, 3))
    assert torch.equal(tokens[..., : first.shape[-1]], first)


@settings(deadline=None)
@given(
    rows=st.integers(1, 3),
    columns=st.integers(1, 4),
    patch=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    data=st.data(),
)
def test_every_point_of_a_ring_is_the_one_that_counting_around_the_globe_finds(
    rows: int, columns: int, patch: tuple[int, int], data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(1, min(patch)), label="overlap")
    grid = (rows * patch[0], columns * patch[1])
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    fields = draw(2, 3, *grid).requires_grad_()
    found = to_rings(Halo(overlap)(fields)(), patch, overlap)
    for sample, state in enumerate(fields.detach().numpy()):
        np.testing.assert_array_equal(found[:, sample].detach(), rings(state, patch, overlap))
    # The adjoint: weighing rings and adding up what each point got is weighing the points.
    weights, other = draw(*found.shape), draw(2, 3, *grid)
    (found * weights).sum().backward()
    of_other = [rings(state, patch, overlap) for state in other.numpy()]
    expected = sum(
        (weights[:, sample].numpy() * each).sum() for sample, each in enumerate(of_other)
    )
    assert fields.grad is not None
    assert float((fields.grad * other).sum()) == pytest.approx(expected, rel=1e-11, abs=1e-11)
