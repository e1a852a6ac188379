"""From a path or an address to lazy xarray data sets: Zarr, NetCDF and GRIB, near, far or lent.

What the data sets mean is not known here; see ``contents.py``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr
from zarr.storage import LocalStore

from weathermixer.console import waiting_for
from weathermixer.data.addresses import (
    file_system,
    is_address,
    local_path,
    read_errors,
)
from weathermixer.data.archives.lent import is_lent, lent_dataset
from weathermixer.data.archives.storage import (
    Hdf5Storage,
    OpaqueStorage,
    Storage,
    ZarrStorage,
)
from weathermixer.data.partial_files import partial_path
from weathermixer.errors import UserError

_ZARR_MARKERS = ("zarr.json", ".zmetadata", ".zgroup")


@dataclass(frozen=True)
class OpenedDataset:
    """A ``dataset``, read lazily, and the ``storage`` that can be asked what it was given.

    ``is_partial`` tells whether parts of a field can be read without the rest of it.
    """

    dataset: xr.Dataset
    storage: Storage
    is_partial: bool


def open_datasets(source: str) -> list[OpenedDataset]:
    """Open a path, an address or what is lent: one data set, or several where GRIB mixes levels.

    Raises UserError where nothing is there, something unfinished, or what is in no format that can
    be read.
    """
    if is_lent(source):
        return [OpenedDataset(lent_dataset(source), OpaqueStorage(), is_partial=True)]
    source = local_path(source)
    path = Path(source)
    if is_address(source):
        return [_open_remote(source)]
    if path.name.endswith(".partial") or (not path.exists() and partial_path(path).exists()):
        raise UserError(
            f"{source} is unfinished: run the command that writes it again, and it will continue"
        )
    if not path.exists():
        raise UserError(f"there is nothing at {source}: correct the path")
    if path.is_dir():
        if not any((path / marker).exists() for marker in _ZARR_MARKERS):
            raise UserError(
                f"{source} cannot be opened as Zarr: the folder holds none; name the files in it"
            )
        # As a path, not as text, in which "::" would make an address of it.
        return [_open_zarr(source, LocalStore(path, read_only=True))]
    with naming_errors(source, "opened"), path.open("rb") as file:
        start = file.read(4)
    return _open_grib(source) if start == b"GRIB" else [_open_netcdf(source, source, start)]


@contextmanager
def naming_errors(name: str, doing: str) -> Iterator[None]:
    """While entered, turn what decoders and downloads raise into a UserError that names ``name``.

    ``doing`` completes its sentence, as in ``cannot be opened``.
    """
    try:
        # Reading is often, and has its own progress.
        with waiting_for(f"{name} to be opened") if "opened" in doing else nullcontext():
            yield
    except UserError:
        raise
    except read_errors() as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{name} cannot be {doing} ({reason}): it may be corrupt, cut short or out of reach; "
            "check it, or fetch it again"
        ) from error


def _open_remote(address: str) -> OpenedDataset:
    files, path = file_system(address)
    with naming_errors(address, "opened"):
        if any(files.exists(f"{path.rstrip('/')}/{marker}") for marker in _ZARR_MARKERS):
            return _open_zarr(address, address)
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


def _open_zarr(source: str, store: LocalStore | str) -> OpenedDataset:
    with naming_errors(source, "opened as Zarr"), warnings.catch_warnings():
        # Metadata that are not consolidated cost a few requests more, which is all that is said.
        warnings.filterwarnings("ignore", message="Failed to open Zarr store with consolidated")
        return OpenedDataset(_open_dataset(store, "zarr"), ZarrStorage(store), is_partial=True)


def _open_netcdf(name: str, file: Any, start: bytes) -> OpenedDataset:
    engines = {b"\x89HDF": "h5netcdf", b"CDF\x01": "scipy", b"CDF\x02": "scipy"}
    if start == b"CDF\x05":
        raise UserError(
            f"{name} is NetCDF of the kind CDF-5, which is not read: convert it, for instance with "
            "'nccopy -k nc4'"
        )
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
        import eccodes
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
    """Opens lazily, and decodes after the CF conventions what can be decoded."""
    with warnings.catch_warnings():
        # Such as that the year 1 is written with one digit.
        warnings.simplefilter("ignore", xr.SerializationWarning)
        raw = xr.open_dataset(source, engine=engine, chunks=None, cache=False, decode_cf=False)
        for variable in raw.variables.values():
            if _is_filled_with_zeros(variable):
                del variable.attrs["_FillValue"]
        try:
            return xr.decode_cf(raw, decode_timedelta=False)
        except (ValueError, OverflowError):
            return xr.decode_cf(_without_undecodable_units(raw), decode_timedelta=False)


def _is_filled_with_zeros(variable: xr.Variable) -> bool:
    """Whether zeros are said to be missing though they may be values, such as sea in a mask.

    Zarr 2 fills what was not written with zeros by default, and xarray takes the fill value for
    the mark of a missing value. What was not written is asked of the storage instead.
    """
    attributes = variable.attrs
    is_packed = "scale_factor" in attributes or "add_offset" in attributes
    return not is_packed and "_FillValue" in attributes and bool(attributes["_FillValue"] == 0)


def _without_undecodable_units(raw: xr.Dataset) -> xr.Dataset:
    """Drop units of times in which xarray finds no time, such as ``day as %Y%m%d``."""
    for name in raw.variables:
        try:
            xr.decode_cf(raw[[name]].drop_vars(set(raw.coords) - {name}), decode_timedelta=False)
        except (ValueError, OverflowError):
            del raw[name].attrs["units"]
    return raw
