from __future__ import annotations

import doctest
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weathermixer.jigsaw import layout as module
from weathermixer.jigsaw.layout import Block, Dimension, Layout, LayoutError, offsets, shard


@given(size=st.integers(0, 1000), parts=st.integers(1, 40))
def test_shards_cover_everything_once_in_order_and_differ_by_one_at_most(
    size: int, parts: int
) -> None:
    shards = [shard(size, parts, index) for index in range(parts)]
    assert [element for piece in shards for element in piece] == list(range(size))
    lengths = [len(piece) for piece in shards]
    assert max(lengths) - min(lengths) <= 1
    assert lengths == sorted(lengths, reverse=True)


@given(data=st.integers(1, 4), domain=st.integers(1, 4), tensor=st.integers(1, 4))
def test_every_place_on_the_mesh_has_one_rank(data: int, domain: int, tensor: int) -> None:
    world = data * domain * tensor
    places = {Layout(data, domain, tensor, rank).coordinates for rank in range(world)}
    assert len(places) == world
    assert max(places) == (data - 1, domain - 1, tensor - 1)


@given(data=st.integers(1, 4), domain=st.integers(1, 4), tensor=st.integers(1, 4), draw=st.data())
def test_a_line_along_an_axis_is_of_the_ranks_that_differ_in_it_alone(
    data: int, domain: int, tensor: int, draw: st.DataObject
) -> None:
    world = data * domain * tensor
    here = Layout(data, domain, tensor, draw.draw(st.integers(0, world - 1)))
    for axis in ("data", "domain", "tensor"):
        line = here.ranks_along(axis)
        elsewhere = here.coordinates._replace(**{axis: -1})
        expected = [
            rank
            for rank in range(world)
            if here.at(rank).coordinates._replace(**{axis: -1}) == elsewhere
        ]
        assert list(line) == expected
        assert line[getattr(here.coordinates, axis)] == here.rank


dimensions = st.builds(
    Dimension,
    st.lists(st.integers(0, 12), min_size=1, max_size=4).map(tuple),
    unit=st.integers(1, 5),
)


@given(dimension=dimensions, parts=st.integers(1, 6))
def test_parts_of_a_dimension_share_out_every_section_in_whole_units(
    dimension: Dimension, parts: int
) -> None:
    by_part = [dimension.ranges(parts, index) for index in range(parts)]
    start = 0
    for number, section in enumerate(dimension.sections):
        pieces = [ranges[number] for ranges in by_part]
        covered = [element for piece in pieces for element in piece]
        assert covered == list(range(start, start + section * dimension.unit))
        lengths = [len(piece) for piece in pieces]
        assert all(length % dimension.unit == 0 for length in lengths)
        assert max(lengths) - min(lengths) <= dimension.unit
        start += section * dimension.unit
    assert start == dimension.size
    assert dimension.sizes(parts) == tuple(
        sum(len(piece) for piece in ranges) for ranges in by_part
    )


@given(sizes=st.lists(st.integers(0, 9), max_size=8))
def test_offsets_lay_parts_end_to_end(sizes: list[int]) -> None:
    laid = offsets(sizes)
    assert [len(part) for part in laid] == sizes
    assert all(one.stop == other.start for one, other in pairwise(laid))
    assert not laid or laid[0].start == 0


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    cut = draw(st.lists(dimensions, min_size=1, max_size=3))
    ranges = []
    for dimension in cut:
        parts = draw(st.integers(1, 4))
        ranges.append(dimension.ranges(parts, draw(st.integers(0, parts - 1))))
    return Block(tuple(dimension.size for dimension in cut), tuple(ranges))


def elements(block: Block) -> np.ndarray:
    """Global indices of what a block holds, in the order in which it holds it."""
    numbered = np.arange(int(np.prod(block.shape))).reshape(block.shape)
    index = [[element for part in parts for element in part] for parts in block.ranges]
    return numbered[np.ix_(*[np.array(one, dtype=int) for one in index])]


@given(block=blocks())
def test_pieces_of_a_block_are_boxes_that_make_it_up(block: Block) -> None:
    numbered = np.arange(int(np.prod(block.shape))).reshape(block.shape)
    local = np.full(block.local_shape, -1)
    for start, here in block.pieces():
        where = tuple(slice(part.start, part.stop) for part in here)
        there = tuple(
            slice(first, first + len(part)) for first, part in zip(start, here, strict=True)
        )
        assert local[where].size > 0
        assert np.all(local[where] == -1), "held twice"
        local[where] = numbered[there]
    assert np.array_equal(local, elements(block))


@given(block=blocks(), draw=st.data())
def test_rows_of_a_block_are_a_block_of_those_rows(block: Block, draw: st.DataObject) -> None:
    size = block.local_shape[0]
    start = draw.draw(st.integers(0, size))
    stop = draw.draw(st.integers(start, size))
    part = block.rows(range(start, stop))
    assert part.shape == block.shape
    assert part.local_shape == (stop - start, *block.local_shape[1:])
    assert np.array_equal(elements(part), elements(block)[start:stop])


def test_an_axis_with_more_ranks_than_there_is_to_cut_is_refused_with_both_numbers() -> None:
    variables = Dimension((3, 1), unit=4)
    variables.require_parts(3, "variables", "tensor")
    with pytest.raises(LayoutError, match=r"tensor \(4\) is more than the 3 variables"):
        variables.require_parts(4, "variables", "tensor")


def test_a_rank_outside_the_mesh_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(LayoutError, match=r"data \(2\) × domain \(2\) × tensor \(2\) = 8 ranks"):
        Layout(2, 2, 2, rank=8)
    with pytest.raises(LayoutError, match="must each be at least 1"):
        Layout(domain=0)


def test_examples_in_the_documentation_hold() -> None:
    assert doctest.testmod(module).failed == 0
