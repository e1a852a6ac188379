"""What reading a part of a state costs: storage is read in chunks, whole ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ReadingCost:
    """Bytes of float32 values: ``wanted``, and ``touched``, of all chunks that these lie in."""

    wanted_bytes: int
    touched_bytes: int

    @property
    def amplification(self) -> float:
        """Bytes read for each byte that is asked for; at least 1."""
        return self.touched_bytes / self.wanted_bytes

    def __add__(self, other: ReadingCost) -> ReadingCost:
        return ReadingCost(
            self.wanted_bytes + other.wanted_bytes, self.touched_bytes + other.touched_bytes
        )


def chunks_cost(
    shape: Sequence[int],
    chunks: Sequence[int],
    wanted: Sequence[slice | Sequence[int] | NDArray[np.intp]],
) -> ReadingCost:
    """The cost of reading a part of an array of ``shape`` that is cut into ``chunks``.

    ``wanted`` are the slices or indices of that part along each dimension.

    >>> chunks_cost((69, 64), (9, 32), (slice(0, 35), slice(0, 32))).amplification
    1.0285714285714285
    """
    wanted_elements = touched_elements = 1
    for size, chunk, part in zip(shape, chunks, wanted, strict=True):
        indices = np.arange(size)[part]
        starts = np.unique(indices // chunk) * chunk
        wanted_elements *= len(indices)
        touched_elements *= int((np.minimum(starts + chunk, size) - starts).sum())
    width = np.dtype(np.float32).itemsize
    return ReadingCost(width * wanted_elements, width * touched_elements)
