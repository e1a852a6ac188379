"""Whether a value was written, asked of the storage itself.

Formats of chunks stand in for what was never written with a fill value, often zero, which looks
like weather. No value tells whether it was written; here the file is asked. Zarr (versions 2 and 3,
sharded or not) and NetCDF 4 can say; in other formats there is nothing to ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import product
from typing import Any, Protocol

import h5py
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

Selection = Sequence[slice | NDArray[np.intp]]
"""What is selected along each dimension of an array."""


class Storage(Protocol):
    """What can be asked of the storage of a data set's arrays, by their names in it."""

    def has_chunk(self, name: str, index: Sequence[int]) -> bool:
        """Whether there are bytes for the chunk with the element at ``index``; true if unknown.

        The storage is asked whether a file exists; of a shard, one chunk is read.
        """

    def is_whole(self, name: str) -> bool:
        """Whether all of a small array was written; true where unknown."""

    def unwritten(
        self, name: str, selection: Selection, values: NDArray[Any]
    ) -> NDArray[np.bool_] | None:
        """Where a selection of an array was never written, as a mask of the selection's shape.

        ``values`` are those that were read of it, decoded; only where some are like the fill value
        is the storage asked. None where all was written, or where it cannot be told.
        """


class OpaqueStorage:
    """Storage that keeps whole fields, of which none can be missing unnoticed."""

    def has_chunk(self, name: str, index: Sequence[int]) -> bool:
        """Whether there are bytes for the chunk with the element at ``index``; true if unknown."""
        return True

    def is_whole(self, name: str) -> bool:
        """Whether all of a small array was written; true where unknown."""
        return True

    def unwritten(
        self, name: str, selection: Selection, values: NDArray[Any]
    ) -> NDArray[np.bool_] | None:
        """Where a selection of an array was never written, as a mask of the selection's shape."""
        return None


class ZarrStorage:
    """The arrays of a Zarr group in a store of Zarr's, or at an address."""

    def __init__(self, store: LocalStore | str) -> None:
        self._store = store

    @cached_property
    def _group(self) -> zarr.Group:
        return zarr.open_group(self._store, mode="r")

    def has_chunk(self, name: str, index: Sequence[int]) -> bool:
        """Whether there are bytes for the chunk with the element at ``index``; true if unknown."""
        array = self._array(name)
        if array.shards is not None:  # a file of many chunks, of which some may be missing
            element = tuple(slice(i, i + 1) for i in index)
            return not self._follows_fill_value(array, element).any()
        chunk = tuple(i // size for i, size in zip(index, array.chunks, strict=True))
        key = f"{array.path}/{array.metadata.encode_chunk_key(chunk)}".lstrip("/")
        return bool(zarr.core.sync.sync(array.store.exists(key)))

    def unwritten(
        self, name: str, selection: Selection, values: NDArray[Any]
    ) -> NDArray[np.bool_] | None:
        """Where a selection of an array was never written, as a mask of the selection's shape."""
        array = self._array(name)
        if not _resemble(values, array.fill_value, array.attrs):
            return None
        result = self._follows_fill_value(array, tuple(selection))
        return result if result.any() else None

    def is_whole(self, name: str) -> bool:
        """Whether all of a small array was written; true where unknown."""
        array = self._array(name)
        everything = tuple(slice(0, size) for size in array.shape)
        return (
            array.dtype.kind not in "iuf" or not self._follows_fill_value(array, everything).any()
        )

    def _array(self, name: str) -> Any:
        return self._group[name]

    def _follows_fill_value(self, array: Any, selection: Any) -> NDArray[np.bool_]:
        """Where an array holds nothing: what is read there is whatever the fill value is."""
        first, second = (
            np.asarray(self._filled_with(array, fill).oindex[selection]) for fill in (1, 2)
        )
        return np.asarray((first == 1) & (second == 2))

    @staticmethod
    def _filled_with(array: Any, fill: int) -> Any:
        metadata = replace(array.metadata, fill_value=array.dtype.type(fill))
        return zarr.Array(
            zarr.AsyncArray(metadata=metadata, store_path=array.store_path, config=array.config)
        )


class Hdf5Storage:
    """The variables of a NetCDF 4 file: a path, or an open file."""

    def __init__(self, file: Any) -> None:
        self._file = file

    @cached_property
    def _opened(self) -> h5py.File:
        return h5py.File(self._file, "r")

    def has_chunk(self, name: str, index: Sequence[int]) -> bool:
        """Whether there are bytes for the chunk with the element at ``index``; true if unknown."""
        dataset = self._opened[name]
        return not _is_unwritten(dataset, tuple(index))

    def unwritten(
        self, name: str, selection: Selection, values: NDArray[Any]
    ) -> NDArray[np.bool_] | None:
        """Where a selection of an array was never written, as a mask of the selection's shape."""
        dataset = self._opened[name]
        if not _resemble(values, dataset.fillvalue, dataset.attrs):
            return None
        result = self._never_allocated(dataset, selection)
        return result if result.any() else None

    def is_whole(self, name: str) -> bool:
        """Whether all of a small array was written; true where unknown."""
        dataset = self._opened[name]
        return not self._never_allocated(dataset, [slice(None)] * dataset.ndim).any()

    @staticmethod
    def _never_allocated(dataset: Any, selection: Selection) -> NDArray[np.bool_]:
        indices = [
            np.arange(size)[part] for size, part in zip(dataset.shape, selection, strict=True)
        ]
        chunks = dataset.chunks or dataset.shape
        corners = [
            np.unique(each // size) * size for each, size in zip(indices, chunks, strict=True)
        ]
        result = np.zeros(tuple(map(len, indices)), dtype=bool)
        for corner in product(*(each.tolist() for each in corners)):
            if _is_unwritten(dataset, corner):
                inside = [
                    (each >= start) & (each < start + size)
                    for each, start, size in zip(indices, corner, chunks, strict=True)
                ]
                result[np.ix_(*inside)] = True
        return result


def _is_unwritten(dataset: Any, index: tuple[int, ...]) -> bool:
    if dataset.chunks is None:
        return bool(dataset.id.get_storage_size() == 0)
    return dataset.id.get_chunk_info_by_coord(index).byte_offset is None


def _resemble(values: NDArray[Any], fill: Any, attributes: Any) -> bool:
    """Whether any decoded value may be the fill value, NaN or not."""
    if np.isnan(values).any():
        return True
    fill = 0 if fill is None else fill
    if "scale_factor" not in attributes and "add_offset" not in attributes:
        return bool((values == fill).any())
    scale, offset = attributes.get("scale_factor", 1.0), attributes.get("add_offset", 0.0)
    decoded = np.float64(fill) * np.float64(scale) + np.float64(offset)
    return bool(np.isclose(values, decoded, rtol=1e-6, atol=1e-12).any())
