"""A small truth, and forecasts of it as others would write them: by xarray, not by this project."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from weathermixer.data.store.store_description import StoreDescription
from weathermixer.data.store.store_writer import StoreWriter

CHANNELS = ("geopotential_500", "geopotential_850", "2m_temperature")
SCALES = np.array([900.0, 500.0, 8.0])[:, None, None]
MEANS = np.array([5.5e4, 1.4e4, 280.0])[:, None, None]
LONGITUDE = np.arange(6, dtype=np.float64) * 60.0
START = np.datetime64("2001-03-01", "s")
STEP = np.timedelta64(6, "h")
LATITUDES = {
    "with poles, northward": np.linspace(-90.0, 90.0, 5),
    "with poles, southward": np.linspace(90.0, -90.0, 5),
    "without poles": np.array([-70.0, -30.0, 0.0, 25.0, 80.0]),
    "without the south pole": np.linspace(90.0, -90.0, 6)[:-1],
}


@dataclass(frozen=True)
class Planet:
    """What was written to ``truth``: ``states (time, channel, latitude, longitude)``, ..."""

    truth: Path
    times: NDArray[np.datetime64]
    latitude: NDArray[np.float64]
    states: NDArray[np.float32]
    climatology: NDArray[np.float32] | None

    def climatology_at(self, time: np.datetime64) -> NDArray[np.float32]:
        """The day of the year and the hour as the store was given them."""
        assert self.climatology is not None
        day = time.astype("datetime64[D]")
        hour = int((time - day) / np.timedelta64(6, "h"))
        return self.climatology[hour, int((day - np.datetime64("2001-01-01")).astype(int))]

    def at(self, time: np.datetime64) -> NDArray[np.float32]:
        return self.states[int(np.flatnonzero(self.times == time)[0])]


def write_planet(
    path: Path,
    latitude: NDArray[np.float64] = LATITUDES["without poles"],
    *,
    num_times: int = 12,
    constant: bool = False,
    climatology: bool = True,
    channels: tuple[str, ...] = CHANNELS,
) -> Planet:
    """Write a store of random states, with a random climatology unless told otherwise."""
    random = np.random.default_rng(3)
    times = START + np.arange(num_times) * STEP
    shape = (len(CHANNELS), len(latitude), len(LONGITUDE))
    states = (MEANS + SCALES * random.normal(size=(num_times, *shape))).astype(np.float32)
    if constant:
        states[:] = states[0]
    rows = [CHANNELS.index(channel) for channel in channels]
    writer = StoreWriter.create(path, StoreDescription(channels, times, latitude, LONGITUDE, 6.0))
    for block in writer.missing_blocks():
        for _ in writer.write_block(block, lambda index: states[index, rows]):
            pass
    writer.finish((times[0], times[-1]))
    normals = None
    if climatology:
        normals = (MEANS + 0.3 * SCALES * random.normal(size=(4, 90, *shape))).astype("f4")
        write_climatology(path, normals[:, :, rows])
    return Planet(path, times, latitude, states, normals)


def write_climatology(path: Path, values: NDArray[np.float32]) -> None:
    """Give a store a climatology ``(4 hours, 90 days, channel, latitude, longitude)``."""
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    for name, labels in (("hour", np.arange(4) * 6), ("dayofyear", np.arange(90) + 1)):
        group.create_array(name, data=labels, dimension_names=(name,))
    dimensions = ("hour", "dayofyear", "channel", "latitude", "longitude")
    group.create_array("climatology", data=values, dimension_names=dimensions)


def write_forecast(
    path: Path,
    planet: Planet,
    states: NDArray[np.floating],
    initial_times: NDArray[np.datetime64],
    leads: NDArray[np.timedelta64],
) -> xr.Dataset:
    """``states (time, lead, channel, latitude, longitude)`` as WeatherBench 2 lays them out."""
    on_levels = ("time", "prediction_timedelta", "level", "latitude", "longitude")
    surface = ("time", "prediction_timedelta", "latitude", "longitude")
    dataset = xr.Dataset(
        {
            "geopotential": (on_levels, states[:, :, :2].astype(np.float32)),
            "2m_temperature": (surface, states[:, :, 2].astype(np.float32)),
        },
        {
            "time": initial_times.astype("datetime64[ns]"),
            "prediction_timedelta": leads.astype("timedelta64[ns]"),
            "level": [500, 850],
            "latitude": planet.latitude,
            "longitude": LONGITUDE,
        },
    )
    dataset.to_zarr(path, zarr_format=2, consolidated=True)
    return dataset
