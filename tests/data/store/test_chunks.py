"""Chunks are as large as they can be while ranks read their share alone."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from weathermixer.config import Config
from weathermixer.data.making.preparation import prepare
from weathermixer.data.store.chunks import PlannedMeshes, choose_chunk
from weathermixer.jigsaw.layout import Dimension, shard

Archive = Callable[..., xr.Dataset]
Saved = Callable[..., str]


def touched(size: int, chunk: int, part: range) -> int:
    """Elements of all chunks that hold one of ``part``, counted one by one."""
    chunks = {element // chunk for element in part}
    return sum(element // chunk in chunks for element in range(size))


@given(
    channels=st.integers(1, 30),
    rows=st.integers(1, 400),
    columns=st.integers(1, 12),
    patch=st.integers(1, 4),
    ways=st.integers(1, 12),
)
def test_on_every_planned_mesh_no_rank_reads_over_two_percent_too_much(
    channels: int, rows: int, columns: int, patch: int, ways: int
) -> None:
    grid = (rows, columns * patch)
    chunk = choose_chunk(channels, grid, PlannedMeshes(ways, patch))
    for domain in (d for d in range(1, ways + 1) if ways % d == 0):
        for tensor in (t for t in range(1, ways // domain + 1) if ways // domain % t == 0):
            for i in range(domain):
                for j in range(tensor):
                    own_columns = Dimension((columns,), patch).ranges(domain, i)[0]
                    own_channels = shard(channels, tensor, j)
                    share = len(own_columns) * len(own_channels)
                    read = touched(channels, chunk[0], own_channels) * touched(
                        grid[1], chunk[1], own_columns
                    )
                    assert read <= Fraction(102, 100) * share


def test_a_single_mesh_needs_chunks_for_no_other() -> None:
    # Three ranks cut 69 channels into blocks of 23, and 16 columns of patches 6 : 5 : 5.
    assert choose_chunk(69, (32, 64), PlannedMeshes((1, 3), 4)) == (23, 64)
    assert choose_chunk(69, (32, 64), PlannedMeshes((3, 1), 4))[1] == 4


@pytest.mark.parametrize(
    ("grid", "ways"),
    [((720, 1440), 8), ((360, 720), 8), ((180, 360), 2), ((32, 64), 2)],
    ids=["a quarter of a degree", "half a degree", "one degree", "the planet"],
)
def test_without_a_plan_chunks_suit_as_many_ranks_as_their_size_allows(
    grid: tuple[int, int], ways: int
) -> None:
    channels, longitudes = choose_chunk(69, grid)
    assert 100_000 <= 4 * channels * grid[0] * longitudes <= 1_000_000
    for domain, tensor in PlannedMeshes(ways).meshes():
        for i in range(domain):
            part = shard(grid[1], domain, i)
            assert touched(grid[1], longitudes, part) == len(part)
        for j in range(tensor):
            part = shard(69, tensor, j)
            assert touched(69, channels, part) == len(part)


@given(st.integers(1, 100), st.integers(1, 1500), st.integers(1, 3000))
def test_without_a_plan_any_grid_has_chunks(channels: int, rows: int, columns: int) -> None:
    over_channels, over_columns = choose_chunk(channels, (rows, columns))
    assert 1 <= over_channels <= channels
    assert 1 <= over_columns <= columns


def test_chunks_are_made_for_the_ranks_that_are_planned(
    archive: Archive, saved: Saved, tmp_path: Path
) -> None:
    source = saved(archive(times=4), "wb2.zarr")
    store = prepare(tmp_path / "store.zarr", [source], ways=2)
    channels, longitudes = len(store.channels), store.grid[1]
    for cut in (channels // 2 + channels % 2, channels):
        assert store.reading_cost(slice(0, cut), slice(None)).amplification == 1.0
    assert store.reading_cost(slice(None), slice(0, longitudes // 2)).amplification == 1.0


def test_chunks_are_made_for_the_mesh_that_is_configured(
    archive: Archive, saved: Saved, tmp_path: Path
) -> None:
    source = saved(archive(times=4), "wb2.zarr")
    configured = Config.model_validate(
        {
            "data": {"store": "unused.zarr", "variables": ["2m_temperature"], "static": []},
            "parallel": {"domain": 2, "tensor": 1},
        }
    )
    store = prepare(tmp_path / "store.zarr", [source], config=configured)
    assert store.reading_cost(slice(None), slice(0, store.grid[1] // 2)).amplification == 1.0
