"""How a state is cut into chunks, so that every rank of a planned mesh reads little but its own.

Storage is read in whole chunks. Where chunks end at the bounds of shards, a rank reads its share;
where they do not, more. Small chunks meet more bounds, but each takes time of its own, so a chunk
is the largest that keeps every rank of every planned mesh within a tolerance of its share.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weathermixer.jigsaw.layout import Dimension

DEFAULT_WAYS = 8
# What a rank may read of chunks that it owns in part, relative to its share.
_TOLERANCE = 1.02
# A chunk costs about 0.3 ms to open and decode, however small: as much as decoding 100 kB.
_SMALLEST_CHUNK_BYTES = 100_000
_LARGEST_CHUNK_BYTES = 1_000_000
_WIDTH = np.dtype(np.float32).itemsize


@dataclass(frozen=True)
class PlannedMeshes:
    """The meshes that a store is made for: every ``domain × tensor`` that divides one of these.

    ``ways`` are ranks of a model instance, or ``(domain, tensor)`` of one mesh. Longitudes are cut
    between columns of patches, each ``patch_longitudes`` wide.
    """

    ways: int | tuple[int, int]
    patch_longitudes: int = 1

    def meshes(self) -> list[tuple[int, int]]:
        """The planned meshes, each as ``(domain, tensor)`` numbers of ranks."""
        if isinstance(self.ways, tuple):
            domain, tensor = self.ways
            return [(d, t) for d in _divisors(domain) for t in _divisors(tensor)]
        return [(d, t) for d in _divisors(self.ways) for t in _divisors(self.ways // d)]


def choose_chunk(
    channels: int, grid: tuple[int, int], planned: PlannedMeshes | None = None
) -> tuple[int, int]:
    """Choose how many ``(channels, longitudes)`` a chunk of states has; it has all latitudes.

    ``grid`` is ``(latitudes, longitudes)``. Without planned meshes, those of 8 ranks are planned
    for if their chunks are not too small to be read efficiently, else those of 4, of 2, of 1.
    """
    if planned is not None:
        return _largest_chunk(channels, grid, planned)[0]
    ways = DEFAULT_WAYS
    chunk, size = _largest_chunk(channels, grid, PlannedMeshes(ways))
    while size < _SMALLEST_CHUNK_BYTES and ways > 1:
        ways //= 2
        chunk, size = _largest_chunk(channels, grid, PlannedMeshes(ways))
    return chunk


def _largest_chunk(
    channels: int, grid: tuple[int, int], planned: PlannedMeshes
) -> tuple[tuple[int, int], int]:
    """The largest chunk within the tolerance on every planned mesh, and its bytes."""
    rows, columns = grid
    unit = planned.patch_longitudes if columns % planned.patch_longitudes == 0 else 1
    meshes = planned.meshes()
    over_longitudes = {
        domain: _amplification(Dimension((columns // unit,), unit), domain) for domain, _ in meshes
    }
    over_channels = {tensor: _amplification(Dimension((channels,)), tensor) for _, tensor in meshes}
    fits = np.ones((channels, columns), dtype=bool)
    for domain, tensor in meshes:
        fits &= np.outer(over_channels[tensor], over_longitudes[domain]) <= _TOLERANCE
    sizes = _WIDTH * rows * np.outer(np.arange(1, channels + 1), np.arange(1, columns + 1))
    fits &= sizes <= _LARGEST_CHUNK_BYTES
    fits[0, 0] = True  # single columns meet any bounds
    channel, column = np.unravel_index(np.argmax(np.where(fits, sizes, 0)), sizes.shape)
    return (int(channel) + 1, int(column) + 1), int(sizes[channel, column])


def _amplification(dimension: Dimension, parts: int) -> NDArray[np.float64]:
    """How many times its share the worst of ``parts`` parts reads, by length of a chunk, from 1."""
    lengths = np.arange(1, dimension.size + 1)
    worst = np.ones(len(lengths))
    for index in range(parts):
        (part,) = dimension.ranges(parts, index)
        if len(part):
            first = part.start // lengths * lengths
            end = np.minimum(-(-part.stop // lengths) * lengths, dimension.size)
            worst = np.maximum(worst, (end - first) / len(part))
    return worst


def _divisors(number: int) -> Iterable[int]:
    return (divisor for divisor in range(1, number + 1) if number % divisor == 0)
