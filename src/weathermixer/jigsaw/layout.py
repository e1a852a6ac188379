"""Who owns what: pure arithmetic on a mesh *data × domain × tensor*, without any process.

Rank arithmetic lives here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from math import gcd
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

    def require_ranks(self, started: int) -> None:
        """Raise LayoutError where another number of ranks was started than the mesh has."""
        if self.world_size != started:
            raise LayoutError(
                f"data ({self.data}) × domain ({self.domain}) × tensor ({self.tensor}) = "
                f"{self.world_size} ranks, but {started} {'was' if started == 1 else 'were'} "
                "started: start as many, or choose a mesh of as many"
            )

    def corners(self) -> list[Layout]:
        """The mesh as seen from the corners of a model instance.

        Shards do not grow along an axis: the largest and the smallest are at the corners.
        """
        return [
            self.at(domain * self.tensor + tensor)
            for domain in sorted({0, self.domain - 1})
            for tensor in sorted({0, self.tensor - 1})
        ]

    def at(self, rank: int) -> Layout:
        """The same mesh as another rank sees it."""
        return replace(self, rank=rank)

    def ranks_along(self, axis: str) -> tuple[int, ...]:
        """The ranks of the line through this one along ``data``, ``domain`` or ``tensor``.

        >>> Layout(domain=2, tensor=3, rank=4).ranks_along("domain")
        (1, 4)
        """
        stride = {"tensor": 1, "domain": self.tensor, "data": self.ways}[axis]
        first = self.rank - getattr(self.coordinates, axis) * stride
        return tuple(first + place * stride for place in range(getattr(self, axis)))


def layouts(ways: int, *, data: int = 1) -> list[Layout]:
    """Every domain × tensor of as many ways, that with the most ranks along ``domain`` first."""
    return [
        Layout(data=data, domain=domain, tensor=ways // domain)
        for domain in range(ways, 0, -1)
        if ways % domain == 0
    ]


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


def equal_shards(size: int, parts: int) -> list[tuple[range, int]]:
    """The parts of :func:`shard` in runs of one size: which parts, and how many things each has.

    >>> equal_shards(7, 3), equal_shards(6, 3)
    ([(range(0, 1), 3), (range(1, 3), 2)], [(range(0, 3), 2)])
    """
    quotient, remainder = divmod(size, parts)
    runs = [(range(remainder), quotient + 1), (range(remainder, parts), quotient)]
    return [(places, count) for places, count in runs if len(places) and count]


@dataclass(frozen=True)
class Dimension:
    """A dimension of a tensor that is cut over an axis of the mesh.

    It is made of ``sections`` laid end to end, each of which is cut on its own: concatenating what
    a rank holds of each is then local. ``sections`` count units of ``unit`` elements, which stay
    together (the rows of a column of patches, the grid points of a variable in a patch).

    >>> Dimension((5, 2), unit=10).sizes(2)
    (40, 30)
    >>> Dimension((5, 2), unit=10).ranges(2, 1)
    (range(30, 50), range(60, 70))
    """

    sections: tuple[int, ...]
    unit: int = 1

    @classmethod
    def of(cls, size: int | Dimension) -> Dimension:
        """A dimension of one section and single elements, where only a size is given."""
        return size if isinstance(size, Dimension) else cls((size,))

    @property
    def size(self) -> int:
        """Elements in all."""
        return sum(self.sections) * self.unit

    def ranges(self, parts: int, index: int) -> tuple[range, ...]:
        """The elements of part ``index`` of ``parts``: one range of each section."""
        found, start = [], 0
        for section in self.sections:
            part = shard(section, parts, index)
            found.append(range(start + part.start * self.unit, start + part.stop * self.unit))
            start += section * self.unit
        return tuple(found)

    @cache  # noqa: B019 - dimensions are few and live as long as the program
    def sizes(self, parts: int) -> tuple[int, ...]:
        """How many elements each of ``parts`` parts has."""
        return tuple(sum(len(part) for part in self.ranges(parts, index)) for index in range(parts))

    def common_part(self, parts: int) -> int:
        """The largest number of elements that divides every part's bounds.

        >>> Dimension((5,), unit=4).common_part(2), Dimension((6,), unit=4).common_part(2)
        (4, 12)
        """
        return gcd(*(part.stop for index in range(parts) for part in self.ranges(parts, index)))

    def require_parts(self, parts: int, what: str, axis: str) -> None:
        """Raise LayoutError where a rank of the axis would be left with nothing."""
        if max(self.sections) < parts:
            raise LayoutError(
                f"{axis} ({parts}) is more than the {max(self.sections)} {what} that there are "
                f"to cut: choose {axis} = {max(self.sections)} or less"
            )


@dataclass(frozen=True)
class Block:
    """Which elements of a global tensor a rank holds: for each dimension, ranges in local order."""

    shape: tuple[int, ...]
    ranges: tuple[tuple[range, ...], ...]

    @property
    def local_shape(self) -> tuple[int, ...]:
        """The shape of what the rank holds."""
        return tuple(sum(len(part) for part in parts) for parts in self.ranges)

    def rows(self, local: range) -> Block:
        """The block of some local rows.

        >>> Block((9,), ((range(2, 4), range(6, 9)),)).rows(range(1, 3)).ranges
        ((range(3, 4), range(6, 7)),)
        """
        parts = self.ranges[0]
        kept = tuple(
            part[max(local.start - here.start, 0) : max(local.stop - here.start, 0)]
            for part, here in zip(parts, offsets([len(part) for part in parts]), strict=True)
        )
        return Block(self.shape, (kept, *self.ranges[1:]))

    def pieces(self) -> Iterator[tuple[tuple[int, ...], tuple[range, ...]]]:
        """The boxes of the global tensor that make up the block: global offsets, local ranges.

        There are as few as can be: ranges that adjoin are taken together.

        >>> list(Block((7,), ((range(0, 2), range(2, 5)),)).pieces())
        [((0,), (range(0, 5),))]
        """
        for box in product(*map(_runs, self.ranges)):
            yield tuple(start for start, _ in box), tuple(here for _, here in box)


def _runs(parts: Sequence[range]) -> list[tuple[int, range]]:
    """Where each run of adjoining parts begins in the global tensor, and its local range."""
    found: list[tuple[int, range]] = []
    for there, here in zip(parts, offsets([len(part) for part in parts]), strict=True):
        if not len(there):
            continue
        if found and found[-1][0] + len(found[-1][1]) == there.start:
            start, before = found.pop()
            found.append((start, range(before.start, here.stop)))
        else:
            found.append((there.start, here))
    return found


def offsets(sizes: Sequence[int]) -> list[range]:
    """The ranges that parts of these sizes take when they are laid end to end.

    >>> offsets([2, 3])
    [range(0, 2), range(2, 5)]
    """
    found, start = [], 0
    for size in sizes:
        found.append(range(start, start + size))
        start += size
    return found
