"""States on a grid turned any way are the same at the same coordinates."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from weathermixer.config import Data
from weathermixer.data.archives.arranging import ArrangedStates
from weathermixer.data.grid import Grid
from weathermixer.data.making.preparation import prepare
from weathermixer.data.opening import open_states, open_states_on
from weathermixer.data.states import States
from weathermixer.errors import UserError

Archive = Callable[..., xr.Dataset]

VARIABLES = ("temperature", "2m_temperature")
CHANNELS = ("temperature_850", "2m_temperature")
SETTINGS: dict[str, Any] = {
    "variables": list(VARIABLES), "levels": [850, 500], "static": ["land_sea_mask"],
}  # fmt: skip

parts = st.integers(0, 15).flatmap(
    lambda start: st.integers(start + 1, 16).map(lambda stop: slice(start, stop))
)
grids = st.tuples(
    st.integers(0, 15), st.booleans(), st.booleans(), st.sampled_from([0.0, -180.0, 90.0])
)


@pytest.fixture(scope="module")
def dataset() -> xr.Dataset:
    from data.conftest import make_archive

    return make_archive(times=3, variables=VARIABLES, static=("land_sea_mask",))


@pytest.fixture(scope="module", params=["archive", "file", "store"])
def states(
    request: pytest.FixtureRequest, dataset: xr.Dataset, tmp_path_factory: pytest.TempPathFactory
) -> States:
    """The same states, kept in three ways."""
    folder = tmp_path_factory.mktemp("states")
    dataset.chunk(longitude=5, time=2).to_zarr(folder / "a.zarr", zarr_format=2)
    source: Path = folder / "a.zarr"
    if request.param == "file":
        source = folder / "a.nc"
        dataset.isel(latitude=slice(None, None, -1)).to_netcdf(source)
    elif request.param == "store":
        source = Path(prepare(folder / "s.zarr", [str(source)], climatology=False).path)
    grid = Grid(dataset.latitude.values, dataset.longitude.values)
    return open_states_on(source, Data(store=source, **SETTINGS), grid)


def turned(dataset: xr.Dataset, start: int, north: bool, west: bool, lowest: float) -> Grid:
    """The data set's grid from another longitude, in another direction."""
    columns = np.roll(dataset.longitude.values, start)
    columns = (columns - lowest) % 360.0 + lowest
    rows = dataset.latitude.values
    return Grid(rows[::-1] if north else rows, columns[::-1] if west else columns)


@given(change=grids, part=parts, index=st.integers(0, 2))
@settings(max_examples=60)
def test_any_part_on_any_grid_is_what_is_at_its_coordinates(
    states: States, dataset: xr.Dataset, change: Any, part: slice, index: int
) -> None:
    grid = turned(dataset, *change)
    arranged = ArrangedStates.on(grid, states)
    np.testing.assert_array_equal(arranged.latitude, grid.latitude)
    np.testing.assert_array_equal(arranged.longitude % 360.0, grid.longitude % 360.0)
    read = arranged.read(index, arranged.channel_indices(CHANNELS), part)
    there = dataset.isel(time=index).sel(
        latitude=grid.latitude, longitude=grid.longitude[part] % 360.0
    )
    np.testing.assert_array_equal(read[0], there.temperature.sel(level=850))
    np.testing.assert_array_equal(read[1], there["2m_temperature"])
    static = arranged.read_static(["land_sea_mask"])[0]
    whole = dataset.land_sea_mask.sel(latitude=grid.latitude, longitude=grid.longitude % 360.0)
    np.testing.assert_array_equal(static, whole)
    cost = arranged.reading_cost(arranged.channel_indices(CHANNELS), part)
    assert cost.wanted_bytes == read.nbytes
    assert cost.amplification >= 1.0


def test_states_on_their_own_grid_are_themselves(states: States, dataset: xr.Dataset) -> None:
    grid = Grid(states.latitude, states.longitude)
    assert ArrangedStates.on(grid, states) is states


def test_another_grid_is_refused(states: States) -> None:
    coarse = Grid(states.latitude[::2], states.longitude[::2])
    with pytest.raises(UserError, match=r"is on another grid .* than the network was trained on"):
        ArrangedStates.on(coarse, states)


def test_remarks_are_those_of_what_is_arranged(dataset: xr.Dataset, tmp_path: Path) -> None:
    source = tmp_path / "a.zarr"
    dataset.assign(tp=dataset["2m_temperature"]).to_zarr(source, zarr_format=2)
    opened = partial(open_states, source, Data(store=source, **SETTINGS))
    expected = (f"{source}: left out tp (WeatherMixer does not use it)",)
    assert opened().remarks == expected
    grid = turned(dataset, 3, True, False, 0.0)
    assert ArrangedStates.on(grid, opened()).remarks == expected
    store = prepare(tmp_path / "s.zarr", [str(source)], climatology=False)
    assert store.remarks == ()
