"""What stores and archives have in common."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from support.waves import write_waves
from support.weatherbench import as_dataset, write_archive
from weathermixer.config import Data
from weathermixer.data.making.preparation import prepare
from weathermixer.data.opening import open_states
from weathermixer.data.states import States
from weathermixer.data.store.store import Store
from weathermixer.errors import UserError


@pytest.fixture(params=["store", "archive"])
def states(request: pytest.FixtureRequest, tmp_path: Path) -> States:
    """Eight states of the first two days of 2001."""
    waves = write_waves(tmp_path / "waves.zarr", times=8)
    if request.param == "archive":
        waves = Path(write_archive(as_dataset(Store.open(waves)), tmp_path / "archive.zarr"))
    return open_states(waves, Data(store=waves, levels=(850,)))


def test_an_absent_time_names_the_nearest(states: States) -> None:
    assert states.index_of(np.datetime64("2001-01-01T18")) == 3
    for asked, nearest in (("2001-01-01T20", "2001-01-01T18"), ("2031-01-01", "2001-01-02T18")):
        with pytest.raises(UserError, match=f"no state at {asked}.*; the nearest is {nearest}"):
            states.index_of(np.datetime64(asked))


def test_an_absent_channel_or_static_field_is_named(states: States) -> None:
    with pytest.raises(UserError, match=r"zarr lacks temperature_300"):
        states.channel_indices(["temperature_850", "temperature_300"])
    with pytest.raises(UserError, match="lacks the static fields soil_type"):
        states.read_static(["soil_type"])


def test_a_state_costs_at_least_its_own_bytes(states: States) -> None:
    cost = states.reading_cost(slice(0, 1), slice(0, 4))
    assert cost.wanted_bytes == 4 * 8 * 4
    assert cost.touched_bytes >= cost.wanted_bytes


def test_a_store_of_a_single_time_has_a_fingerprint_though_no_statistics(tmp_path: Path) -> None:
    """Forecasts may start from it."""
    dataset = as_dataset(Store.open(write_waves(tmp_path / "waves.zarr", times=8)))
    del dataset["land_sea_mask"]
    found = set()
    for time in (2, 3):
        source = write_archive(dataset.isel(time=[time]), tmp_path / f"{time}.zarr")
        store = prepare(tmp_path / f"store-{time}.zarr", [source])
        assert not store.has_statistics
        found.add(store.fingerprint())
    assert len(found) == 2
