"""Initial weights that depend on a seed, a parameter's name and an element's index, and no more.

Any rank fills any block of any parameter alone, in bounded memory, and gets the bits that one rank
would have got: nothing is drawn in sequence.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

_ELEMENTS_AT_ONCE = 1 << 18


def derive_key(*parts: int | str) -> int:
    """A 64-bit key for one use of randomness, as a signed integer: ``derive_key(seed, name)``."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def fill_uniform(block: Tensor, *, key: int, bound: float, start: int, stride: int) -> None:
    """Fill a block of a parameter with values uniform in ±``bound``, by the elements' global index.

    ``block`` is ``(rows, columns)``; element ``(r, c)`` has the global index
    ``start + r · stride + c``, where ``stride`` is the parameter's global number of columns.
    """
    rows, columns = block.shape
    if not rows or not columns:
        return
    column = torch.arange(columns, device=block.device)
    step = max(1, _ELEMENTS_AT_ONCE // columns)
    for first in range(0, rows, step):
        row = torch.arange(first, min(first + step, rows), device=block.device)
        index = (start + row * stride)[:, None] + column
        unit = (_shift(_mix(index, key), 11)).double() * 2.0**-53
        block[first : first + len(row)] = (2.0 * unit - 1.0) * bound


def linear_bound(fan_in: int) -> float:
    """The bound that keeps a linear layer's output at a third of its input's variance.

    It is the default of ``torch.nn.Linear``: a Kaiming-uniform draw with slope √5.
    """
    return 1.0 / math.sqrt(fan_in)


def _mix(index: Tensor, key: int) -> Tensor:
    """The SplitMix64 finaliser of ``key + index · golden ratio``, in wrapping 64-bit arithmetic.

    Steele, Lea and Flood 2014, https://doi.org/10.1145/2660193.2660195
    """
    mixed = index * _signed(0x9E3779B97F4A7C15) + key
    mixed = (mixed ^ _shift(mixed, 30)) * _signed(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ _shift(mixed, 27)) * _signed(0x94D049BB133111EB)
    return mixed ^ _shift(mixed, 31)


def _shift(values: Tensor, places: int) -> Tensor:
    """Shift right and fill with zeros; torch's own shift of signed integers repeats the sign."""
    return (values >> places) & ((1 << (64 - places)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
