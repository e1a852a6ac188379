"""What is at a path or address is found out by looking."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from support.waves import CHANNELS, state, write_waves
from support.weatherbench import as_dataset, write_archive
from weathermixer.config import Data
from weathermixer.data.archives.direct import DirectStates
from weathermixer.data.opening import open_states
from weathermixer.data.store.store import Store
from weathermixer.errors import UserError


@pytest.fixture
def waves(tmp_path: Path) -> Store:
    return Store.open(write_waves(tmp_path / "waves.zarr", times=8))


def test_a_prepared_store_is_opened_as_one(waves: Store) -> None:
    found = open_states(waves.path, Data(store=waves.path))
    assert isinstance(found, Store)
    assert found.path == waves.path


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_an_archive_is_found_at_a_path_and_at_an_address(
    waves: Store, tmp_path: Path, served: str, zarr_format: int
) -> None:
    path = write_archive(as_dataset(waves), tmp_path / "archive.zarr", zarr_format=zarr_format)
    for source in (path, f"{served}/archive.zarr"):
        data = Data(store=source, levels=(850,))
        found = open_states(data.store, data)
        assert isinstance(found, DirectStates)
        wanted = found.channel_indices(CHANNELS)
        np.testing.assert_array_equal(found.read(3, wanted, slice(2, 9)), state(3)[:, :, 2:9])


def test_an_address_outlives_the_configuration() -> None:
    address = "gs://weatherbench2/datasets/era5/era5.zarr"
    data = Data(store=address)
    assert data.store == address
    assert Data.model_validate(data.model_dump(mode="json")) == data
    assert Data(store="some/store.zarr").store == Path("some/store.zarr")


def test_what_is_neither_is_refused_in_a_sentence(waves: Store, tmp_path: Path) -> None:
    def refused(source: str | Path, **settings: str) -> str:
        with pytest.raises(UserError) as error:
            open_states(source, Data(store=source, **settings))
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "there is no store at" in refused(tmp_path / "absent.zarr")
    assert "correct the address" in refused("nonsense://bucket/archive.zarr")
    (tmp_path / "empty").mkdir()
    assert "cannot be opened as Zarr" in refused(tmp_path / "empty")
    archive = write_archive(as_dataset(waves), tmp_path / "archive.zarr")
    assert "reads prepared stores alone" in refused(archive, reader="tensorstore")
    Path(waves.path).rename(tmp_path / "waves.zarr.partial")
    assert "only half prepared" in refused(tmp_path / "waves.zarr")
    assert "only half prepared" in refused(tmp_path / "waves.zarr.partial")
