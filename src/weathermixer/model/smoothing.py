"""Smoothing over the edges of patches, with kernels that each channel learns.

Patches are decoded apart from each other, and what they disagree in shows at their edges as energy
at small scales. It stays in states, where the network, which sees a patch as fewer numbers than it
has, can hardly tell it from weather: hence a second kernel, and diffusion, by which a state loses
it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weathermixer.jigsaw.halo import Halo


class Smoothing(nn.Module):
    """Makes each point of a channel of what was decoded, and of the state, at those around it.

    ``kernel (predicted, 1, 2 width + 1, 2 width + 1)``, latitude × longitude, is for what was
    decoded, and ``state_kernel (prognostic, ...)`` for the state, in units of what was decoded.

    ``diffusion (prognostic, latitude, 1)`` is the fraction that a point of the state loses, in
    units of the state, of its difference from what ``width`` neighbours on either side along
    longitude interpolate to, by the polynomial through all of them. Of zonal wavenumber *k* of *N*
    longitudes that is ``(2 sin(π k / N))^(2 width)`` over the binomial coefficient of ``2 width``
    and ``width``. So large scales keep what they have, and a channel that changes little from step
    to step can lose small scales as fast as any other. From none to all of the smallest scale is
    lost, since states would not be stable beyond: weights count as if reflected there.

    ``bias (predicted, latitude, longitude)`` is added to what was decoded: what each point is given
    at each step, such as the small scales that mountains hold in place.

    Longitudes close to a circle, and beyond the first and the last latitude these go on. The first
    kernel begins as one that smooths a little, alike along both, 0.8 in the middle and 0.1 for each
    neighbour; all others as zeros.
    """

    def __init__(
        self,
        predicted: int,
        prognostic: int,
        grid: tuple[int, int],
        width: int,
        device: Any = None,
    ) -> None:
        super().__init__()
        self.halo, size = Halo(width), 2 * width + 1
        self.kernel, self.state_kernel = (
            nn.Parameter(torch.empty(channels, 1, size, size, device=device))
            for channels in (predicted, prognostic)
        )
        self.diffusion = nn.Parameter(torch.empty(prognostic, grid[0], 1, device=device))
        self.bias = nn.Parameter(torch.empty(predicted, *grid, device=device))
        self.reset()

    def forward(self, decoded: Tensor, state: Tensor, unit: Tensor | None = None) -> Tensor:
        """``decoded (batch, predicted, latitude, longitude)``, smoothed, with what ``state`` adds.

        ``state (batch, prognostic, latitude, longitude)``. ``unit (prognostic, 1, 1)`` is that of
        what was decoded, divided by that of the state, unless both have the same.
        """
        # Apart, since a state that is data takes no gradient, and then none travels either.
        waits = [self.halo(fields) for fields in (decoded, state)]
        kernel = self.kernel.expand(-1, state.shape[2], -1, -1)
        of_state = self.state_kernel + self._diffusing(unit)
        widened = [wait_for_edges() for wait_for_edges in waits]
        smooth: Tensor = _Smooth.apply(*widened, kernel, of_state, self.bias)
        return smooth

    def reset(self, seed: int = 0, name: str = "") -> None:
        """The kernels that smooth a little and add nothing of the state, whatever the seed."""
        self._begin_with(middle=0.8, beside=0.1)

    def rest(self) -> None:
        """The kernels that leave what was decoded as it is."""
        self._begin_with(middle=1.0, beside=0.0)

    def _diffusing(self, unit: Tensor | None) -> Tensor:
        """The kernels ``(prognostic, latitude, ...)`` by which the state is diffused."""
        width = self.halo.width
        lost = _reflected(self.diffusion, math.comb(2 * width, width) / 4**width)
        if unit is not None:
            lost = lost / unit
        # What a point at each place counts in the difference, in units of the one in the middle.
        places = [(-1) ** n * math.comb(2 * width, n) for n in range(2 * width + 1)]
        line = torch.stack([-place / places[width] * lost for place in places], -1)
        return F.pad(line, (0, 0, width, width))

    def _begin_with(self, *, middle: float, beside: float) -> None:
        width = self.halo.width
        line = torch.zeros(2 * width + 1, dtype=torch.float64)
        line[width - 1 : width + 2] = torch.tensor([beside, middle, beside], dtype=line.dtype)
        with torch.no_grad():
            self.kernel.copy_(torch.outer(line, line))
            self.state_kernel.zero_()
            self.diffusion.zero_()
            self.bias.zero_()


class _Smooth(torch.autograd.Function):
    """Adds up weighted copies, forwards and back, each in a fixed order.

    Where a kernel has a channel to itself, that takes a processor up to a fifth of the time that
    PyTorch's convolutions do, and on a GPU it rounds nothing to TF32.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        decoded: Tensor, state: Tensor, kernel: Tensor, state_kernel: Tensor, bias: Tensor
    ) -> Tensor:
        width = kernel.shape[-1] // 2
        middle = width, width
        own = decoded.narrow(-1, width, decoded.shape[-1] - 2 * width)
        smooth = torch.addcmul(bias, own, _weight(kernel, middle))
        for weights, around in ((kernel, decoded), (state_kernel, state)):
            for place, span, rows, beside in _terms(smooth[:, : len(weights)], around, width):
                if weights is state_kernel or place != middle:
                    rows.addcmul_(beside, _weight(weights, place, span))
        return smooth

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:-1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        *widened, kernel, state_kernel = ctx.saved_tensors
        width = kernel.shape[-1] // 2
        of_kernels, of_widened = [], []
        for weights, around in zip((kernel, state_kernel), widened, strict=True):
            of_weights = gradient.new_zeros(weights.shape)
            for place, span, rows, beside in _terms(gradient[:, : len(weights)], around, width):
                of_weights[:, span, place[0], place[1]] = (rows * beside).sum((0, 3))
            of_kernels.append(of_weights)
        for weights, around, is_wanted in zip(
            (kernel, state_kernel), widened, ctx.needs_input_grad[:2], strict=True
        ):
            of_fields = gradient.new_zeros(around.shape) if is_wanted else None
            of_widened.append(of_fields)
            if of_fields is None:
                continue
            for place, span, rows, beside in _terms(gradient[:, : len(weights)], of_fields, width):
                weight = _weight(weights, place, span)
                if beside.shape == rows.shape:
                    beside.addcmul_(rows, weight)
                else:
                    beside.add_((rows * weight).sum(-2, keepdim=True))
        return *of_widened, *of_kernels, gradient.sum(0)


def _reflected(x: Tensor, limit: float) -> Tensor:
    """Numbers from zero to a limit, from where gradients lead back, on any part of a mesh alike."""
    return limit - (limit - torch.where(x >= 0.0, x, -x)).abs()


def _weight(kernel: Tensor, place: tuple[int, int], span: slice = slice(None)) -> Tensor:
    return kernel[:, span, place[0], place[1], None]


def _terms(
    fields: Tensor, widened: Tensor, width: int
) -> Iterator[tuple[tuple[int, int], slice, Tensor, Tensor]]:
    """Each place in a kernel in order, with rows of fields and what it weighs for them, as views.

    That is as many rows of ``widened``, which goes on beyond both longitude ends, or one of its
    outermost rows, for all that look beyond a pole.
    """
    latitudes, longitudes = fields.shape[-2:]
    for down, right in product(range(-width, width + 1), repeat=2):
        place = width + down, width + right
        columns = widened.narrow(-1, width + right, longitudes)
        first, stop = max(0, -down), latitudes - max(0, down)
        for rows, others in (
            (slice(first, stop), slice(first + down, stop + down)),
            (slice(0, first), slice(0, 1)),
            (slice(stop, latitudes), slice(latitudes - 1, latitudes)),
        ):
            if rows.start < rows.stop:
                yield place, rows, fields[..., rows, :], columns[..., others, :]
