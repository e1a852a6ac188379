"""Dropout that keeps no state: what is zeroed depends on a key, and on the rank."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from weathermixer.jigsaw.initial import derive_key
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.opaque import opaque


@dataclass(frozen=True)
class PieceOfMatrix:
    """Some columns of a matrix, of which what is zeroed has to be the same in whichever pieces.

    The matrix ``(features, columns)`` lies in memory as ``features_first`` says, its piece with
    columns first. ``runs`` are columns of the matrix, and where each run begins in the piece.
    """

    features: int
    columns: int
    features_first: bool
    runs: tuple[tuple[range, int], ...]

    def places(self, positions: Tensor) -> Tensor:
        """Where places in the matrix's memory are in that of the piece, in increasing order.

        Those that are not in it lie beyond it.
        """
        if self.features_first:
            feature, column = positions // self.columns, positions % self.columns
        else:
            column, feature = positions // self.features, positions % self.features
        beyond = self.features * sum(len(run) for run, _ in self.runs)
        found = torch.full_like(positions, beyond)
        for run, start in self.runs:
            is_here = (column >= run.start) & (column < run.stop) & (feature < self.features)
            place = (column - run.start + start) * self.features + feature
            found = torch.where(is_here, place, found)
        return found.sort().values


_piece: PieceOfMatrix | None = None


@contextmanager
def piece_of(piece: PieceOfMatrix | None) -> Iterator[None]:
    """Within, what dropout is given is a piece of a matrix, unless it is None."""
    global _piece
    _piece = piece
    try:
        yield
    finally:
        _piece = None


class Dropout(nn.Module):
    """Zeroes each value with probability ``p`` and divides the others by ``1 − p``, in training.

    What is zeroed depends on ``key`` and on the rank alone, so a step can be repeated, and a run
    continued, without saving the state of a generator. Instead of a draw per value there is a draw
    per zero: the gaps between the successes of a Bernoulli process are geometric.
    """

    def __init__(self, p: float, mesh: Mesh) -> None:
        super().__init__()
        self.p = p
        self.rank = mesh.layout.rank
        self.key = 0

    @property
    def scale(self) -> float:
        """What the values that stay are multiplied by."""
        return 1.0 / (1.0 - self.p)

    @opaque
    def forward(self, x: Tensor) -> Tensor:
        positions = self.draw(x)
        return x if positions is None else scale_and_zero(x, positions, self.scale)

    def draw(self, x: Tensor) -> Tensor | None:
        """What to zero of ``x``: places in its memory, in increasing order, and some beyond it.

        None where everything stays as it is. How many places lie beyond is known on the device
        alone: asking for it would wait.
        """
        if not self.training or self.p == 0.0 or not x.numel():
            return None
        size = x.numel() if _piece is None else _piece.features * _piece.columns
        generator = torch.Generator(device=x.device)
        generator.manual_seed(derive_key(self.key, self.rank) & (1 << 63) - 1)
        # Eight standard deviations more than expected: that all gaps end before the tensor does
        # has a probability of about 1e-15.
        expected = size * self.p
        count = math.ceil(expected + 8.0 * math.sqrt(expected) + 8.0)
        gaps = torch.empty(count, dtype=torch.int64, device=x.device)
        positions = gaps.geometric_(self.p, generator=generator).cumsum(0) - 1
        return positions if _piece is None else _piece.places(positions)


def scale_and_zero(x: Tensor, positions: Tensor, scale: float) -> Tensor:
    """``scale · x``, differentiable, but 0 at the positions below its size.

    ``positions``, in increasing order, count elements as they lie in memory. ``x`` is not empty.
    """
    strides = x.stride()
    order = sorted(range(x.ndim), key=lambda dim: -strides[dim])
    y: Tensor = _ScaleAndZero.apply(  # type: ignore[no-untyped-call]
        x.permute(order), positions, scale
    )
    return y.permute([order.index(dim) for dim in range(x.ndim)])


class _ScaleAndZero(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, positions: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(positions)
        ctx.scale = scale
        return _scale_and_zero(x, positions, scale)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        (positions,) = ctx.saved_tensors
        return _scale_and_zero(dy, positions, ctx.scale), None, None


def _scale_and_zero(x: Tensor, positions: Tensor, scale: float) -> Tensor:
    """``scale · x``, contiguous, with zeroes."""
    y = (x * scale).contiguous()
    elements = y.view(-1)
    is_inside, first = positions < len(elements), positions[:1]
    # A position outside stands for the first one again or, where that is outside too, so that none
    # is inside, for the last element, which keeps its value.
    inside = torch.where(is_inside, positions, first.clamp(max=len(elements) - 1))
    values = elements.index_select(0, inside).masked_fill(is_inside[:1], 0.0)
    elements.index_copy_(0, inside, values)
    return y


def set_dropout_key(model: nn.Module, seed: int, step: int, part: int = 0) -> None:
    """Fix what dropout zeroes in the next passes: the same for the same seed, step and part of it.

    Parts of a step are samples that pass through the model after each other.
    """
    numbers = (seed, step, part) if part else (seed, step)
    for name, module in model.named_modules():
        if isinstance(module, Dropout):
            module.key = derive_key(*numbers, name)
