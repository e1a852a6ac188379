"""A vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) over patches of the atmosphere.

Pre-norm blocks and learned positions, as the weather networks that are made of plain attention have
them (ClimaX, arXiv 2301.10343; Stormer, arXiv 2312.03876).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weathermixer.model.architecture import Architecture
from weathermixer.model.patches import from_patches, to_patches


class Attention(nn.Module):
    """Self-attention of several heads; ``x (batch, tokens, width)``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # For so few tokens faster on a processor than torch's fused attention, and the same.
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        mixed: Tensor = self.out((weights @ v).transpose(1, 2).flatten(2))
        return mixed


class Block(nn.Module):
    """Attention, then two linear maps with GELU between, each normed before and added to ``x``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.contract(F.gelu(self.expand(self.norm2(x))))


class VisionTransformer(nn.Module):
    """Patches of ``patch`` grid points become tokens of ``width`` values, which attend to all."""

    def __init__(
        self,
        architecture: Architecture,
        *,
        patch: tuple[int, int] = (4, 4),
        width: int = 192,
        blocks: int = 6,
        heads: int = 6,
    ) -> None:
        super().__init__()
        a = architecture
        self.patch, self.grid = patch, a.grid
        points = patch[0] * patch[1]
        tokens = a.grid[0] * a.grid[1] // points
        self.encoder = nn.Linear(a.inputs * points, width)
        self.position = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.decoder = nn.Linear(width, a.predicted * points)
        nn.init.zeros_(self.decoder.weight)
        nn.init.zeros_(self.decoder.bias)

    def forward(self, fields: Tensor) -> Tensor:
        # Patches come as (tokens, batch, values).
        x = self.encoder(to_patches(fields, self.patch).transpose(0, 1)) + self.position
        for block in self.blocks:
            x = block(x)
        made = self.decoder(self.norm(x)).transpose(0, 1)
        return from_patches(made, self.patch, self.grid)
