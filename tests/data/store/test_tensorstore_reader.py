"""Another library reads a store to the same bits; damage is in ``test_store.py``, for both."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.waves import state, write_waves
from weathermixer.config import Data
from weathermixer.data.opening import open_states
from weathermixer.data.store.store import Store
from weathermixer.errors import UserError

LEVELS = (300, 500, 850)
pytest.importorskip("tensorstore", reason="the package tensorstore is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_waves(tmp_path_factory.mktemp("store") / "s.zarr", times=12, levels=LEVELS)


@given(
    index=st.integers(0, 11),
    channels=st.one_of(
        st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True),
        st.integers(0, 3).map(lambda start: slice(start, 4)),
    ),
    longitudes=st.integers(0, 15).flatmap(
        lambda start: st.integers(start + 1, 16).map(lambda stop: slice(start, stop))
    ),
)
@settings(max_examples=40)
def test_any_part_is_bit_for_bit_what_was_written(
    folder: Path, index: int, channels: list[int] | slice, longitudes: slice
) -> None:
    part = Store.open(folder, reader="tensorstore").read(index, channels, longitudes)
    assert isinstance(part, np.ndarray)
    assert part.dtype == np.float32
    np.testing.assert_array_equal(part, state(index, channels=4)[channels][..., longitudes])
    np.testing.assert_array_equal(part, Store.open(folder).read(index, channels, longitudes))


def test_the_configuration_chooses_the_reader(folder: Path) -> None:
    for reader in ("zarr", "tensorstore"):
        store = open_states(folder, Data(store=folder, reader=reader))
        assert isinstance(store, Store)
        assert (store.tensorstore is not None) == (reader == "tensorstore")


def test_a_store_without_states_is_refused_at_once(tmp_path: Path) -> None:
    folder = write_waves(tmp_path / "s.zarr", times=8)
    (folder / "state" / "zarr.json").write_text("{")
    with pytest.raises(
        UserError, match=r"tensorstore cannot open .*state .*: copy or prepare"
    ) as e:
        Store.open(folder, reader="tensorstore")
    assert "\n" not in str(e.value)


def test_a_missing_package_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    with pytest.raises(UserError, match=r"pip install 'weathermixer\[tensorstore\]', or set"):
        Store.open(folder, reader="tensorstore")
