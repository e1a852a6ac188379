"""A spherical Fourier neural operator (Bonev et al. 2023, arXiv 2306.03838).

Its transforms are those of torch-harmonics, whose own network keeps complex weights, which neither
a checkpoint nor fused AdamW takes; and they are computed in the type of the weights, since there is
no Fourier transform in bfloat16. The grid is taken for Gauss's, as that of the planet is.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_harmonics import InverseRealSHT, RealSHT

from weathermixer.model.architecture import Architecture


class SpectralConvolution(nn.Module):
    """A map of channels for each degree of spherical harmonics, the same for all of its orders.

    ``x (batch, channels, latitude, longitude)``; ``weight (degree, channels, channels, 2)``, the
    last for real and imaginary parts.
    """

    def __init__(self, transform: RealSHT, inverse: InverseRealSHT, width: int) -> None:
        super().__init__()
        self.transform, self.inverse = transform, inverse
        scale = math.sqrt(0.5 / width)
        self.weight = nn.Parameter(scale * torch.randn(transform.lmax, width, width, 2))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            coefficients = self.transform(x.to(self.weight.dtype))
            # (batch, channels, degree, order) → for each degree a product of matrices.
            rows = coefficients.permute(2, 0, 3, 1).flatten(1, 2)
            mixed = torch.bmm(rows, torch.view_as_complex(self.weight))
            mixed = mixed.unflatten(1, (len(x), -1)).permute(1, 3, 0, 2)
            filtered: Tensor = self.inverse(mixed)
        return filtered


class Block(nn.Module):
    """A spectral convolution beside a map of each point, then two maps of it, added to ``x``."""

    def __init__(self, transform: RealSHT, inverse: InverseRealSHT, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.filter = SpectralConvolution(transform, inverse, width)
        self.local = nn.Conv2d(width, width, 1)
        self.expand, self.contract = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        y = F.gelu(self.filter(y) + self.local(y))
        return x + self.contract(F.gelu(self.expand(y)))


class SphericalNetwork(nn.Module):
    """Blocks on ``width`` channels of each grid point, with a learned value of its position.

    What comes in is given to the decoder again.
    """

    def __init__(self, architecture: Architecture, *, width: int = 96, blocks: int = 4) -> None:
        super().__init__()
        a = architecture
        transform = RealSHT(*a.grid, grid="legendre-gauss")
        inverse = InverseRealSHT(
            *a.grid, lmax=transform.lmax, mmax=transform.mmax, grid="legendre-gauss"
        )
        self.encoder = nn.Conv2d(a.inputs, width, 1)
        self.position = nn.Parameter(0.02 * torch.randn(width, *a.grid))
        self.blocks = nn.ModuleList(Block(transform, inverse, width) for _ in range(blocks))
        self.decoder = nn.Conv2d(width + a.inputs, a.predicted, 1)
        nn.init.zeros_(self.decoder.weight)
        nn.init.zeros_(self.decoder.bias)  # type: ignore[arg-type]

    def forward(self, fields: Tensor) -> Tensor:
        x = self.encoder(fields) + self.position
        for block in self.blocks:
            x = block(x)
        made: Tensor = self.decoder(torch.cat([x, fields], dim=1))
        return made
