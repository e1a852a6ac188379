"""From a path or an address to lazy xarray data sets: Zarr, NetCDF and GRIB, near and far.

What the data sets mean is not known here; see ``contents.py``.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import fsspec
import xarray as xr

from weathermixer.console import waiting_for
from weathermixer.data.archives.storage import (
    Hdf5Storage,
    OpaqueStorage,
    Storage,
    ZarrStorage,
)
from weathermixer.data.store.store import partial_path
from weathermixer.errors import UserError

# What the libraries that decode and download raise when bytes are missing, torn or unreachable.
_READ_ERRORS = (
    OSError,
    EOFError,
    LookupError,
    RuntimeError,
    ValueError,
    zlib.error,
    aiohttp.ClientError,
)


@dataclass(frozen=True)
class OpenedDataset:
    """A data set, read lazily, and the storage that can be asked what it was given.

    ``is_partial`` tells whether parts of a field can be read without the rest of it.
    """

    dataset: xr.Dataset
    storage: Storage
    is_partial: bool


def open_datasets(source: str) -> list[OpenedDataset]:
    """What is at a path or address: one data set, or several where GRIB mixes kinds of level.

    Raises UserError where nothing is there, something unfinished, or what is in no format that can
    be read.
    """
    if "://" in source or "::" in source:
        return [_open_remote(source)]
    path = Path(source)
    if path.name.endswith(".partial") or (not path.exists() and partial_path(path).exists()):
        raise UserError(
            f"{source} is unfinished: run the command that writes it again, and it will continue"
        )
    if not path.exists():
        raise UserError(f"there is nothing at {source}: correct the path")
    if path.is_dir():
        return [_open_zarr(source)]
    with naming_errors(source, "opened"), path.open("rb") as file:
        start = file.read(4)
    return _open_grib(source) if start == b"GRIB" else [_open_netcdf(source, source, start)]


@contextmanager
def naming_errors(name: str, doing: str) -> Iterator[None]:
    """Turns what decoders and downloads raise into one sentence that names the source."""
    try:
        # Reading is often, and has its own progress.
        with waiting_for(f"{name} to be opened") if "opened" in doing else nullcontext():
            yield
    except UserError:
        raise
    except _READ_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{name} cannot be {doing} ({reason}): it may be corrupt, cut short or out of reach; "
            "check it, or fetch it again"
        ) from error


def _open_remote(address: str) -> OpenedDataset:
    try:
        files, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise UserError(
            f"{address} needs a package that is not installed ({error}): "
            "pip install 'weathermixer[cloud]'"
        ) from error
    except ValueError as error:
        raise UserError(f"{address} cannot be reached ({error}): correct the address") from error
    with naming_errors(address, "opened"):
        markers = ("zarr.json", ".zmetadata", ".zgroup")
        if any(files.exists(f"{path.rstrip('/')}/{marker}") for marker in markers):
            return _open_zarr(address)
        if not files.exists(path):
            raise UserError(f"there is nothing at {address}: correct the address")
        file = files.open(path, "rb")
        start = file.read(4)
        file.seek(0)
    if start != b"\x89HDF":
        raise UserError(
            f"{address} is neither Zarr nor NetCDF 4, which alone can be read in part from afar: "
            "download it first"
        )
    return _open_netcdf(address, file, start)


def _open_zarr(source: str) -> OpenedDataset:
    with naming_errors(source, "opened as Zarr"), warnings.catch_warnings():
        # Metadata that are not consolidated cost a few requests more, which is all that is said.
        warnings.filterwarnings("ignore", message="Failed to open Zarr store with consolidated")
        return OpenedDataset(_open_dataset(source, "zarr"), ZarrStorage(source), is_partial=True)


def _open_netcdf(name: str, file: Any, start: bytes) -> OpenedDataset:
    engines = {b"\x89HDF": "h5netcdf", b"CDF\x01": "scipy", b"CDF\x02": "scipy"}
    if start not in engines:
        raise UserError(
            f"{name} is none of Zarr, NetCDF (3 or 4) and GRIB: choose another file, or convert it"
        )
    with naming_errors(name, "opened as NetCDF"):
        dataset = _open_dataset(file, engines[start])
    is_hdf5 = engines[start] == "h5netcdf"
    return OpenedDataset(dataset, Hdf5Storage(file) if is_hdf5 else OpaqueStorage(), False)


def _open_grib(source: str) -> list[OpenedDataset]:
    try:
        import cfgrib
        import eccodes  # type: ignore[import-untyped]
    except (ImportError, RuntimeError) as error:  # the latter where the C library is missing
        raise UserError(
            f"{source} is GRIB, which needs cfgrib ({error}): pip install 'weathermixer[grib]'"
        ) from error
    # Errors are raised, for a file cut short would otherwise lack its last times in silence; and no
    # index is written beside a file that is not ours.
    options = {"indexpath": "", "errors": "raise"}
    with naming_errors(source, "opened as GRIB"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            datasets: list[xr.Dataset] = cfgrib.open_datasets(
                source, backend_kwargs=options, cache=False, decode_timedelta=False
            )
        except eccodes.CodesInternalError as error:
            raise OSError(str(error)) from error
    return [OpenedDataset(dataset, OpaqueStorage(), is_partial=False) for dataset in datasets]


def _open_dataset(source: Any, engine: str) -> xr.Dataset:
    with warnings.catch_warnings():
        # Such as that the year 1 is written with one digit.
        warnings.simplefilter("ignore", xr.SerializationWarning)
        return xr.open_dataset(
            source, engine=engine, chunks=None, cache=False, decode_timedelta=False
        )
