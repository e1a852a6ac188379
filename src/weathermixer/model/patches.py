"""Between fields on a grid and patches as tokens.

Tokens are counted along latitude first, so that a block of longitudes is a block of tokens;
features along channels first, so that a block of variables is a block of features. Splitting a
sample by longitude and by variable is then splitting tokens and features.
"""

from __future__ import annotations

from torch import Tensor


def to_patches(fields: Tensor, patch: tuple[int, int]) -> Tensor:
    """``(batch, channel, latitude, longitude)`` → ``(tokens, batch, channel · points)``."""
    batch, channels, latitudes, longitudes = fields.shape
    rows, columns = latitudes // patch[0], longitudes // patch[1]
    cut = fields.reshape(batch, channels, rows, patch[0], columns, patch[1])
    return cut.permute(4, 2, 0, 1, 3, 5).reshape(rows * columns, batch, -1)


def from_patches(tokens: Tensor, patch: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """``(tokens, batch, channel · points)`` → ``(batch, channel, latitude, longitude)``.

    The inverse of :func:`to_patches`; ``grid`` is latitude × longitude.
    """
    rows, columns = grid[0] // patch[0], grid[1] // patch[1]
    batch = tokens.shape[1]
    cut = tokens.view(columns, rows, batch, -1, patch[0], patch[1])
    return cut.permute(2, 3, 1, 4, 0, 5).reshape(batch, -1, grid[0], grid[1])
