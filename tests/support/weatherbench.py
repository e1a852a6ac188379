"""Archives laid out as WeatherBench 2 publishes them, and otherwise, made from a store's states."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from weathermixer.data.channels import parse_channel
from weathermixer.data.store.store import Store

Layout = Callable[[xr.Dataset], xr.Dataset]


def as_dataset(store: Store) -> xr.Dataset:
    """A store's states and static fields, under canonical names, each by level where it has some.

    Where the store has lost the row at the south pole, it is there again, as another row's copy.
    """
    states = np.stack([store.read(index) for index in range(len(store.times))])
    channels = [parse_channel(name) for name in store.channels]
    plane = ("latitude", "longitude")
    fields: dict[str, tuple[tuple[str, ...], NDArray[np.float32]]] = {}
    for variable in dict.fromkeys(channel.variable for channel in channels):
        places = [n for n, channel in enumerate(channels) if channel.variable == variable]
        if channels[places[0]].level_hpa is None:
            fields[variable] = (("time", *plane), states[:, places[0]])
        else:
            fields[variable] = (("time", "level", *plane), states[:, places])
    static = store.read_static(store.static_channels)
    fields |= {
        name: (plane, field) for name, field in zip(store.static_channels, static, strict=True)
    }
    levels = sorted({channel.level_hpa for channel in channels if channel.level_hpa is not None})
    dataset = xr.Dataset(
        fields,
        {
            "time": store.times.astype("datetime64[ns]"),
            "level": levels,
            "latitude": store.latitude,
            "longitude": store.longitude,
        },
    )
    if "dropped_row" in store.attributes:
        pole = dataset.isel(latitude=[-1]).assign_coords(latitude=[-90.0])
        dataset = xr.concat([dataset, pole], dim="latitude", data_vars="minimal")
    return dataset


def write_archive(
    dataset: xr.Dataset,
    path: Path,
    layout: Layout = lambda dataset: dataset,
    *,
    zarr_format: int = 2,
    **chunks: int,
) -> str:
    """Write a Zarr archive with chunks of these sizes, or of whole dimensions."""
    dataset = layout(dataset)
    encoding = {
        name: {"chunks": tuple(chunks.get(str(dim), array.sizes[dim]) for dim in array.dims)}
        for name, array in dataset.data_vars.items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of consolidated metadata in Zarr 3
        dataset.to_zarr(path, zarr_format=zarr_format, consolidated=True, encoding=encoding)
    return str(path)


def _about_greenwich(dataset: xr.Dataset) -> xr.Dataset:
    shifted = dataset.assign_coords(longitude=(dataset.longitude + 180.0) % 360.0 - 180.0)
    return shifted.sortby("longitude")


LAYOUTS: dict[str, Layout] = {
    "southward": lambda dataset: dataset,
    "northward": lambda dataset: dataset.isel(latitude=slice(None, None, -1)),
    "from 180 W": _about_greenwich,
    "levels downward": lambda dataset: dataset.isel(level=slice(None, None, -1)),
    "longitude before latitude": lambda d: d.transpose(..., "longitude", "latitude"),
    "time last": lambda dataset: dataset.transpose(..., "time"),
    "short names": lambda d: d.rename(geopotential="z", temperature="t", latitude="lat"),
    "times in disorder": lambda d: d.isel(time=np.random.default_rng(0).permutation(d.time.size)),
}
