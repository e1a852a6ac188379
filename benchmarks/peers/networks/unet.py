"""A UNet (Ronneberger et al. 2015, arXiv 1505.04597) of residual blocks on the sphere's grid.

Convolutions are circular in longitude, as in WeatherBench's networks (Rasp and Thuerey 2021, arXiv
2008.08626), and padded in latitude with its outermost row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weathermixer.model.architecture import Architecture


class Convolution(nn.Conv2d):
    """A convolution of 3 × 3 points whose result has as many points as its input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (1, 1, 0, 0), mode="circular")
        return super().forward(F.pad(x, (0, 0, 1, 1), mode="replicate"))


class Residual(nn.Module):
    """Two convolutions, each after a norm and an activation, added to what comes in."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, inputs), nn.GroupNorm(8, outputs)
        self.first, self.second = Convolution(inputs, outputs), Convolution(outputs, outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(F.silu(self.norm1(x)))
        y = self.second(F.silu(self.norm2(y)))
        added: Tensor = self.skip(x) + y
        return added


class UNet(nn.Module):
    """Levels of ``widths`` channels, each on half the latitudes and longitudes of the one above.

    On the way down and up there are so many residual ``blocks`` on each; the deepest has as many
    more.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        widths: tuple[int, ...] = (48, 96, 192),
        blocks: int = 1,
    ) -> None:
        super().__init__()
        a = architecture
        self.encoder = Convolution(a.inputs, widths[0])
        above = (widths[0], *widths[:-1])
        self.down = nn.ModuleList(
            nn.Sequential(
                *(Residual(before if first else width, width) for first in _firsts(blocks))
            )
            for before, width in zip(above, widths, strict=True)
        )
        self.middle = nn.Sequential(*(Residual(widths[-1], widths[-1]) for _ in range(blocks)))
        self.up = nn.ModuleList(
            nn.Sequential(
                *(Residual(below + width if first else width, width) for first in _firsts(blocks))
            )
            for below, width in zip(widths[1:], widths[:-1], strict=True)
        )
        self.norm = nn.GroupNorm(8, widths[0])
        self.decoder = nn.Conv2d(widths[0], a.predicted, 1)
        nn.init.zeros_(self.decoder.weight)
        nn.init.zeros_(self.decoder.bias)  # type: ignore[arg-type]

    def forward(self, fields: Tensor) -> Tensor:
        x = self.encoder(fields)
        passed: list[Tensor] = []
        for level in self.down:
            if passed:
                x = F.avg_pool2d(x, 2)
            x = level(x)
            passed.append(x)
        x = self.middle(passed.pop())
        for level in reversed(self.up):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = level(torch.cat([x, passed.pop()], dim=1))
        made: Tensor = self.decoder(F.silu(self.norm(x)))
        return made


def _firsts(blocks: int) -> list[bool]:
    return [number == 0 for number in range(blocks)]
