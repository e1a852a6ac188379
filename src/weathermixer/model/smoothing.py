"""Smoothing what was decoded over the edges of patches, with a kernel that each channel learns.

Patches are decoded apart from each other, and what they disagree in shows at their edges as energy
at small scales.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from weathermixer.jigsaw.halo import Halo


class Smoothing(nn.Module):
    """Makes each point of a channel of those around it, by a ``kernel`` of the channel.

    ``kernel (channels, 1, 2 width + 1, 2 width + 1)``, latitude × longitude. Longitudes close to a
    circle, and beyond the first and the last latitude these go on. A kernel begins as one that
    smooths a little, alike along both: 0.8 in the middle, and 0.1 for each neighbour.
    """

    def __init__(self, channels: int, width: int, device: Any = None) -> None:
        super().__init__()
        self.halo = Halo(width)
        size = 2 * width + 1
        self.kernel = nn.Parameter(torch.empty(channels, 1, size, size, device=device))
        self.reset()

    def forward(self, fields: Tensor) -> Tensor:
        """``fields (batch, channels, latitude, longitude)``, smoothed."""
        widened = self.halo(fields)()
        smooth: Tensor = _Smooth.apply(widened, self.kernel)
        return smooth

    def reset(self, seed: int = 0, name: str = "") -> None:
        """The kernel that smooths a little, whatever the seed."""
        self._begin_with(middle=0.8, beside=0.1)

    def rest(self) -> None:
        """The kernel that leaves fields as they are."""
        self._begin_with(middle=1.0, beside=0.0)

    def _begin_with(self, *, middle: float, beside: float) -> None:
        width = self.halo.width
        line = torch.zeros(2 * width + 1, dtype=torch.float64)
        line[width - 1 : width + 2] = torch.tensor([beside, middle, beside], dtype=line.dtype)
        with torch.no_grad():
            self.kernel.copy_(torch.outer(line, line))


class _Smooth(torch.autograd.Function):
    """Adds up weighted copies, forwards and back, each in a fixed order.

    Where a kernel has a channel to itself, that takes a processor up to a fifth of the time that
    PyTorch's convolutions do, and on a GPU it rounds nothing to TF32.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(widened: Tensor, kernel: Tensor) -> Tensor:
        width = kernel.shape[-1] // 2
        middle = width, width
        own = widened.narrow(-1, width, widened.shape[-1] - 2 * width)
        smooth = own * _weight(kernel, middle)
        for place, rows, around in _terms(smooth, widened, width):
            if place != middle:
                rows.addcmul_(around, _weight(kernel, place))
        return smooth

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        widened, kernel = ctx.saved_tensors
        width = kernel.shape[-1] // 2
        of_weights: dict[tuple[int, int], Tensor] = {}
        for place, rows, around in _terms(gradient, widened, width):
            total = (rows * around).sum((0, 2, 3))
            of_weights[place] = of_weights[place] + total if place in of_weights else total
        of_kernel = torch.stack(list(of_weights.values()), -1).view(kernel.shape)
        of_widened = gradient.new_zeros(widened.shape)
        for place, rows, around in _terms(gradient, of_widened, width):
            given = rows if around.shape == rows.shape else rows.sum(-2, keepdim=True)
            around.addcmul_(given, _weight(kernel, place))
        return of_widened, of_kernel


def _weight(kernel: Tensor, place: tuple[int, int]) -> Tensor:
    return kernel[:, 0, place[0], place[1], None, None]


def _terms(
    fields: Tensor, widened: Tensor, width: int
) -> Iterator[tuple[tuple[int, int], Tensor, Tensor]]:
    """Each place in a kernel in order, with rows of fields and what it weighs for them, as views.

    That is as many rows of ``widened``, which goes on beyond both longitude ends, or one of its
    outermost rows, for all that look beyond a pole.
    """
    latitudes, longitudes = fields.shape[-2:]
    for down, right in product(range(-width, width + 1), repeat=2):
        place = width + down, width + right
        columns = widened.narrow(-1, width + right, longitudes)
        first, stop = max(0, -down), latitudes - max(0, down)
        yield place, fields[..., first:stop, :], columns[..., first + down : stop + down, :]
        if down < 0:
            yield place, fields[..., :first, :], columns[..., :1, :]
        elif down > 0:
            yield place, fields[..., stop:, :], columns[..., -1:, :]
