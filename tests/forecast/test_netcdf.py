"""Forecasts as NetCDF: the values of the Zarr in one file, which is whole or absent."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from support.disk import full_disk
from support.forecast_runs import forecast_on, write_run
from support.ranks import Pool
from support.selection import exhaustive
from weathermixer.cli import main
from weathermixer.errors import UserError
from weathermixer.forecast import forecast_description
from weathermixer.forecast.forecast import forecast
from weathermixer.forecast.forecast_description import ForecastDescription
from weathermixer.forecast.writer import ForecastWriter
from weathermixer.jigsaw.layout import Layout
from weathermixer.verification.verify import verify

CHANNELS = ("temperature_850", "temperature_500", "2m_temperature")
SINGLE = ForecastDescription(
    CHANNELS,
    np.array(["2020-01-01T00", "2020-01-03T06"], dtype="datetime64[s]"),
    np.arange(1, 6) * np.timedelta64(6, "h").astype("timedelta64[s]"),
    np.linspace(90.0, -90.0, 3),
    np.arange(4.0) * 90.0,
    {"source": "a test", "overrides": ["training.dtype=float64", "training.seed=3"]},
)
ENSEMBLE = replace(SINGLE, members=2)
STATES = np.random.default_rng(0).normal(size=(4, 5, 3, 3, 4)).astype(np.float32)


def cut(description: ForecastDescription) -> ForecastDescription:
    """The same forecast in the chunks that many ranks need."""
    return replace(description, longitudes_per_chunk=1, one_level_per_chunk=True)


def begin(path: Path, description: ForecastDescription = SINGLE) -> ForecastWriter:
    """A writer of a forecast of which only the last step is missing, its final name."""
    ForecastWriter.create(path, description)
    writer, numbers = ForecastWriter(path, description), range(description.num_forecasts)
    for _ in writer.write(numbers, (STATES[numbers, lead] for lead in range(5))):
        pass
    writer.mark_finished(numbers)
    return writer


def write(path: Path, description: ForecastDescription = SINGLE) -> xr.Dataset:
    """Write a forecast, and open it as plain xarray does, which must not warn."""
    begin(path, description).finish()
    return read(path)


def read(path: Path) -> xr.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return xr.open_dataset(path).load()


def fields_of(dataset: xr.Dataset) -> NDArray[np.float32]:
    """``(forecast, lead, channel, latitude, longitude)``."""
    temperature = dataset["temperature"]
    fields = [temperature.sel(level=850), temperature.sel(level=500), dataset["2m_temperature"]]
    stacked = np.stack([field.values for field in fields], axis=-3)
    return stacked.reshape(-1, *stacked.shape[-4:])


@pytest.mark.parametrize("largest_chunk", [2 * 48, 4 * 48, 1024 * 1024])
@pytest.mark.parametrize("is_cut", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize("description", [SINGLE, ENSEMBLE], ids=["single", "ensemble"])
def test_the_file_holds_what_the_zarr_does_however_that_is_cut(
    description: ForecastDescription,
    is_cut: bool,
    largest_chunk: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forecast_description, "_LARGEST_CHUNK_BYTES", largest_chunk)
    description = cut(description) if is_cut else description
    zarr, file = (write(tmp_path / name, description) for name in ("f.zarr", "f.nc"))
    np.testing.assert_array_equal(fields_of(file), STATES[: description.num_forecasts])
    assert file.attrs.pop("overrides") == "training.dtype=float64 training.seed=3"
    del zarr.attrs["overrides"]
    xr.testing.assert_identical(file, zarr)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["f.nc", "f.zarr"]


def test_its_chunks_do_not_depend_on_the_mesh(tmp_path: Path) -> None:
    for name, description in (("one.nc", SINGLE), ("many.nc", cut(SINGLE))):
        write(tmp_path / name, description)
        with h5py.File(tmp_path / name) as file:
            assert file["temperature"].chunks == (1, 5, 2, 3, 4)
            assert file["2m_temperature"].chunks == (1, 5, 3, 4)


def test_the_library_of_netcdf_reads_it(tmp_path: Path) -> None:
    library = pytest.importorskip("netCDF4")
    write(tmp_path / "f.nc", ENSEMBLE)
    with library.Dataset(tmp_path / "f.nc") as file:
        assert file.Conventions == "CF-1.11"
        assert {name: len(size) for name, size in file.dimensions.items()} == {
            "time": 2, "realization": 2, "prediction_timedelta": 5, "level": 2, "latitude": 3,
            "longitude": 4,
        }  # fmt: skip
        field = file["2m_temperature"]
        assert (field.units, field.standard_name) == ("K", "air_temperature")
        assert np.isnan(field._FillValue)
        np.testing.assert_array_equal(field[:].reshape(4, 5, 3, 4), STATES[:, :, 2])
        when = library.num2date(file["time"][:], file["time"].units, file["time"].calendar)
        assert [str(time) for time in when] == ["2020-01-01 00:00:00", "2020-01-03 06:00:00"]
        assert file["level"][:].tolist() == [500, 850]


def test_one_that_is_killed_while_the_file_is_written_goes_on(tmp_path: Path) -> None:
    steps = begin(tmp_path / "f.nc").finish_in_steps()
    assert next(steps) == 1
    del steps  # as the end of the process would, before the file has its name
    (tmp_path / "f.nc.partial" / ".progress" / "forecast.nc").write_bytes(b"\x89HDF, cut short")
    assert not (tmp_path / "f.nc").exists()
    with pytest.raises(UserError, match="is unfinished"):
        verify(tmp_path / "f.nc", tmp_path / "truth.zarr")
    ForecastWriter.create(tmp_path / "f.nc", SINGLE)
    again = ForecastWriter(tmp_path / "f.nc", SINGLE)
    assert all(again.is_finished(number) for number in (0, 1))
    assert list(again.finish_in_steps()) == [1, 2]
    np.testing.assert_array_equal(fields_of(read(tmp_path / "f.nc")), STATES[:2])
    assert [path.name for path in tmp_path.iterdir()] == ["f.nc"]


@pytest.mark.parametrize("after_bytes", [10, 6_000, 12_000, 14_000])
def test_a_full_disk_is_named_wherever_it_fills(after_bytes: int, tmp_path: Path) -> None:
    writer = begin(tmp_path / "f.nc")
    with full_disk(after_bytes=after_bytes), pytest.raises(UserError) as refusal:
        writer.finish()
    said = f"cannot write to {tmp_path / 'f.nc.partial'} (File too large): free some space"
    assert str(refusal.value).startswith(said)
    assert not list(tmp_path.rglob("*.nc"))
    writer.finish()
    np.testing.assert_array_equal(fields_of(read(tmp_path / "f.nc")), STATES[:2])


def test_a_file_that_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "f.nc").write_text("mine")
    with pytest.raises(UserError, match=r"f\.nc exists already: choose another place"):
        ForecastWriter.create(tmp_path / "f.nc", SINGLE)
    assert (tmp_path / "f.nc").read_text() == "mine"


@pytest.fixture(scope="module")
def noisy_run(waves: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noisy")
    return write_run(folder / "run", waves, scale=0.05, model={"noise": 2})


@pytest.mark.parametrize("members", [None, 3])
@pytest.mark.parametrize(
    "layout", [Layout(domain=2), *exhaustive(Layout(domain=2, tensor=2), Layout(data=2))], ids=str
)
def test_ranks_write_the_same_values_as_into_zarr(
    pool: Pool, layout: Layout, members: int | None, noisy_run: Path, waves: Path, tmp_path: Path
) -> None:
    asked = ("2001-01-02,2001-01-03", 3, members)
    for name in ("f.zarr", "f.nc"):
        said = pool.run(forecast_on, layout, noisy_run, waves, tmp_path / name, *asked)
        assert said == [None] * layout.world_size
    zarr, file = (read(tmp_path / name) for name in ("f.zarr", "f.nc"))
    assert zarr.attrs.pop("overrides") == []
    assert file.attrs.pop("overrides") == ""
    xr.testing.assert_identical(file, zarr)


@pytest.fixture
def both(waves: Path, random_run: Path, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A forecast as Zarr and as NetCDF."""
    paths = tmp_path / "f.zarr", tmp_path / "f.nc"
    for path in paths:
        forecast(random_run, waves, "2001-01-03,2001-01-05", 2, path)
    yield paths


def test_it_is_verified_and_reported_as_the_zarr_is(
    both: tuple[Path, Path], waves: Path, random_run: Path, tmp_path: Path
) -> None:
    paths = dict(zip(("zarr", "netcdf"), both, strict=True))
    out = tmp_path / "scores"
    verify(paths["netcdf"], waves, out=out)
    scores = json.loads((out / "scores.json").read_text())
    expected = verify(paths["zarr"], waves).to_json()
    assert (scores.pop("forecast"), expected.pop("forecast")) == (
        str(paths["netcdf"]), str(paths["zarr"]),
    )  # fmt: skip
    assert scores == expected
    main(["report", str(out), "--out", str(out / "page.html"), "--at", "40,20"])
    page = (out / "page.html").read_text()
    assert '<section id="maps"' in page
    assert '<section id="plumes"' in page
    assert random_run.name in page
