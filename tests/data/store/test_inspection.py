"""Inspecting a store says what is in it, and what is damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from weathermixer.data.making.preparation import prepare
from weathermixer.data.making.synthetic import write_synthetic
from weathermixer.data.partial_files import partial_path
from weathermixer.data.store.inspection import inspect_store
from weathermixer.errors import UserError

Archive = Callable[..., xr.Dataset]
Saved = Callable[..., str]


def test_says_what_a_store_holds(tmp_path: Path) -> None:
    store = write_synthetic(tmp_path / "a.zarr", times=10, grid=(9, 16), levels=(500, 850))
    found = inspect_store(store.path)
    assert found.grid == (8, 16)
    assert found.dropped_row == "latitude -90"
    assert (found.num_times, found.step_hours, found.step_pairs) == (10, 6.0, 9)
    assert (found.first_time, found.last_time) == ("2000-01-01T00:00:00", "2000-01-03T06:00:00")
    assert found.usual_spacing_hours == 6.0
    assert found.gaps == ()
    assert found.training_period == ("2000-01-01T00:00:00", "2000-01-02T18:00:00")
    assert found.static_channels == store.static_channels
    assert found.climatology == {"hours": 1, "days": 1}
    assert found.damaged is None
    names = [channel.name for channel in found.channels]
    assert tuple(names) == store.channels
    temperature = found.channels[names.index("temperature_500")]
    assert temperature.units == "K"
    assert temperature.mean == store.statistics.mean[names.index("temperature_500")]
    assert (temperature.typical_mean, temperature.typical_std) == (253, 13)
    assert found.bytes_on_disk == sum(
        file.stat().st_size for file in (tmp_path / "a.zarr").rglob("*") if file.is_file()
    )


def test_page_and_json_tell_the_same(tmp_path: Path) -> None:
    store = write_synthetic(tmp_path / "a.zarr", times=10, grid=(9, 16), levels=(500,))
    found = inspect_store(store.path, full=True)
    page = found.render()
    for words in (
        "8 × 16",
        "latitude 90 to -67.5",
        "without latitude -90",
        "9 pairs exactly 6 h",
        "temperature_500",
        "every state, static field and climatology was read",
    ):
        assert words in page
    assert json.loads(json.dumps(found.to_json()))["step_pairs"] == 9


def test_gaps_are_found(archive: Archive, saved: Saved, tmp_path: Path) -> None:
    kept = [0, 1, 2, 4, 5, 9, 10, 11]
    source = saved(archive(times=12).isel(time=kept), "gaps.zarr")
    found = inspect_store(prepare(tmp_path / "store.zarr", [source]).path)
    assert [gap.hours for gap in found.gaps] == [12.0, 24.0]
    assert found.step_pairs == 5
    assert "2: 24 h after 2020-01-02T06:00:00, 12 h after 2020-01-01T12:00:00" in found.render()


def test_single_time_has_no_statistics_to_show(
    archive: Archive, saved: Saved, tmp_path: Path
) -> None:
    source = saved(archive(times=1), "now.nc")
    found = inspect_store(prepare(tmp_path / "store.zarr", [source]).path)
    assert found.training_period is None
    assert found.channels[0].mean is None
    assert "none: a single time" in found.render()


def test_full_reading_names_every_damaged_part(tmp_path: Path) -> None:
    store = write_synthetic(tmp_path / "a.zarr", times=6, grid=(8, 16), levels=(500,))
    files = {
        int(file.relative_to(store.path).parts[2]): file
        for file in (tmp_path / "a.zarr" / "state" / "c").rglob("*")
        if file.is_file()
    }
    files[1].write_bytes(files[1].read_bytes()[:100])
    flipped = bytearray(files[3].read_bytes())
    flipped[len(flipped) // 2] ^= 0xFF
    files[3].write_bytes(flipped)
    files[4].unlink()
    reported: list[tuple[int, int]] = []
    found = inspect_store(
        store.path, full=True, progress=lambda done, total: reported.append((done, total))
    )
    assert found.damaged is not None
    named = [time for time in map(str, store.times) if any(time in said for said in found.damaged)]
    assert named == [str(store.times[1]), str(store.times[3]), str(store.times[4])]
    assert "3 damaged" in found.render()
    assert reported[-1][0] == reported[-1][1]


def test_half_prepared_and_absent_stores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no store at"):
        inspect_store(tmp_path / "absent.zarr")
    partial_path(tmp_path / "half.zarr").mkdir()
    with pytest.raises(UserError, match="only half prepared"):
        inspect_store(tmp_path / "half.zarr")


def test_real_sample_has_seventeen_exact_pairs(test_data: Path, tmp_path: Path) -> None:
    source = str(test_data / "era5_surface_1deg.zarr")
    found = inspect_store(prepare(tmp_path / "store.zarr", [source], step_hours=7).path, full=True)
    assert found.step_pairs == 17
    assert found.usual_spacing_hours == 7.0
    assert [gap.hours for gap in found.gaps] == [8.0] * len(found.gaps)
    assert found.damaged == ()
    # Early spring, area-weighted: within a few kelvin and pascal of the yearly means.
    by_name = {channel.name: channel for channel in found.channels}
    mean = by_name["2m_temperature"].mean
    assert mean is not None
    assert np.isclose(mean, 287, atol=3)


def test_real_snapshot_is_inspected(test_data: Path, tmp_path: Path) -> None:
    source = str(test_data / "era5_64x32_19590102T00.nc")
    found = inspect_store(prepare(tmp_path / "store.zarr", [source]).path, full=True)
    assert (found.grid, found.num_times, len(found.channels)) == ((32, 64), 1, 65)
    assert found.damaged == ()
