"""Small arrays and consolidated metadata of a Zarr group, as stores and forecasts write them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import zarr
from numpy.typing import NDArray
from zarr.errors import UnstableSpecificationWarning


def write_array(
    group: zarr.Group, name: str, values: NDArray[Any], dimensions: tuple[str, ...], **attrs: Any
) -> None:
    """Write a small array, whole and in one chunk, in the place of one of the same name.

    ``dimensions`` are the names of its dimensions, ``attrs`` its attributes.
    """
    dtype: Any = str if values.dtype == object else values.dtype
    with warnings.catch_warnings():
        # Zarr v3 has strings in every implementation, but not yet in its core document.
        warnings.simplefilter("ignore", UnstableSpecificationWarning)
        array = group.create_array(
            name,
            shape=values.shape,
            dtype=dtype,
            chunks=tuple(max(size, 1) for size in values.shape),
            dimension_names=dimensions,
            attributes=dict(attrs),
            overwrite=True,
        )
    if values.size:
        array[...] = values


def write_grid(group: zarr.Group, latitude: NDArray[Any], longitude: NDArray[Any]) -> None:
    """Write the coordinates of a grid, ``(latitude,)`` and ``(longitude,)``, in degrees."""
    for name, values, units in (
        ("latitude", latitude, "degrees_north"),
        ("longitude", longitude, "degrees_east"),
    ):
        write_array(group, name, values, (name,), units=units, standard_name=name)


def consolidate(path: Path, *, ignoring: str) -> None:
    """Copy the metadata of all arrays into their group's, where xarray looks for them.

    ``ignoring`` is a file or folder in the group that is none of Zarr's.
    """
    with warnings.catch_warnings():
        # xarray asks for it, though Zarr v3 has yet to specify it.
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not")
        warnings.filterwarnings("ignore", message=f"Object at {ignoring}")
        zarr.consolidate_metadata(path)
