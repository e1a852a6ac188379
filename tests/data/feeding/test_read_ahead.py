from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from support.waves import CHANNELS, state, write_waves
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.feeding.read_ahead import StateReader, read_ahead
from weathermixer.data.store.store import Store
from weathermixer.errors import UserError
from weathermixer.jigsaw.activity import ACTIVITY

STATE_BYTES = 2 * 8 * 16 * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_waves(tmp_path_factory.mktemp("store") / "s.zarr", times=20)


class CountingStore(Store):
    """A store that notes which states were read."""

    def read(self, index: int, *args: Any, **kwargs: Any) -> NDArray[np.float32]:
        reads.append(index)
        return super().read(index, *args, **kwargs)


reads: list[int] = []


def _reader(
    folder: Path, dtype: torch.dtype = torch.float64, memory_bytes: int = 0
) -> tuple[StateReader, Normalisation]:
    reads.clear()
    store = Store.open(folder)
    normalisation = Normalisation.from_store(
        store, CHANNELS[::-1], (), (store.times[0], store.times[-1])
    )
    counting = CountingStore(store.path, store.group)
    return (
        StateReader(counting, normalisation, dtype, num_states=20, memory_bytes=memory_bytes),
        normalisation,
    )


def _plan(count: int) -> list[NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 20, (2, 2 + number % 2)) for number in range(count)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("memory_bytes", [0, 5 * STATE_BYTES, 1 << 20])
def test_batches_are_the_normalised_states_of_the_plan_in_its_order(
    folder: Path, dtype: torch.dtype, memory_bytes: int
) -> None:
    reader, normalisation = _reader(folder, dtype, memory_bytes)
    plan = _plan(12)
    batches = list(read_ahead(reader, plan))
    assert len(batches) == 12
    for indices, batch in zip(plan, batches, strict=True):
        np.testing.assert_array_equal(batch.indices, indices)
        physical = np.stack([[state(index)[::-1] for index in row] for row in indices])
        expected = (physical - normalisation.mean[:, None, None]) / normalisation.std[:, None, None]
        assert batch.states.dtype == dtype
        tolerance = 1e-12 if dtype == torch.float64 else 1e-4
        np.testing.assert_allclose(batch.states.numpy(), expected, atol=tolerance)
        assert batch.bytes_read == indices.size * STATE_BYTES


def test_states_that_fit_in_memory_are_read_once(folder: Path) -> None:
    reader, _ = _reader(folder, memory_bytes=20 * STATE_BYTES)
    list(read_ahead(reader, _plan(30), threads=1))
    assert sorted(reads) == sorted(set(reads))


def test_memory_is_bounded_and_a_small_part_is_not_kept_at_all(folder: Path) -> None:
    wanted = [np.array([[index]]) for index in range(20)] * 2
    reader, _ = _reader(folder, memory_bytes=5 * STATE_BYTES)
    list(read_ahead(reader, wanted, threads=1))
    assert len(reads) == 20 + 15
    reader, _ = _reader(folder, memory_bytes=STATE_BYTES)  # less than a tenth
    list(read_ahead(reader, wanted, threads=1))
    assert len(reads) == 40


def test_no_more_is_read_ahead_than_was_asked_for(folder: Path) -> None:
    reader, _ = _reader(folder)
    asked: list[int] = []

    def plan() -> Iterator[NDArray[np.int64]]:
        for number in range(10):
            asked.append(number)
            yield np.array([[number]])

    with closing(read_ahead(reader, plan(), ahead=3)) as batches:
        next(batches)
        assert asked == [0, 1, 2, 3]
        next(batches)
        assert asked == [0, 1, 2, 3, 4]
    assert len(reads) <= 5


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "read-ahead" in thread.name]


def test_stopping_early_leaves_no_thread_behind(folder: Path) -> None:
    reader, _ = _reader(folder)
    with closing(read_ahead(reader, _plan(50))) as batches:
        next(batches)
        assert _threads()
    assert not _threads()
    with pytest.raises(RuntimeError, match="consumer"), closing(read_ahead(reader, _plan(9))) as b:
        for _ in b:
            raise RuntimeError("consumer")
    assert not _threads()


def test_a_damaged_state_is_reported_in_its_turn_and_ends_the_threads(tmp_path: Path) -> None:
    folder = write_waves(tmp_path / "s.zarr", times=20)
    shard = folder / "state" / "c" / "13"
    files = [path for path in shard.rglob("*") if path.is_file()]
    files[0].write_bytes(files[0].read_bytes()[:-40])
    reader, _ = _reader(folder)
    batches = read_ahead(reader, [np.array([[index]]) for index in (1, 2, 13, 4)])
    assert [next(batches).indices.item(), next(batches).indices.item()] == [1, 2]
    with pytest.raises(UserError, match="2001-01-04T06"):
        next(batches)
    assert not _threads()


def test_whoever_asks_is_told_which_state_is_waited_for(folder: Path) -> None:
    reader, _ = _reader(folder)
    goes_on, plain = threading.Event(), reader.fill

    def hanging(slot: NDArray[np.floating], index: int) -> int:
        if index == 7:
            goes_on.wait(20.0)
        return plain(slot, index)

    reader.fill = hanging  # type: ignore[method-assign]
    told: list[str] = []

    def ask() -> None:
        while not (now := ACTIVITY.now()).waits_alone_for.endswith("T18:00:00"):
            time.sleep(0.01)
        told.append(now.waits_alone_for)
        goes_on.set()

    asking = threading.Thread(target=ask)
    asking.start()
    with closing(read_ahead(reader, [np.array([[6, 7]]), np.array([[8, 9]])])) as batches:
        assert len(list(batches)) == 2
    asking.join(20.0)
    assert told == ["the store: state of 2001-01-02T18:00:00"]
    assert ACTIVITY.now().waits_alone_for == ""
