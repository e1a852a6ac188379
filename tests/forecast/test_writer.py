from __future__ import annotations

import errno
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from weathermixer.errors import UserError
from weathermixer.forecast.forecast_description import ForecastDescription
from weathermixer.forecast.writer import ForecastWriter

CHANNELS = (
    "temperature_850",
    "temperature_500",
    "2m_temperature",
    "geopotential_500",
    "geopotential_850",
)
INITIAL_TIMES = np.array(["2020-01-01T00", "2020-01-03T06"], dtype="datetime64[s]")
LEADS = np.arange(1, 6) * np.timedelta64(6, "h").astype("timedelta64[s]")
DESCRIPTION = ForecastDescription(
    CHANNELS,
    INITIAL_TIMES,
    LEADS,
    np.linspace(90.0, -90.0, 3),
    np.arange(4.0) * 90.0,
    {"source": "a test"},
)
STATES = np.random.default_rng(0).normal(size=(2, 5, 5, 3, 4)).astype(np.float32)


def _steps(states: NDArray[np.float32] = STATES) -> Iterator[NDArray[np.float32]]:
    for lead in range(states.shape[1]):
        yield states[:, lead]


def _begin(path: Path, description: ForecastDescription) -> ForecastWriter:
    ForecastWriter.create(path, description)
    return ForecastWriter(path, description)


def _write(path: Path, description: ForecastDescription = DESCRIPTION) -> None:
    writer = _begin(path, description)
    assert list(writer.write([0, 1], _steps())) == [1, 2, 3, 4, 5]
    writer.mark_finished([0, 1])
    writer.finish()


def test_plain_xarray_opens_it_with_times_and_durations_decoded(tmp_path: Path) -> None:
    _write(tmp_path / "f.zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = xr.open_zarr(tmp_path / "f.zarr")
    np.testing.assert_array_equal(dataset.time, INITIAL_TIMES.astype("datetime64[ns]"))
    np.testing.assert_array_equal(dataset.prediction_timedelta, LEADS.astype("timedelta64[ns]"))
    valid = dataset.time + dataset.prediction_timedelta
    assert valid.values[1, 4] == np.datetime64("2020-01-04T12")
    assert dataset.level.values.tolist() == [500, 850]
    assert dataset["temperature"].dims == (
        "time",
        "prediction_timedelta",
        "level",
        "latitude",
        "longitude",
    )
    assert dataset["2m_temperature"].dims == (
        "time",
        "prediction_timedelta",
        "latitude",
        "longitude",
    )
    assert dataset["temperature"].attrs["units"] == "K"
    assert dataset["geopotential"].attrs["standard_name"] == "geopotential"
    assert dataset.attrs == {"Conventions": "CF-1.11", "source": "a test"}
    assert set(dataset.data_vars) == {"temperature", "2m_temperature", "geopotential"}


def test_fields_are_found_by_name_level_and_lead_time_without_renaming(tmp_path: Path) -> None:
    _write(tmp_path / "f.zarr")
    dataset = xr.open_zarr(tmp_path / "f.zarr")
    field = dataset["temperature"].sel(time="2020-01-03T06", prediction_timedelta="18h", level=500)
    np.testing.assert_array_equal(field, STATES[1, 2, CHANNELS.index("temperature_500")])
    nearest = dataset["2m_temperature"].sel(latitude=1.0, longitude=170.0, method="nearest")
    np.testing.assert_array_equal(nearest, STATES[:, :, CHANNELS.index("2m_temperature"), 1, 2])


def test_variables_and_coordinates_describe_themselves_as_cf_asks(tmp_path: Path) -> None:
    _write(tmp_path / "f.zarr")
    dataset = xr.open_zarr(tmp_path / "f.zarr")
    described = {
        name: {
            # What xarray decodes, it keeps with the encoding.
            **{key: array.encoding[key] for key in ("units", "calendar") if key in array.encoding},
            **array.attrs,
        }
        for name, array in dataset.variables.items()
    }
    assert described["time"]["units"].startswith("seconds since 1970-01-01")
    assert described["time"]["calendar"] == "proleptic_gregorian"
    assert described["time"]["standard_name"] == "forecast_reference_time"
    assert described["prediction_timedelta"]["standard_name"] == "forecast_period"
    assert described["latitude"]["units"] == "degrees_north"
    assert described["longitude"]["units"] == "degrees_east"
    assert described["level"] == {
        "units": "hPa", "positive": "down", "standard_name": "air_pressure",
    }  # fmt: skip
    assert described["geopotential"]["units"] == "m2 s-2"
    assert described["2m_temperature"]["standard_name"] == "air_temperature"
    for name in dataset.data_vars:
        assert set(described[name]) >= {"units", "standard_name", "long_name"}


@pytest.mark.parametrize("leads_per_chunk", [1, 2, 5])
def test_every_channel_stands_under_its_variable_and_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leads_per_chunk: int
) -> None:
    lead_bytes = 4 * 2 * 3 * 4
    monkeypatch.setattr(
        "weathermixer.forecast.forecast_description._LARGEST_CHUNK_BYTES",
        leads_per_chunk * lead_bytes,
    )
    _write(tmp_path / "f.zarr")
    dataset = xr.open_zarr(tmp_path / "f.zarr")
    assert dataset["temperature"].encoding["chunks"] == (1, leads_per_chunk, 2, 3, 4)
    for channel, name in enumerate(CHANNELS):
        variable, _, level = name.rpartition("_")
        if level.isdecimal():
            values = dataset[variable].sel(level=int(level)).values
        else:
            values = dataset[name].values
        np.testing.assert_array_equal(values, STATES[:, :, channel])


def test_no_more_states_are_held_than_share_a_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "weathermixer.forecast.forecast_description._LARGEST_CHUNK_BYTES", 2 * 4 * 2 * 3 * 4
    )
    writer = _begin(tmp_path / "f.zarr", DESCRIPTION)
    on_disk = tmp_path / "f.zarr.partial" / "2m_temperature" / "c" / "0"
    for taken in writer.write([0, 1], _steps()):
        done = len(list(on_disk.iterdir())) if on_disk.exists() else 0
        assert done == (taken // 2 if taken < 5 else 3)


def test_an_unfinished_forecast_does_not_have_its_name(tmp_path: Path) -> None:
    writer = _begin(tmp_path / "f.zarr", DESCRIPTION)
    steps = writer.write([0, 1], _steps())
    next(steps)
    assert not (tmp_path / "f.zarr").exists()
    assert not writer.is_finished(0)
    with pytest.raises(FileNotFoundError):
        xr.open_zarr(tmp_path / "f.zarr")


def test_it_is_continued_where_each_initial_time_is_known_to_be_done(tmp_path: Path) -> None:
    first = _begin(tmp_path / "f.zarr", DESCRIPTION)
    for _ in first.write([1], _steps(STATES[1:])):
        pass
    first.mark_finished([1])
    second = _begin(tmp_path / "f.zarr", DESCRIPTION)
    assert [second.is_finished(index) for index in (0, 1)] == [False, True]
    for _ in second.write([0], _steps(STATES[:1])):
        pass
    second.mark_finished([0])
    second.finish()
    dataset = xr.open_zarr(tmp_path / "f.zarr")
    np.testing.assert_array_equal(dataset["2m_temperature"], STATES[:, :, 2])
    assert not list(tmp_path.glob("*.partial"))


def test_one_killed_before_it_began_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "f.zarr.partial").mkdir()
    _write(tmp_path / "f.zarr")
    assert (tmp_path / "f.zarr").exists()


def test_one_killed_after_it_got_its_name_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("weathermixer.forecast.writer.shutil.rmtree", stop)
    with pytest.raises(KeyboardInterrupt):
        _write(tmp_path / "f.zarr")
    dataset = xr.open_zarr(tmp_path / "f.zarr")
    np.testing.assert_array_equal(dataset["2m_temperature"], STATES[:, :, 2])


def test_an_existing_forecast_is_never_overwritten(tmp_path: Path) -> None:
    _write(tmp_path / "f.zarr")
    with pytest.raises(UserError, match="exists already"):
        _begin(tmp_path / "f.zarr", DESCRIPTION)


@pytest.mark.parametrize(
    "change",
    [
        {"channels": CHANNELS[:3]},
        {"initial_times": INITIAL_TIMES[:1]},
        {"lead_times": LEADS[:3]},
        {"latitude": np.linspace(-90.0, 90.0, 3)},
        {"attributes": {"checkpoint": "another"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_unfinished_forecast_of_something_else_is_not_continued(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    _begin(tmp_path / "f.zarr", DESCRIPTION)
    with pytest.raises(UserError, match="unfinished forecast of another"):
        _begin(tmp_path / "f.zarr", replace(DESCRIPTION, **change))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        _begin(tmp_path / "file" / "f.zarr", DESCRIPTION)


def test_a_full_disk_is_named_and_keeps_what_was_written(tmp_path: Path) -> None:
    class Full:
        def __setitem__(self, *_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    writer = _begin(tmp_path / "f.zarr", DESCRIPTION)
    writer._arrays["2m_temperature"] = Full()
    with pytest.raises(UserError, match="No space left on device"):
        list(writer.write([0, 1], _steps()))
    assert not (tmp_path / "f.zarr").exists()
    again = _begin(tmp_path / "f.zarr", DESCRIPTION)
    assert not again.is_finished(0)


def test_surface_variables_alone_need_no_levels(tmp_path: Path) -> None:
    description = replace(DESCRIPTION, channels=("2m_temperature",))
    writer = _begin(tmp_path / "f.zarr", description)
    for _ in writer.write([0, 1], _steps(STATES[:, :, 2:3])):
        pass
    writer.mark_finished([0, 1])
    writer.finish()
    dataset = xr.open_zarr(tmp_path / "f.zarr")
    assert "level" not in dataset.coords
    np.testing.assert_array_equal(dataset["2m_temperature"], STATES[:, :, 2])


def test_two_writers_fill_their_own_parts_of_one_forecast(tmp_path: Path) -> None:
    description = replace(DESCRIPTION, longitudes_per_chunk=1, one_level_per_chunk=True)
    ForecastWriter.create(tmp_path / "f.zarr", description)
    for channels in ([0, 3], [1, 2, 4]):
        for longitudes in (slice(0, 3), slice(3, 4)):
            writer = ForecastWriter(
                tmp_path / "f.zarr", description, channels=channels, longitudes=longitudes
            )
            for _ in writer.write([0, 1], _steps(STATES[:, :, channels][..., longitudes])):
                pass
    writer.mark_finished([0, 1])
    writer.finish()
    _write(tmp_path / "whole.zarr")
    parts, whole = xr.open_zarr(tmp_path / "f.zarr"), xr.open_zarr(tmp_path / "whole.zarr")
    xr.testing.assert_identical(parts.load(), whole.load())
