"""Small archives of waves, under the names of the real samples that documents speak of."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from support.weatherbench import as_dataset
from weathermixer.data.making.synthetic import write_synthetic

LEVELS_HPA = (
    50,
    70,
    100,
    150,
    200,
    225,
    250,
    300,
    350,
    400,
    500,
    600,
    700,
    775,
    850,
    925,
    975,
    1000,
)
SURFACE = (
    "mean_sea_level_pressure",
    "10m_u_component_of_wind",
    "10m_v_component_of_wind",
    "2m_temperature",
)
UPPER_AIR = (
    "geopotential",
    "specific_humidity",
    "temperature",
    "u_component_of_wind",
    "v_component_of_wind",
)


def write_surface_sample(path: Path) -> None:
    """24 states of surface fields, 7 hours apart but for every fourth, with both poles."""
    hours = np.cumsum([0, *[7, 7, 7, 8] * 6])[:24]
    times = np.datetime64("2026-03-25", "ns") + hours.astype("timedelta64[h]")
    store = write_synthetic(
        path.with_suffix(".waves"),
        times=24,
        grid=(13, 24),
        variables=SURFACE,
        static=(),
        processes=1,
    )
    fields = as_dataset(store)
    fields.assign_coords(time=times).drop_vars("level").chunk(time=1).to_zarr(
        path, zarr_format=3, consolidated=False
    )


def write_snapshot(path: Path) -> None:
    """One state on more levels than are wanted, without surface fields or static ones."""
    store = write_synthetic(
        path.with_suffix(".waves"),
        times=3,
        grid=(8, 16),
        variables=UPPER_AIR,
        levels=LEVELS_HPA,
        static=(),
        processes=1,
    )
    fields = as_dataset(store)
    snapshot = fields.isel(time=[0]).assign_coords(time=[np.datetime64("1959-01-02", "ns")])
    snapshot.transpose("time", "level", "longitude", "latitude").to_netcdf(path)


def write_archive_of_everything(path: Path) -> None:
    """Eleven days of all variables at the turn of the year 2017, every six hours."""
    store = write_synthetic(path.with_suffix(".waves"), times=44, grid=(8, 16), processes=1)
    fields = as_dataset(store)
    hours = (6 * np.arange(44)).astype("timedelta64[h]")
    fields.assign_coords(time=np.datetime64("2017-12-25", "ns") + hours).to_netcdf(path)
