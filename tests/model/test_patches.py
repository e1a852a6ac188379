from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from oracles.mixer import patches
from weathermixer.model.patches import from_patches, to_patches

small = st.integers(1, 4)


@given(batch=small, channels=small, rows=small, columns=small, height=small, width=small)
def test_patches_stand_in_the_described_order_and_go_back_to_fields(
    batch: int, channels: int, rows: int, columns: int, height: int, width: int
) -> None:
    grid = (rows * height, columns * width)
    fields = torch.arange(batch * channels * grid[0] * grid[1], dtype=torch.float64)
    fields = fields.view(batch, channels, *grid)
    tokens = to_patches(fields, (height, width))
    for index in range(batch):
        expected = patches(fields[index].numpy(), (height, width))
        assert np.array_equal(tokens[:, index].numpy(), expected)
    assert torch.equal(from_patches(tokens, (height, width), grid), fields)


def test_a_block_of_longitudes_is_a_block_of_tokens_and_of_variables_one_of_features() -> None:
    fields = torch.randn(1, 6, 4, 12)
    tokens = to_patches(fields, (2, 3))
    west = to_patches(fields[..., :6], (2, 3))
    assert torch.equal(tokens[: len(west)], west)
    first = to_patches(fields[:, :2], (2, 3))
    assert torch.equal(tokens[..., : first.shape[-1]], first)
