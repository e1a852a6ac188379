from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weathermixer.jigsaw import layout as module
from weathermixer.jigsaw.layout import Layout, LayoutError, shard


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


def test_a_rank_outside_the_mesh_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(LayoutError, match=r"data \(2\) × domain \(2\) × tensor \(2\) = 8 ranks"):
        Layout(2, 2, 2, rank=8)
    with pytest.raises(LayoutError, match="must each be at least 1"):
        Layout(domain=0)


def test_examples_in_the_documentation_hold() -> None:
    assert doctest.testmod(module).failed == 0
