"""Distributed products ``Y = W X``: which rank holds, gathers and makes what.

Features are what a product contracts, rows what it leaves alone; a rank holds some features of some
rows of each activation. *Along* is the axis that features are cut over, *across* the one that rows
are cut over, of ``A`` and ``O`` ranks. Four schemes differ in what moves:

========  =====================  ===========================  ====================
scheme    gathered beforehand    reduce-scattered afterwards  where the output lies
========  =====================  ===========================  ====================
reduce    weight, across         output features, along       as the input
gather    weight, across;        nothing                      as the input
          input features, along
turn      input rows, across     output features, along       turned: all rows
fold      input features, along  output rows, across          as before the turn
========  =====================  ===========================  ====================

In ``turn`` and ``fold`` no weight moves. A *turned* activation, which only ``turn`` makes and only
``fold`` takes, has all rows, and its features are cut over both axes. The gradient of the input is
the same kind of product with transposed weight, gather and reduce-scatter exchanged; that of the
weight is reduce-scattered to where the weight is held. Per product and rank, with ``F`` input
and ``G`` output features and ``R`` rows, the forward pass multiplies ``F G R / (A O)`` numbers in
each scheme, and so do both of the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from torch import Tensor

from weathermixer.jigsaw.layout import Block, Dimension, LayoutError, offsets, shard
from weathermixer.jigsaw.mesh import Axis, Mesh

Scheme = Literal["reduce", "gather", "turn", "fold"]
# The axis that features are cut over.
Features = Literal["tensor", "domain"]

# What a link carries in about the time that an exchange takes to begin and end on the host.
_BYTES_OF_A_CALL = 1 << 20
# Products of ever fewer columns take longer than they save.
_MOST_PIECES = 4
# So many fill a wait closely enough, and are still large products.
_SLICES = 3


@dataclass(frozen=True)
class Side:
    """An activation on one side of a product: what each rank of an axis holds of it.

    Rank ``q`` holds ``features[q]`` features of ``rows[q]`` rows (per sample). ``by_rows`` says
    that the ranks hold different rows of the same features, and not the other way round.
    ``features_first`` tells whether its matrix is stored ``(features, rows)`` or ``(rows,
    features)``.
    """

    axis: Axis
    features: tuple[int, ...]
    rows: tuple[int, ...]
    by_rows: bool = False
    features_first: bool = False

    @property
    def own_features(self) -> int:
        """Features that this rank holds."""
        return self.features[self.axis.index]

    @property
    def own_rows(self) -> int:
        """Rows of a sample that this rank holds."""
        return self.rows[self.axis.index]

    def matrix(self, stored: Tensor) -> Tensor:
        """``(features, rows)`` of a matrix as it is stored."""
        return stored if self.features_first else stored.t()

    def shape(self, features: int, rows: int) -> tuple[int, int]:
        """The shape of so many features and rows as they are stored."""
        return (features, rows) if self.features_first else (rows, features)


@dataclass(frozen=True)
class Product:
    """A linear map as this rank takes part in it: its scheme, and who holds what.

    ``inputs`` and ``outputs`` are features, ``rows`` is what they are features of, each cut as the
    dimension says. ``features_first`` tells whether activations are stored ``(features, rows)``
    or ``(rows, features)``. Of outputs in several sections a rank has its part of each, and the
    rows of its weight are in the order of the ranks that these belong to. The hidden dimension
    between ``turn`` and ``fold`` has single elements in one section.
    """

    scheme: Scheme
    inputs: Dimension
    outputs: Dimension
    rows: Dimension
    along: Axis
    across: Axis
    features_first: bool

    def __post_init__(self) -> None:
        """Raise LayoutError for a cut that the scheme cannot follow."""
        # A hidden dimension is cut over both axes, element by element.
        turned = {"turn": self.outputs, "fold": self.inputs}.get(self.scheme)
        if turned is not None and (len(turned.sections) > 1 or turned.unit > 1):
            raise LayoutError(
                f"the scheme {self.scheme} turns a hidden dimension of single elements in one "
                f"section, but this one is {turned}: choose another scheme"
            )

    @classmethod
    def on(
        cls,
        mesh: Mesh,
        inputs: int | Dimension,
        outputs: int | Dimension,
        *,
        rows: int | Dimension,
        features: Features,
        scheme: Scheme,
    ) -> Product:
        """The product of a layer on a rank of a mesh, known before any layer is made.

        Features lie last in an activation's memory where they are cut over ``tensor``, and first
        where they are cut over ``domain``. Raises LayoutError for a cut that the scheme cannot
        follow.
        """
        axes = (mesh.domain, mesh.tensor) if features == "domain" else (mesh.tensor, mesh.domain)
        return cls(
            scheme,
            Dimension.of(inputs),
            Dimension.of(outputs),
            Dimension.of(rows),
            along=axes[0],
            across=axes[1],
            features_first=features == "domain",
        )

    @property
    def is_shared(self) -> bool:
        """Whether several ranks make the product together, so that there are waits to fill."""
        return self.along.size * self.across.size > 1

    @property
    def largest_message(self) -> int:
        """Elements of the most that a rank sends another of an activation, per sample."""
        along, across = self.along.size, self.across.size
        rows = max(self.rows.sizes(across))
        inputs, outputs = max(self.inputs.sizes(along)), max(self.outputs.sizes(along))
        moved = {
            "reduce": (outputs * (along > 1),),
            "gather": (inputs * (along > 1),),
            "turn": (inputs * (across > 1), outputs * (along > 1)),
            "fold": (inputs * (along > 1), outputs * (across > 1)),
        }
        return max(moved[self.scheme]) * rows

    def gradient_slices(self, element_bytes: int) -> int:
        """In how many slices the gradient of the weight is made.

        One that other ranks have parts of travels by slices, as activations do by pieces.
        """
        parts = self.weight_axis.size
        if parts == 1:
            return _SLICES if self.along.has_link else 1
        rows, columns = self.outputs.size, self.inputs.size
        message = -(-rows // parts) * -(-columns // self.along.size)
        num_bytes = message * self.weight_axis.bytes_of(element_bytes)
        return _pieces_of(num_bytes, self.weight_axis)

    @property
    def moves_rows(self) -> bool:
        """Whether the input or the output lies turned, so that their rows differ."""
        return self.scheme in ("turn", "fold")

    @cached_property
    def source(self) -> Side:
        """The input, and the axis that it is gathered over."""
        own_features, along = self._own(self.inputs), self.along
        if self.scheme == "reduce":
            return self._side(_alone(along), (own_features,), (self._own_rows,))
        if self.scheme == "gather":
            sizes = self.inputs.sizes(along.size)
            return self._side(along, sizes, (self._own_rows,) * along.size)
        if self.scheme == "turn":
            return self._side_by_rows(own_features)
        return self._side(along, self._turned(self.inputs), (self.rows.size,) * along.size)

    @cached_property
    def target(self) -> Side:
        """The output, and the axis that partial sums of it are reduce-scattered over."""
        own_features, along = self._own(self.outputs), self.along
        if self.scheme == "reduce":
            sizes = self.outputs.sizes(along.size)
            return self._side(along, sizes, (self._own_rows,) * along.size)
        if self.scheme == "gather":
            return self._side(_alone(along), (own_features,), (self._own_rows,))
        if self.scheme == "turn":
            return self._side(along, self._turned(self.outputs), (self.rows.size,) * along.size)
        return self._side_by_rows(own_features)

    @cached_property
    def weight_axis(self) -> Axis:
        """The axis that the weight is gathered over, and its gradient reduce-scattered."""
        if self.scheme in ("reduce", "gather"):
            return self.across
        return _alone(self.across)

    @cached_property
    def weight_rows(self) -> tuple[int, ...]:
        """Rows of the weight that each rank of ``weight_axis`` holds of what is used here."""
        if self.scheme == "reduce":
            total = self.outputs.size
        elif self.scheme == "gather":
            total = self._own(self.outputs)
        else:
            return (self.weight.local_shape[0],)
        return tuple(
            len(shard(total, self.across.size, place)) for place in range(self.across.size)
        )

    @cached_property
    def weight(self) -> Block:
        """The block of the weight ``(outputs, inputs)`` that this rank holds."""
        shape = (self.outputs.size, self.inputs.size)
        parts, place = self.across.size, self.across.index
        own_inputs = self.inputs.ranges(self.along.size, self.along.index)
        if self.scheme == "turn":
            return Block(shape, ((shard(self.outputs.size, parts, place),), own_inputs))
        if self.scheme == "fold":
            own_outputs = self.outputs.ranges(self.along.size, self.along.index)
            return Block(shape, (own_outputs, (shard(self.inputs.size, parts, place),)))
        if self.scheme == "reduce":
            rows = _in_order_of_ranks(self.outputs, self.along.size)
            part = shard(self.outputs.size, parts, place)
            return Block(shape, (_elements(rows, part), own_inputs))
        rows = self.outputs.ranges(self.along.size, self.along.index)
        part = shard(sum(map(len, rows)), parts, place)
        return Block(
            shape, (_elements(rows, part), _in_order_of_ranks(self.inputs, self.along.size))
        )

    @cached_property
    def bias(self) -> Block:
        """The part of the bias ``(outputs,)`` that this rank adds."""
        if self.scheme == "turn":
            hidden = shard(self.outputs.size, self.across.size, self.across.index)
            part = shard(len(hidden), self.along.size, self.along.index)
            return Block((self.outputs.size,), ((hidden[part.start : part.stop],),))
        ranges = self.outputs.ranges(self.along.size, self.along.index)
        return Block((self.outputs.size,), (ranges,))

    @property
    def bias_axes(self) -> tuple[Axis, ...]:
        """Axes whose ranks hold the same part of the bias, each seeing a part of its gradient."""
        return () if self.scheme == "turn" else (self.across,)

    def _side(self, axis: Axis, features: tuple[int, ...], rows: tuple[int, ...]) -> Side:
        return Side(axis, features, rows, features_first=self.features_first)

    def _side_by_rows(self, features: int) -> Side:
        """What has the same features, of other rows, on each rank across."""
        return Side(
            self.across,
            (features,) * self.across.size,
            self.rows.sizes(self.across.size),
            by_rows=True,
            features_first=self.features_first,
        )

    @property
    def _own_rows(self) -> int:
        return self.rows.sizes(self.across.size)[self.across.index]

    def _own(self, features: Dimension) -> int:
        return features.sizes(self.along.size)[self.along.index]

    def _turned(self, hidden: Dimension) -> tuple[int, ...]:
        own = len(shard(hidden.size, self.across.size, self.across.index))
        return tuple(len(shard(own, self.along.size, place)) for place in range(self.along.size))


def _alone(axis: Axis) -> Axis:
    """The axis of this rank and no other, over which nothing moves."""
    return replace(axis, ranks=(axis.ranks[axis.index],), index=0, group=None)


def _in_order_of_ranks(features: Dimension, parts: int) -> tuple[range, ...]:
    """All features, in the order in which the parts of all ranks lie end to end."""
    return tuple(piece for place in range(parts) for piece in features.ranges(parts, place))


def _elements(ranges: tuple[range, ...], part: range) -> tuple[range, ...]:
    """Some of the elements of ranges that are laid end to end; neighbours as one range."""
    merged: list[range] = []
    for piece, here in zip(ranges, offsets([len(piece) for piece in ranges]), strict=True):
        kept = piece[max(part.start - here.start, 0) : max(part.stop - here.start, 0)]
        if not kept:
            continue
        if merged and merged[-1].stop == kept.start:
            merged[-1] = range(merged[-1].start, kept.stop)
        else:
            merged.append(kept)
    return tuple(merged) or (range(0),)


def num_pieces(products: Sequence[Product], *, samples: int, element_bytes: int) -> int:
    """Into how many pieces the columns of a product, or of two in a row, are cut.

    Every rank has to cut alike, so this depends on global sizes alone.
    """
    if len(products) == 1 and products[0].moves_rows:
        return 1
    largest = max(product.largest_message for product in products) * samples
    along = products[0].along
    return _pieces_of(largest * along.bytes_of(element_bytes), along)


def _pieces_of(num_bytes: int, axis: Axis) -> int:
    """Into how many pieces a message is cut, so that most of it travels beside other work.

    While one piece travels the next is computed, and what is left to wait for is the last, ``1 /
    n`` of the time; but each of the ``n`` has a cost of its own. The sum is least at the root of
    the ratio of both. Where the processors that compute also carry the bytes, nothing is hidden.
    """
    if not axis.has_link:
        return 1
    return max(1, min(_MOST_PIECES, round(math.sqrt(num_bytes / _BYTES_OF_A_CALL))))
