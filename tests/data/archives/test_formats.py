"""Paths and addresses as users have them, and files that are not what they seem."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import xarray as xr
from zarr.storage import LocalStore

from weathermixer.config import Data
from weathermixer.data.archives.merging import open_sources
from weathermixer.data.making.preparation import prepare
from weathermixer.data.opening import open_states
from weathermixer.errors import UserError

Archive = Callable[..., xr.Dataset]

SETTINGS = {"variables": ["2m_temperature"], "levels": [], "static": []}


@pytest.fixture
def dataset(archive: Archive) -> xr.Dataset:
    return archive(times=3, variables=("2m_temperature",))


@pytest.mark.parametrize("suffix", [".zarr", ".nc"])
@pytest.mark.parametrize("name", ["a folder/with space", "number#7?", "köln::x", "100%25"])
def test_any_name_of_a_file_is_a_path(
    dataset: xr.Dataset, tmp_path: Path, name: str, suffix: str
) -> None:
    path = tmp_path / (name + suffix)
    path.parent.mkdir(exist_ok=True)
    if suffix == ".zarr":
        dataset.to_zarr(LocalStore(path), zarr_format=2)
    else:
        with path.open("wb") as file:
            file.write(dataset.to_netcdf(engine="scipy"))
    link = tmp_path / f"link{suffix}"
    link.symlink_to(path)
    for source in (
        str(path),
        os.path.relpath(path),
        str(link),
        f"{path}/" if suffix == ".zarr" else str(path),
    ):
        states = open_sources([source]).read(0, 3)
        np.testing.assert_array_equal(states[:, 0], dataset["2m_temperature"].values)


def test_an_address_of_a_local_file_is_its_path(dataset: xr.Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    dataset.to_zarr(folder / "a.zarr", zarr_format=2)
    dataset.to_netcdf(folder / "a.nc", engine="scipy")
    for name in ("a.zarr", "a.nc"):
        for address in (f"file://{folder / name}", (folder / name).as_uri()):
            fields = open_sources([address]).read(0, 3)
            np.testing.assert_array_equal(fields[:, 0], dataset["2m_temperature"].values)
    prepare(folder / "s.zarr", [(folder / "a.zarr").as_uri()], climatology=False)
    for path in (folder / "a.zarr", folder / "s.zarr"):
        states = open_states(path.as_uri(), Data(store=path.as_uri(), **SETTINGS))
        np.testing.assert_array_equal(states.read(1)[0], dataset["2m_temperature"].values[1])


def test_netcdf_of_a_kind_that_is_not_read_says_how_to_convert_it(tmp_path: Path) -> None:
    (tmp_path / "five.nc").write_bytes(b"CDF\x05" + bytes(100))
    with pytest.raises(UserError, match="CDF-5, which is not read: convert it, for instance with"):
        open_sources([str(tmp_path / "five.nc")])


def test_a_file_that_is_empty_or_packed_is_named(tmp_path: Path) -> None:
    for content in (b"", b"PK\x03\x04 and more"):
        (tmp_path / "a.zip").write_bytes(content)
        with pytest.raises(UserError, match=r"a\.zip is none of Zarr, NetCDF \(3 or 4\) and GRIB"):
            open_sources([str(tmp_path / "a.zip")])


@pytest.mark.exhaustive
@pytest.mark.parametrize("attributes", [
    {"units": "days since 2000-01-01", "calendar": "noleap"},
    {"units": "days since 1-1-1 00:00:0.0"},
    {"units": "day as %Y%m%d.%f"},
])  # fmt: skip
@pytest.mark.parametrize("engine", ["h5netcdf", "scipy"])
def test_libraries_do_not_warn(
    dataset: xr.Dataset,
    tmp_path: Path,
    attributes: dict[str, str],
    engine: Literal["h5netcdf", "scipy"],
) -> None:
    """Neither when a file is opened and read, nor when it is closed in the end."""
    time = ("time", np.arange(3.0) + 730_000, attributes)
    dataset.assign_coords(time=time).to_netcdf(tmp_path / "a.nc", engine=engine)
    dataset["2m_temperature"].attrs["missing_value"] = 1e20
    code = f"""
from weathermixer.data.archives.merging import open_sources
from weathermixer.errors import UserError
try:
    print(open_sources([{str(tmp_path / "a.nc")!r}]).read(0, 1).shape)
except UserError as error:
    print(error)
"""
    ended = subprocess.run(
        [sys.executable, "-W", "always::RuntimeWarning", "-c", code],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ended.stderr == ""
    assert ended.stdout.count("\n") == 1
