"""A store as xarray shows data to people: a variable each, with levels, instead of channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

from weathermixer.data.store.store import Store
from weathermixer.data.variables import attributes_of, variables_of


def store_dataset(path: Path | str) -> xr.Dataset:
    """The states of a store as WeatherBench 2 arranges them, read when they are looked at.

    Variables on levels are ``(time, level, latitude, longitude)``, others ``(time, latitude,
    longitude)``, static fields ``(latitude, longitude)``, all float32 in SI units; levels are in
    hPa. Levels that a variable lacks are not invented: where variables have unequal ones, each
    level that any has is there, and NaN where it has none. Raises UserError where there is no store
    that is whole.
    """
    store = Store.open(path)
    raw = xr.open_zarr(store.group.store, consolidated=False)
    fields = {}
    for name, places in variables_of(store.channels).items():
        if None in places:
            field = raw["state"].isel(channel=places[None], drop=True)
        else:
            levels = np.array([level for level in places if level is not None], np.int64)
            field = raw["state"].isel(channel=list(places.values())).rename(channel="level")
            described = {"units": "hPa", "positive": "down", "standard_name": "air_pressure"}
            field = field.assign_coords(level=("level", levels, described))
        fields[name] = field
    for place, name in enumerate(store.static_channels):
        fields[name] = raw["static"].isel(static_channel=place, drop=True)
    for name, field in fields.items():
        field.attrs = dict(attributes_of(name))
    dataset = xr.Dataset(fields, attrs={"Conventions": "CF-1.11"})
    kept = {*dataset.dims, *dataset.data_vars}
    return dataset.drop_vars([name for name in dataset.variables if name not in kept])
