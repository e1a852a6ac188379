"""What ranks read of a state, as the operating system counts it, is their share."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.feeding.read_ahead import StateReader
from weathermixer.data.store.chunks import PlannedMeshes
from weathermixer.data.store.reading_cost import chunks_cost
from weathermixer.data.store.store import Store
from weathermixer.data.store.store_description import StoreDescription
from weathermixer.data.store.store_writer import StoreWriter
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.architecture import Architecture
from weathermixer.model.cuts import Part

PATCH = 8
LATITUDE = np.linspace(89.5, -89.5, 264)
LONGITUDE = np.arange(12.0 * PATCH) * (360.0 / (12 * PATCH))
LEVELS = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
TIMES = np.datetime64("2001-01-01", "s") + np.arange(4) * np.timedelta64(6, "h")


@st.composite
def parts_of_an_array(
    draw: st.DrawFn,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[slice | list[int], ...]]:
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    chunks = tuple(draw(st.integers(1, size)) for size in shape)
    wanted: list[slice | list[int]] = []
    for size in shape:
        if draw(st.booleans()):
            start = draw(st.integers(0, size - 1))
            wanted.append(slice(start, draw(st.integers(start + 1, size))))
        else:
            indices = st.lists(st.integers(0, size - 1), min_size=1, max_size=size, unique=True)
            wanted.append(draw(indices))
    return shape, chunks, tuple(wanted)


@given(parts_of_an_array())
def test_every_chunk_that_holds_a_wanted_element_counts_whole(
    case: tuple[tuple[int, ...], tuple[int, ...], tuple[slice | list[int], ...]],
) -> None:
    shape, chunks, wanted = case
    chosen = np.zeros(shape, dtype=bool)
    chosen[np.ix_(*(np.arange(size)[part] for size, part in zip(shape, wanted, strict=True)))] = 1
    number = np.zeros(shape, dtype=np.int64)
    for axis, (size, chunk) in enumerate(zip(shape, chunks, strict=True)):
        along = np.arange(size) // chunk
        number = number * 10 + along.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    touched = np.isin(number, np.unique(number[chosen]))
    cost = chunks_cost(shape, chunks, wanted)
    assert (cost.wanted_bytes, cost.touched_bytes) == (4 * chosen.sum(), 4 * touched.sum())


def noise_store(path: Path, planned: PlannedMeshes) -> Store:
    """States that hardly compress, so that bytes of storage are in proportion to values."""
    description = StoreDescription(
        channels=tuple(f"temperature_{level}" for level in LEVELS),
        times=TIMES,
        latitude=LATITUDE,
        longitude=LONGITUDE,
        step_hours=6.0,
        planned_meshes=planned,
    )
    writer = StoreWriter.create(path, description)
    rng = np.random.default_rng(0)

    def state(index: int) -> NDArray[np.float32]:
        shape = (len(LEVELS), len(LATITUDE), len(LONGITUDE))
        return rng.uniform(200.0, 300.0, shape).astype(np.float32)

    for block in writer.missing_blocks():
        for _ in writer.write_block(block, state):
            pass
    writer.finish((TIMES[0], TIMES[-1]))
    return Store.open(path)


def bytes_read_by_this_process() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's counters are Linux's")
@pytest.mark.parametrize(
    "planned", [PlannedMeshes(6, PATCH), PlannedMeshes((5, 1), PATCH)], ids=str
)
def test_each_rank_reads_its_share_by_its_own_count_and_the_kernels(
    tmp_path: Path, planned: PlannedMeshes
) -> None:
    store = noise_store(tmp_path / "s.zarr", planned)
    whole = Normalisation.from_store(store, store.channels, (), (TIMES[0], TIMES[-1]))
    architecture = Architecture(
        prognostic=len(LEVELS),
        static=0,
        grid=store.grid,
        patch=(PATCH, PATCH),
        channels=12,
        blocks=1,
        token_hidden=12,
        channel_hidden=12,
        dropout=0.0,
        prediction="increment",
    )
    files = [path for path in (Path(store.path) / "state" / "c").rglob("*") if path.is_file()]
    stored_bytes = sum(path.stat().st_size for path in files)
    assert len(files) == len(TIMES)
    store.read(0)  # what is read once: metadata, and modules of the decoder
    for domain, tensor in planned.meshes():
        for rank in range(domain * tensor):
            mesh = Mesh.describe(Layout(domain=domain, tensor=tensor, rank=rank))
            part = Part.on(mesh, architecture)
            reader = StateReader(
                store,
                part.of(whole),
                torch.float32,
                num_states=len(TIMES),
                longitudes=part.longitudes,
                memory_bytes=0,
            )
            own = part.of(whole)
            slot = np.empty((len(own.channels), *own.grid), dtype=np.float32)
            before = bytes_read_by_this_process()
            counted = sum(reader.fill(slot, index) for index in range(len(TIMES)))
            by_kernel = bytes_read_by_this_process() - before
            share = part.share(whole)
            assert counted == len(TIMES) * slot.nbytes
            assert 0.98 * share * stored_bytes <= by_kernel <= 1.02 * share * stored_bytes


def test_a_store_tells_what_a_part_of_it_costs(tmp_path: Path) -> None:
    store = noise_store(tmp_path / "s.zarr", PlannedMeshes((1, 2)))
    # Chunks of 7 channels by all longitudes, for ranks of 7 and 6 channels.
    assert store.reading_cost(slice(0, 7), slice(0, 96)).amplification == 1.0
    assert store.reading_cost(slice(0, 7), slice(0, 48)).amplification == 2.0
    assert store.reading_cost(slice(4, 9), slice(0, 96)).amplification == pytest.approx(13 / 5)
    assert store.reading_cost([0, 12], slice(0, 96)).amplification == pytest.approx(13 / 2)
