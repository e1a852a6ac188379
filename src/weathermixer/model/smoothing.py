"""Smoothing over the edges of patches, with kernels that each channel learns.

Patches are decoded apart from each other, and what they disagree in shows at their edges as energy
at small scales. It stays in states, where the network, which sees a patch as fewer numbers than it
has, can hardly tell it from weather: hence a second kernel, by which a state loses it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from weathermixer.jigsaw.halo import Halo


class Smoothing(nn.Module):
    """Makes each point of a channel of what was decoded, and of the state, at those around it.

    ``kernel (predicted, 1, 2 width + 1, 2 width + 1)``, latitude × longitude, is for what was
    decoded, and ``state_kernel (prognostic, ...)`` for the state. Longitudes close to a circle, and
    beyond the first and the last latitude these go on. The former begins as one that smooths a
    little, alike along both, 0.8 in the middle and 0.1 for each neighbour; the latter as zeros.
    """

    def __init__(self, predicted: int, prognostic: int, width: int, device: Any = None) -> None:
        super().__init__()
        self.halo, size = Halo(width), 2 * width + 1
        self.kernel, self.state_kernel = (
            nn.Parameter(torch.empty(channels, 1, size, size, device=device))
            for channels in (predicted, prognostic)
        )
        self.reset()

    def forward(self, decoded: Tensor, state: Tensor) -> Tensor:
        """``decoded (batch, predicted, latitude, longitude)``, smoothed, with what ``state`` adds.

        ``state (batch, prognostic, latitude, longitude)``.
        """
        # Apart, since a state that is data takes no gradient, and then none travels either.
        waits = [self.halo(fields) for fields in (decoded, state)]
        widened = [wait_for_edges() for wait_for_edges in waits]
        smooth: Tensor = _Smooth.apply(*widened, self.kernel, self.state_kernel)
        return smooth

    def reset(self, seed: int = 0, name: str = "") -> None:
        """The kernels that smooth a little and add nothing of the state, whatever the seed."""
        self._begin_with(middle=0.8, beside=0.1)

    def rest(self) -> None:
        """The kernels that leave what was decoded as it is."""
        self._begin_with(middle=1.0, beside=0.0)

    def _begin_with(self, *, middle: float, beside: float) -> None:
        width = self.halo.width
        line = torch.zeros(2 * width + 1, dtype=torch.float64)
        line[width - 1 : width + 2] = torch.tensor([beside, middle, beside], dtype=line.dtype)
        with torch.no_grad():
            self.kernel.copy_(torch.outer(line, line))
            self.state_kernel.zero_()


class _Smooth(torch.autograd.Function):
    """Adds up weighted copies, forwards and back, each in a fixed order.

    Where a kernel has a channel to itself, that takes a processor up to a fifth of the time that
    PyTorch's convolutions do, and on a GPU it rounds nothing to TF32.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(decoded: Tensor, state: Tensor, kernel: Tensor, state_kernel: Tensor) -> Tensor:
        width = kernel.shape[-1] // 2
        middle = width, width
        own = decoded.narrow(-1, width, decoded.shape[-1] - 2 * width)
        smooth = own * _weight(kernel, middle)
        for weights, around in ((kernel, decoded), (state_kernel, state)):
            for place, rows, beside in _terms(smooth[:, : len(weights)], around, width):
                if weights is state_kernel or place != middle:
                    rows.addcmul_(beside, _weight(weights, place))
        return smooth

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        *widened, kernel, state_kernel = ctx.saved_tensors
        width = kernel.shape[-1] // 2
        of_kernels, of_widened = [], []
        for weights, around in zip((kernel, state_kernel), widened, strict=True):
            of_weights: dict[tuple[int, int], Tensor] = {}
            for place, rows, beside in _terms(gradient[:, : len(weights)], around, width):
                total = (rows * beside).sum((0, 2, 3))
                of_weights[place] = of_weights[place] + total if place in of_weights else total
            of_kernels.append(torch.stack(list(of_weights.values()), -1).view(weights.shape))
        for weights, around, is_wanted in zip(
            (kernel, state_kernel), widened, ctx.needs_input_grad[:2], strict=True
        ):
            of_fields = gradient.new_zeros(around.shape) if is_wanted else None
            of_widened.append(of_fields)
            if of_fields is None:
                continue
            for place, rows, beside in _terms(gradient[:, : len(weights)], of_fields, width):
                given = rows if beside.shape == rows.shape else rows.sum(-2, keepdim=True)
                beside.addcmul_(given, _weight(weights, place))
        return *of_widened, *of_kernels


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
