"""Who owns what: pure arithmetic on a mesh *data × domain × tensor*, without any process.

Rank arithmetic lives here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class LayoutError(ValueError):
    """A mesh or a cut that cannot be; its message is for the user."""


class Coordinates(NamedTuple):
    """Where a rank stands on the mesh."""

    data: int
    domain: int
    tensor: int


@dataclass(frozen=True)
class Layout:
    """A mesh of ranks, and the rank that asks.

    Ranks count along ``tensor`` first, so that the ranks that exchange the most are neighbours;
    then along ``domain``; then along ``data``.
    """

    data: int = 1
    domain: int = 1
    tensor: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        if min(self.data, self.domain, self.tensor) < 1:
            raise LayoutError(
                f"data ({self.data}), domain ({self.domain}) and tensor ({self.tensor}) "
                "must each be at least 1"
            )
        if not 0 <= self.rank < self.world_size:
            raise LayoutError(
                f"data ({self.data}) × domain ({self.domain}) × tensor ({self.tensor}) = "
                f"{self.world_size} ranks, but this is rank {self.rank}"
            )

    @property
    def ways(self) -> int:
        """Ranks that hold one model instance together."""
        return self.domain * self.tensor

    @property
    def world_size(self) -> int:
        return self.data * self.ways

    @property
    def coordinates(self) -> Coordinates:
        """This rank's place on the mesh.

        >>> Layout(data=2, domain=2, tensor=3, rank=7).coordinates
        Coordinates(data=1, domain=0, tensor=1)
        """
        data, within = divmod(self.rank, self.ways)
        domain, tensor = divmod(within, self.tensor)
        return Coordinates(data, domain, tensor)

    def tokens(self, size: int) -> range:
        """The part of ``size`` tokens, longitudes or patch columns that this rank owns."""
        return shard(size, self.domain, self.coordinates.domain)

    def channels(self, size: int) -> range:
        """The part of ``size`` variables or latent channels that this rank owns."""
        return shard(size, self.tensor, self.coordinates.tensor)


def shard(size: int, parts: int, index: int) -> range:
    """Part ``index`` of ``size`` things cut into ``parts`` as evenly as they go, larger ones first.

    >>> [list(shard(7, 3, index)) for index in range(3)]
    [[0, 1, 2], [3, 4], [5, 6]]
    >>> [len(shard(2, 4, index)) for index in range(4)]
    [1, 1, 0, 0]
    """
    quotient, remainder = divmod(size, parts)
    start = index * quotient + min(index, remainder)
    return range(start, start + quotient + (index < remainder))
