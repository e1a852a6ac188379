"""The store: whole or absent, exact, read in parts, and honest about damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from weathermixer.config import Reader
from weathermixer.data.partial_files import partial_path
from weathermixer.data.store.store import Store
from weathermixer.data.store.store_description import StoreDescription
from weathermixer.data.store.store_writer import TIMES_PER_BLOCK, StoreWriter
from weathermixer.errors import UserError

CHANNELS = ("temperature_500", "temperature_850", "2m_temperature", "mean_sea_level_pressure")
LATITUDE, LONGITUDE = np.linspace(75, -75, 6), np.arange(8.0) * 45.0
HOUR = np.timedelta64(1, "h")
TIMES = np.datetime64("2020-01-01", "s") + np.arange(40) * 6 * HOUR


def describe(times: Any = TIMES, **changes: Any) -> StoreDescription:
    settings = {"step_hours": 6.0, **changes}
    return StoreDescription(CHANNELS, times, LATITUDE, LONGITUDE, **settings)


def states(times: Any = TIMES) -> np.ndarray:
    random = np.random.default_rng(0)
    shape = (len(times), len(CHANNELS), len(LATITUDE), len(LONGITUDE))
    return random.standard_normal(shape).astype(np.float32)


def write(path: Path, description: StoreDescription, values: np.ndarray) -> StoreWriter:
    writer = StoreWriter.create(path, description)
    for block in writer.missing_blocks():
        assert list(writer.write_block(block, lambda index: values[index])) == list(block)
    return writer


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    static = np.arange(48, dtype=np.float32).reshape(1, 6, 8) / 48
    path = tmp_path_factory.mktemp("stores") / "store.zarr"
    description = describe(static_channels=("land_sea_mask",), static=static)
    write(path, description, states()).finish((TIMES[0], TIMES[31]))
    return Store.open(path)


def test_everything_written_is_read_back(store: Store) -> None:
    assert store.channels == CHANNELS
    assert store.grid == (6, 8)
    np.testing.assert_array_equal(store.times, TIMES)
    np.testing.assert_array_equal(store.latitude, LATITUDE)
    np.testing.assert_array_equal(store.longitude, LONGITUDE)
    assert store.step == 6 * HOUR
    assert store.training_period == (TIMES[0], TIMES[31])
    for index in (0, 15, 16, 39):
        np.testing.assert_array_equal(store.read(index), states()[index])


@given(
    st.integers(0, 39),
    st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True),
    st.integers(0, 7),
    st.integers(1, 8),
)
@settings(max_examples=20)
def test_any_part_reads_as_the_same_part_of_the_whole(
    store: Store, index: int, channels: list[int], start: int, width: int
) -> None:
    longitudes = slice(start, min(start + width, 8))
    part = store.read(index, channels, longitudes)
    np.testing.assert_array_equal(part, states()[index][channels][:, :, longitudes])


def test_neighbouring_channels_are_a_slice_and_others_a_list(store: Store) -> None:
    assert store.channel_indices(CHANNELS[1:3]) == slice(1, 3)
    assert store.channel_indices([CHANNELS[2], CHANNELS[0]]) == [2, 0]
    with pytest.raises(UserError, match=r"lacks temperature_300: it holds temperature_500"):
        store.channel_indices(["temperature_300"])


def test_static_fields_come_under_their_names(store: Store) -> None:
    assert store.read_static(["land_sea_mask"]).shape == (1, 6, 8)
    assert store.read_static([]).shape == (0, 6, 8)
    with pytest.raises(UserError, match="lacks the static fields soil_type"):
        store.read_static(["soil_type"])


def test_absent_time_names_the_nearest(store: Store) -> None:
    assert store.index_of(np.datetime64("2020-01-02T06")) == 5
    for asked, nearest in (("2020-01-02T05", "2020-01-02T06"), ("2031-01-01", "2020-01-10T18")):
        with pytest.raises(UserError, match=f"the nearest is {nearest}"):
            store.index_of(np.datetime64(asked))


def test_store_is_absent_until_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "store.zarr"
    with pytest.raises(UserError, match="there is no store at"):
        Store.open(path)
    writer = StoreWriter.create(path, describe())
    first, *others = writer.missing_blocks()
    for _ in writer.write_block(first, lambda index: states()[index]):
        pass
    with pytest.raises(UserError, match=r"only half prepared \(found store.zarr.partial\)"):
        Store.open(path)
    with pytest.raises(UserError, match="only half prepared"):
        Store.open(partial_path(path))
    with pytest.raises(UserError, match=r"lacks 2 of 3 blocks: run the same command again"):
        writer.finish((TIMES[0], TIMES[-1]))
    again = StoreWriter.create(path, describe())
    assert again.missing_blocks() == others
    for block in others:
        for _ in again.write_block(block, lambda index: states()[index]):
            pass
    again.finish((TIMES[0], TIMES[-1]))
    assert Store.open(path).statistics.std.shape == (4,)
    assert not partial_path(path).exists()


def test_store_killed_before_it_was_described_is_begun_anew(tmp_path: Path) -> None:
    torn = partial_path(tmp_path / "store.zarr")
    torn.mkdir()
    (torn / "zarr.json").write_text("{")
    writer = StoreWriter.create(tmp_path / "store.zarr", describe())
    assert len(writer.missing_blocks()) == 3


def test_files_that_a_kill_left_half_written_are_cleared_away(tmp_path: Path) -> None:
    path = tmp_path / "store.zarr"
    StoreWriter.create(path, describe())
    torn = partial_path(path) / "state" / "c" / "0" / "0.5d3f.partial"
    torn.parent.mkdir(parents=True)
    torn.write_bytes(b"half")
    write(path, describe(), states()).finish((TIMES[0], TIMES[-1]))
    assert not list(path.rglob("*.partial"))


@pytest.mark.parametrize("step_hours", [6.0, 18.0, 24.0 * 7])
def test_states_are_read_no_oftener_than_needed(tmp_path: Path, step_hours: float) -> None:
    values = states()
    reads: list[int] = []
    writer = StoreWriter.create(tmp_path / "store.zarr", describe(step_hours=step_hours))
    steps = int(step_hours // 6)
    for block in writer.missing_blocks():
        reads.clear()

        def read(index: int) -> np.ndarray:
            reads.append(index)
            return values[index]

        list(writer.write_block(block, read))
        earlier = [i - steps for i in block if 0 <= i - steps < block.start]
        assert sorted(reads) == sorted([*block, *earlier])


def test_increments_across_blocks_are_those_within(tmp_path: Path) -> None:
    writer = write(tmp_path / "store.zarr", describe(), states())
    moments = writer.partial_store().array("moments")
    assert np.isnan(moments[0, 2:]).all()
    assert np.isfinite(moments[1:]).all()
    assert np.isfinite(moments[TIMES_PER_BLOCK, 2:]).all()


def test_uneven_times_have_increments_only_where_exact(tmp_path: Path) -> None:
    times = TIMES[0] + np.array([0, 6, 13, 19, 20, 26]) * HOUR
    writer = write(tmp_path / "store.zarr", describe(times), states(times))
    moments = writer.partial_store().array("moments")
    assert np.isfinite(moments[:, 2, 0]).tolist() == [False, True, False, True, False, True]


@pytest.fixture(params=["zarr", "tensorstore"])
def reader(request: pytest.FixtureRequest) -> Reader:
    """Each library that reads states."""
    if request.param == "tensorstore":
        pytest.importorskip("tensorstore", reason="the package tensorstore is not installed")
    return request.param


def damaged(tmp_path: Path) -> tuple[Path, Path]:
    """A store, and the file of its fifth state."""
    path = tmp_path / "store.zarr"
    write(path, describe(), states()).finish((TIMES[0], TIMES[31]))
    (file,) = [file for file in (path / "state" / "c" / "4").rglob("*") if file.is_file()]
    return path, file


@pytest.mark.parametrize("damage", ["cut", "flip", "remove", "empty"])
def test_damaged_state_is_named_with_its_time_and_others_stay_readable(
    tmp_path: Path, damage: str, reader: Reader
) -> None:
    path, file = damaged(tmp_path)
    content = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    else:
        content[len(content) // 3] ^= 0x10
        contents = {"cut": bytes(content[:200]), "flip": bytes(content), "empty": b""}
        file.write_bytes(contents[damage])
    store = Store.open(path, reader=reader)
    with pytest.raises(
        UserError, match=r"the state at 2020-01-02T00:00:00 .*prepare the store again$"
    ) as refused:
        store.read(4)
    assert "\n" not in str(refused.value)
    np.testing.assert_array_equal(store.read(5), states()[5])


def test_a_missing_chunk_is_named_by_the_first_channel_that_was_asked_for(
    tmp_path: Path, reader: Reader
) -> None:
    path, file = damaged(tmp_path)
    file.unlink()
    store = Store.open(path, reader=reader)
    with pytest.raises(UserError, match=f"missing chunks or NaN, first in {CHANNELS[2]}:"):
        store.read(4, slice(2, 4))
    with pytest.raises(UserError, match=f"missing chunks or NaN, first in {CHANNELS[3]}:"):
        store.read(4, [3, 0])


def test_no_flipped_bit_is_taken_for_weather(tmp_path: Path, reader: Reader) -> None:
    path, file = damaged(tmp_path)
    store = Store.open(path, reader=reader)
    content = file.read_bytes()
    for at in np.random.default_rng(0).integers(0, len(content), size=60):
        flipped = bytearray(content)
        flipped[at] ^= 1 << (at % 8)
        file.write_bytes(flipped)
        with pytest.raises(UserError, match="the state at 2020-01-02T00"):
            store.read(4)
    file.write_bytes(content)
    np.testing.assert_array_equal(store.read(4), states()[4])


def test_something_else_is_not_taken_for_a_store(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(UserError, match="is not a WeatherMixer store of format 1"):
        Store.open(tmp_path / "other.zarr")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot be opened as a Zarr group"):
        Store.open(tmp_path / "folder")


def test_unknown_channel_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="channel 'rain'"):
        StoreWriter.create(
            tmp_path / "store.zarr", StoreDescription(("rain",), TIMES, LATITUDE, LONGITUDE, 6.0)
        )
