"""Numbers by which members of an ensemble differ: the same on any mesh, drawn in any order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weathermixer.jigsaw.initial import derive_key


def draw_noise(count: int, keys: Sequence[tuple[int, ...]], *, seed: int) -> Tensor:
    """Normally distributed numbers ``(key, count)`` in float64, which ``seed`` and key determine.

    A key says what a draw is for: the times that a member is forecast from and to, say.
    """
    drawn = torch.empty(len(keys), count, dtype=torch.float64)
    for key, numbers in zip(keys, drawn, strict=True):
        generator = torch.Generator().manual_seed(derive_key(seed, "noise", *key) & (1 << 63) - 1)
        numbers.normal_(generator=generator)
    return drawn
