"""A whole forecast copied from Zarr into one NetCDF 4 file, a few fields at a time.

What the forecast holds is decided where the Zarr is written; the file has the same values, names
and attributes, and chunks of its own, which do not depend on the mesh that computed it.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np
import zarr

from weathermixer.forecast.forecast_description import ForecastDescription

_DEFLATE_LEVEL = 1  # level 4 made a file of noisy waves one percent smaller


def is_netcdf(path: Path) -> bool:
    """Whether a forecast of this name is a NetCDF file, rather than Zarr."""
    return path.suffix == ".nc"


def write_netcdf(group: zarr.Group, file: Path, description: ForecastDescription) -> Iterator[int]:
    """Copy the forecast in ``group`` to ``file``, which is replaced where it exists.

    Yields the number of forecasts copied so far; the file is whole and on disk once no more come.
    Raises OSError where it cannot be written.
    """
    with _Stream(file, "w+b") as stream:
        with h5netcdf.File(stream, "w") as target:
            target.attrs.update(_as_netcdf(group.attrs))
            _create_variables(target, group, description)
            stream.check()
            for number in range(description.num_forecasts):
                for name in description.variables():
                    array: Any = group[name]
                    for block in _blocks(name, number, array, description):
                        target.variables[name][block] = array[block]
                        stream.check()
                yield number + 1
        stream.check()
        os.fsync(stream.fileno())


class _Stream(io.FileIO):
    """A file for HDF5 to write to, which hides errors from it until ``check`` raises the first.

    HDF5 keeps chunks that it cannot write, drops what errors they cause later, and may crash when
    the file is closed. Here it closes what it believes to be whole.
    """

    _error: OSError | None = None

    def check(self) -> None:
        """Raise the first error in writing, if there was any."""
        if self._error is not None:
            raise self._error

    def write(self, data: Any) -> int:
        """Write all of ``data``, which a single call of the system need not do."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while len(rest) and self._error is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self._error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """Give the file a size, as HDF5 does when it closes it."""
        try:
            return super().truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0


def _create_variables(target: Any, group: zarr.Group, description: ForecastDescription) -> None:
    """Define dimensions and fields, and write the coordinates."""
    as_one = _on_one_rank(description)
    fields: dict[str, Any] = {name: group[name] for name in description.variables()}
    dimensions = {name: field.metadata.dimension_names for name, field in fields.items()}
    sizes = {
        dimension: size
        for name, field in fields.items()
        for dimension, size in zip(dimensions[name], field.shape, strict=True)
    }
    target.dimensions = sizes
    for name in sizes:
        coordinate: Any = group[name]
        variable = target.create_variable(name, (name,), data=coordinate[...])
        variable.attrs.update(_as_netcdf(coordinate.attrs))
    for name, field in fields.items():
        variable = target.create_variable(
            name,
            dimensions[name],
            field.dtype,
            fillvalue=np.float32(np.nan),
            chunks=as_one.chunk_shape(name),
            compression="gzip",
            compression_opts=_DEFLATE_LEVEL,
            shuffle=True,
        )
        variable.attrs.update(_as_netcdf(field.attrs))


def _as_netcdf(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as NetCDF can hold them: a list of texts as one, as one would type them."""
    return {
        name: " ".join(value) if isinstance(value, list) else value
        for name, value in attributes.items()
    }


def _on_one_rank(description: ForecastDescription) -> ForecastDescription:
    """The same forecast with chunks of whole longitudes, and of levels where they are small."""
    return replace(description, longitudes_per_chunk=None, one_level_per_chunk=False)


def _blocks(
    name: str, number: int, array: Any, description: ForecastDescription
) -> Iterator[tuple[int | slice, ...]]:
    """The parts of a variable, of one forecast, that are copied at once.

    They are whole chunks of the file, as many as it takes to read each chunk of the Zarr once.
    """
    time, member = description.place(number)
    where = (time,) if description.members is None else (time, member)
    within = slice(len(where), -2)
    parts = [
        [slice(start, start + size) for start in range(0, length, size)]
        for written, read, length in zip(
            _on_one_rank(description).chunk_shape(name)[within],
            description.chunk_shape(name)[within],
            array.shape[within],
            strict=True,
        )
        for size in (written * math.ceil(read / written),)
    ]
    return ((*where, *part) for part in product(*parts))
