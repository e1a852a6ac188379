"""Activations in pieces of columns: what a rank has of each, and gathers of the others'."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from weathermixer.jigsaw.exchange import Gather
from weathermixer.jigsaw.in_flight import Fill
from weathermixer.jigsaw.layout import offsets, shard
from weathermixer.jigsaw.product import Side


@dataclass(frozen=True)
class Columns:
    """How the columns of an activation, rows of all samples, are cut into pieces.

    ``parts[number][q]`` are those of rank ``q`` of the side's axis that belong to a piece. Where
    ranks hold different columns, a piece has some of each rank's, laid end to end.
    """

    side: Side
    parts: tuple[tuple[range, ...], ...]

    @classmethod
    def of(cls, side: Side, *, samples: int, num_pieces: int) -> Columns:
        """Cut the columns that each rank holds into pieces, as evenly as they go."""
        sizes = [rows * samples for rows in side.rows]
        return cls(
            side,
            tuple(
                tuple(shard(size, num_pieces, number) for size in sizes)
                for number in range(num_pieces)
            ),
        )

    def on(self, side: Side) -> Columns:
        """The same pieces on a side on which every rank has all columns of each."""
        if self.is_by_rows:
            sizes = [sum(len(part) for part in parts) for parts in self.parts]
        else:
            sizes = [len(parts[self.side.axis.index]) for parts in self.parts]
        return Columns(side, tuple((part,) * side.axis.size for part in offsets(sizes)))

    @property
    def num_columns(self) -> int:
        """Columns that this rank holds."""
        return sum(len(parts[self.side.axis.index]) for parts in self.parts)

    def new_matrix(self, like: Tensor) -> Tensor:
        """Memory for this rank's matrix, as it is stored."""
        return like.new_empty(self.side.shape(self.side.own_features, self.num_columns))

    def new_piece(self, like: Tensor, number: int) -> Tensor:
        """Memory for a piece of it, as it is stored."""
        num_columns = len(self.parts[number][self.side.axis.index])
        return like.new_empty(self.side.shape(self.side.own_features, num_columns))

    @property
    def is_by_rows(self) -> bool:
        """Whether ranks hold different columns, which a piece has all of."""
        return self.side.by_rows and self.side.axis.size > 1

    def own(self, number: int) -> slice:
        """This rank's columns of a piece, among its own."""
        return to_slice(self.parts[number][self.side.axis.index])

    @cached_property
    def within(self) -> list[list[slice]]:
        """For each piece, where each rank's columns are in it."""
        return [
            [to_slice(part) for part in offsets([len(part) for part in parts])]
            if self.is_by_rows
            else [slice(None)] * len(parts)
            for parts in self.parts
        ]


class Activation:
    """What a rank has of an activation on one side of a product, and gathers of the others'.

    What comes from other ranks lies in one matrix each, or in one with this rank's own columns
    where ranks hold different ones, piece after piece: the gradient of a weight is a product of
    whole matrices.
    """

    def __init__(
        self, columns: Columns, own: Tensor | None = None, others: Sequence[Tensor] | None = None
    ) -> None:
        """``own`` is this rank's matrix as stored, unless it is :meth:`put` piece by piece.

        ``others`` are those of an earlier activation of the same kind.
        """
        self.columns = columns
        self.side = side = columns.side
        self._own = own
        self._own_pieces: list[Tensor] = []
        self._gathers: dict[int, Gather] = {}
        self.others = list(others) if others else None
        # Pieces of columns are contiguous only where columns come first.
        is_whole = len(columns.parts) == 1 and not columns.is_by_rows
        self._features_first = side.features_first and is_whole

    @classmethod
    def kept_from(
        cls, columns: Columns, tensors: Sequence[Tensor], *, is_given: bool
    ) -> Activation:
        """What a forward pass :meth:`kept`, of an activation whose own matrix was given or not."""
        if not is_given or columns.is_by_rows:
            return cls(columns, others=tensors)
        return cls(columns, tensors[0], tensors[1:])

    def kept(self) -> list[Tensor]:
        """What the gradient of a weight needs of it that cannot be made again."""
        own = [] if self._own is None or self.columns.is_by_rows else [self._own]
        return own + (self.others or [])

    @property
    def stored(self) -> Tensor:
        """This rank's matrix as stored."""
        return self.side.matrix(self.own())

    @property
    def dtype(self) -> torch.dtype:
        """The type of what it holds."""
        return self.own().dtype

    def put(self, piece: Tensor) -> None:
        """Take this rank's next piece, as stored."""
        self._own_pieces.append(piece)

    def begin(self, number: int) -> None:
        """Begin to gather a piece."""
        axis = self.side.axis
        if axis.size == 1:
            return
        own = self._own_piece(number)
        if self.others is None:
            self._allocate(own)
        assert self.others is not None
        if self.columns.is_by_rows:
            into = self._rows_by_rank(number)
        else:
            message = own if self._features_first else own.t()
            into = [
                message.contiguous()
                if place == axis.index
                else (other if self._features_first else other[self.columns.own(number)])
                for place, other in enumerate(self.others)
            ]
        if self.columns.is_by_rows:
            into[axis.index].copy_(own.t())
        shapes = [tuple(each.shape) for each in into]
        self._gathers[number] = Gather(
            axis, into[axis.index], shapes, into, dtype=axis.travels_in(own.dtype)
        )

    def piece(self, place: int, number: int, fill: Fill | None) -> Tensor:
        """The matrix ``(features, columns)`` of a piece that a rank holds, once it is there."""
        if place == self.side.axis.index:
            return self._own_piece(number)
        stored = self._gathers[number].piece(place, fill)
        return stored if self._features_first else stored.t()

    def all_of(self, number: int, fill: Fill | None) -> Iterator[None]:
        """Gather a piece that nothing but the gradient of a weight needs."""
        self.begin(number)
        for place in self.side.axis.peers()[:-1]:
            yield
            self.piece(place, number, fill)

    def matrices(self, number: int | None = None) -> list[Tensor]:
        """All that was gathered: matrices ``(features, columns)`` with the features of each rank.

        It is one with all columns where ranks hold different ones. With a ``number``, what a piece
        has of them.
        """
        if self.columns.is_by_rows:
            assert self.others is not None
            rows = slice(None) if number is None else self._rows_of(number)
            return [self.others[0][rows].t()]
        own = self.own() if number is None else self._own_piece(number)
        if self.others is None:
            return [own]
        columns = slice(None) if number is None else self.columns.own(number)
        return [
            own
            if place == self.side.axis.index
            else (other if self._features_first else other.t())[:, columns]
            for place, other in enumerate(self.others)
        ]

    def own(self) -> Tensor:
        """This rank's matrix ``(features, columns)``."""
        if self._own is None:
            pieces = self._own_pieces
            along = 1 if self.side.features_first else 0
            self._own = pieces[0] if len(pieces) == 1 else torch.cat(pieces, along)
            self._own_pieces = []
        return self.side.matrix(self._own)

    def _own_piece(self, number: int) -> Tensor:
        if self._own is None:
            return self.side.matrix(self._own_pieces[number])
        return self.side.matrix(self._own)[:, self.columns.own(number)]

    def _allocate(self, like: Tensor) -> None:
        columns, axis = self.columns, self.side.axis
        if columns.is_by_rows:
            total = sum(len(part) for parts in columns.parts for part in parts)
            self.others = [like.new_empty(total, self.side.own_features)]
            return
        num_columns = columns.num_columns
        self.others = [
            like.new_empty(
                0
                if place == axis.index
                else ((features, num_columns) if self._features_first else (num_columns, features))
            )
            for place, features in enumerate(self.side.features)
        ]

    def _rows_by_rank(self, number: int) -> list[Tensor]:
        """What a piece has of each rank's columns, which lie piece after piece."""
        assert self.others is not None
        piece = self.others[0][self._rows_of(number)]
        return [piece[within] for within in self.columns.within[number]]

    def _rows_of(self, number: int) -> slice:
        sizes = [sum(len(part) for part in parts) for parts in self.columns.parts]
        return to_slice(offsets(sizes)[number])


def to_slice(part: range) -> slice:
    """A range as a slice."""
    return slice(part.start, part.stop)
