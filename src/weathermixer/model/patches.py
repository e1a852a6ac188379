"""Between fields on a grid and patches as tokens, and the rings of points around patches.

Tokens are counted along latitude first, so that a block of longitudes is a block of tokens;
features along channels first, so that a block of variables is a block of features. Splitting a
sample by longitude and by variable is then splitting tokens and features.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

# As one of the largest of these a copy moves what lies together, several times as fast.
_WIDE_ELEMENTS = (torch.complex128, torch.int64, torch.int32)


def to_patches(fields: Tensor, patch: tuple[int, int]) -> Tensor:
    """``(batch, channel, latitude, longitude)`` → ``(tokens, batch, channel · points)``."""
    tokens: Tensor = _Rearrange.apply(fields, patch, None)
    return tokens


def from_patches(tokens: Tensor, patch: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """``(tokens, batch, channel · points)`` → ``(batch, channel, latitude, longitude)``.

    The inverse of :func:`to_patches`; ``grid`` is latitude × longitude.
    """
    fields: Tensor = _Rearrange.apply(tokens, patch, grid)
    return fields


class _Rearrange(torch.autograd.Function):
    """Patches of fields, or with a ``grid`` fields of patches: of each the gradient is the other.

    No value is computed with, so a patch's row is moved as wide elements.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, patch: tuple[int, int], grid: tuple[int, int] | None) -> Tensor:
        wide = _in_wide_elements(values, patch[1])
        width = patch[1] * values.element_size() // wide.element_size()
        shape: tuple[int, ...]
        if grid is None:
            batch, channels, latitudes, longitudes = wide.shape
            rows, columns = latitudes // patch[0], longitudes // width
            cut = wide.reshape(batch, channels, rows, patch[0], columns, width)
            moved, shape = cut.permute(4, 2, 0, 1, 3, 5), (rows * columns, batch, -1)
        else:
            rows, columns = grid[0] // patch[0], grid[1] // patch[1]
            batch = wide.shape[1]
            cut = wide.reshape(columns, rows, batch, -1, patch[0], width)
            moved, shape = cut.permute(2, 3, 1, 4, 0, 5), (batch, -1, grid[0], columns * width)
        # A copy always, whose strides are those of its shape.
        copied = moved.clone(memory_format=torch.contiguous_format)
        return copied.view(shape).view(values.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        values, ctx.patch, grid = inputs
        ctx.grid = tuple(values.shape[2:]) if grid is None else None

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Rearrange.apply(gradient, ctx.patch, ctx.grid), None, None


def _in_wide_elements(values: Tensor, run: int) -> Tensor:
    """The same memory as elements of as many values as fit whole into a ``run``, if they lie so."""
    if torch.compiler.is_compiling():
        return values  # a kernel of its own needs none, and strides are not the compiler's to see
    *strides, last = values.stride()
    for dtype in _WIDE_ELEMENTS:
        count = dtype.itemsize // values.element_size()
        places = (run, values.storage_offset(), *strides)
        if count > 1 and last == 1 and all(place % count == 0 for place in places):
            return values.view(dtype)
    return values


def to_rings(widened: Tensor, patch: tuple[int, int], overlap: int) -> Tensor:
    """The ``overlap`` points around each patch, from fields that go on beyond both longitude ends.

    ``(batch, channel, latitude, overlap + longitude + overlap)`` → ``(tokens, batch, channel · ring
    points)``; where a ring goes on beyond the first or last latitude, zeros. A ring is made of what
    it has of the eight patches around: those before in latitude, beside, and after, each from the
    first to the last in longitude. ``overlap`` is no larger than a patch either way.
    """
    rings: Tensor = _ToRings.apply(widened, patch, overlap)
    return rings


class _ToRings(torch.autograd.Function):
    """Copies each part of all rings at once; in the backward pass, adds them in a fixed order."""

    generate_vmap_rule = True

    @staticmethod
    def forward(widened: Tensor, patch: tuple[int, int], overlap: int) -> Tensor:
        batch, channels, latitudes, longitudes = widened.shape
        rows, columns = latitudes // patch[0], (longitudes - 2 * overlap) // patch[1]
        points = (patch[0] + 2 * overlap) * (patch[1] + 2 * overlap) - patch[0] * patch[1]
        rings = widened.new_empty(columns, rows, batch, channels, points)
        for of_rings, of_fields, of_poles in _parts(rings, widened, patch, overlap):
            of_rings.copy_(of_fields)
            of_poles.zero_()
        return rings.view(columns * rows, batch, -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        widened, ctx.patch, ctx.overlap = inputs
        ctx.shape = widened.shape

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        batch, channels, latitudes, _ = ctx.shape
        rows = latitudes // ctx.patch[0]
        rings = gradient.reshape(-1, rows, batch, channels, gradient.shape[-1] // channels)
        widened = gradient.new_zeros(ctx.shape)
        for of_rings, of_fields, _ in _parts(rings, widened, ctx.patch, ctx.overlap):
            of_fields.add_(of_rings)
        return widened, None, None


def _parts(
    rings: Tensor, widened: Tensor, patch: tuple[int, int], overlap: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Each part of all rings, where it lies in the fields, and the part of rings beyond a pole.

    ``rings (column, row, batch, channel, ring points)``. The first two are views ``(column, row,
    batch, channel, latitude, longitude)``, without the rows whose part lies beyond a pole, and no
    two of their elements are one.
    """
    columns, rows = rings.shape[:2]
    begin = 0
    # Where a part begins, counted from the patch, and its size.
    sides = [[(-overlap, overlap), (0, size), (size, overlap)] for size in patch]
    for (down, height), (right, width) in product(*sides):
        if down == right == 0:
            continue  # the patch itself
        part = rings[..., begin : begin + height * width].unflatten(-1, (height, width))
        begin += height * width
        first, stop = int(down < 0), rows - int(down > 0)
        beyond = part[:, :1] if first else part[:, stop:]
        if first == stop:
            yield part[:, :0], part[:, :0], beyond
            continue
        lines = widened.narrow(2, first * patch[0] + down, (stop - first - 1) * patch[0] + height)
        lines = lines.unfold(2, height, patch[0])
        found = lines.narrow(3, overlap + right, (columns - 1) * patch[1] + width)
        found = found.unfold(3, width, patch[1])
        yield part[:, first:stop], found.permute(3, 2, 0, 1, 4, 5), beyond
