"""``data inspect`` says of an archive what can be used, and what is left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from weathermixer.data.archives.overview import ArchiveOverview
from weathermixer.data.making.preparation import prepare
from weathermixer.data.opening import inspect
from weathermixer.data.store.inspection import Inspection
from weathermixer.errors import UserError

Archive = Callable[..., xr.Dataset]
Saved = Callable[..., str]


def test_an_archive_is_looked_over(archive: Archive, saved: Saved) -> None:
    dataset = archive(times=10, latitude=np.linspace(90, -90, 9), levels=(500, 850, 1000))
    dataset = dataset.assign_coords(level=("level", [500, 850, 999], {"units": "hPa"}))
    dataset = dataset.assign(tp=dataset["2m_temperature"]).isel(time=[0, 1, 2, 3, 4, 7, 8, 9])
    for name in dataset.data_vars:
        dataset[name].values[-1] = np.nan
    source = saved(dataset, "a.nc")
    overview = inspect(source)
    assert isinstance(overview, ArchiveOverview)
    assert overview.grid == (8, 16)
    assert overview.num_times == 7
    assert overview.usual_spacing_hours == 6.0
    assert [gap.hours for gap in overview.gaps] == [18.0]
    assert overview.channels[:3] == ("geopotential_500", "geopotential_850", "geopotential_999")
    assert overview.damaged is None
    text = overview.render().splitlines()
    assert text[0] == source
    assert "8 × 16, latitude 90 to -67.5, longitude 0 to 337.5 (without latitude -90)" in text[1]
    assert "geopotential, temperature at 500, 850, 999 hPa; 2m_temperature" in text[4]
    # A NetCDF file's fields are read whole, nine rows of them for eight.
    assert overview.amplification == {2: 2.25, 8: 9.0}
    assert "each fetches 2.25 times its share with 2, 9 times its share with 8" in text[6]
    assert text[-2] == f"{source}: left out tp (WeatherMixer does not use it)"
    assert text[-1] == f"{source}: times after 2020-01-03T00:00:00 hold nothing and are left out"
    assert overview.to_json()["num_times"] == 7


def test_the_damaged_states_of_an_archive_are_named(archive: Archive, saved: Saved) -> None:
    dataset = archive(times=4, variables=("2m_temperature",))
    source = saved(dataset.chunk(time=1), "a.zarr")
    assert "every state and static field was read" in inspect(source, full=True).render()
    (Path(source) / "2m_temperature" / "2.0.0").unlink()
    (damaged,) = inspect(source, full=True).damaged or ()
    assert "2m_temperature at 2020-01-01T12:00:00 was never written" in damaged


def test_a_part_of_the_globe_is_looked_over_too(archive: Archive, saved: Saved) -> None:
    region = archive(times=2).isel(longitude=slice(2, 6), latitude=slice(1, 4))
    assert inspect(saved(region, "region.nc")).grid == (3, 4)


def test_what_is_there_decides(archive: Archive, saved: Saved, tmp_path: Path) -> None:
    source = saved(archive(times=3), "a.zarr")
    store = prepare(tmp_path / "s.zarr", [source], climatology=False)
    assert isinstance(inspect(str(store.path)), Inspection)
    assert isinstance(inspect(f"file://{store.path}"), Inspection)
    assert isinstance(inspect(f"file://{source}"), ArchiveOverview)
    with pytest.raises(UserError, match="there is no store at"):
        inspect(str(tmp_path / "nothing.zarr"))
