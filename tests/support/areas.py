"""A forecast and its truth on any grid, as others would write them: by xarray, not by this project.

One variable, the temperature at 2 m, from two initial times at two lead times.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

CHANNEL = "2m_temperature"
_STEP = np.timedelta64(6, "h")
_NUM_TIMES, _NUM_LEADS = 2, 2


@dataclass(frozen=True)
class Area:
    """Paths of a forecast and its truth, and what is in them.

    ``forecasts`` and ``expected (lead, time, latitude, longitude)`` stand beside each other.
    """

    forecast: Path
    truth: Path
    forecasts: NDArray[np.float32]
    expected: NDArray[np.float32]


def write_area(folder: Path, latitude: Any, longitude: Any, seed: int = 0) -> Area:
    """Write ``forecast.zarr`` and ``truth.zarr`` with random fields, as WeatherBench 2 does."""
    random = np.random.default_rng(seed)
    latitude, longitude = (np.asarray(values, np.float64) for values in (latitude, longitude))
    shape = len(latitude), len(longitude)
    times = np.datetime64("2020-01-01", "ns") + np.arange(_NUM_TIMES + _NUM_LEADS) * _STEP
    truth = random.normal(280.0, 8.0, (len(times), *shape)).astype(np.float32)
    expected = np.stack([truth[lead : lead + _NUM_TIMES] for lead in range(1, _NUM_LEADS + 1)])
    forecasts = (expected + random.normal(0.0, 2.0, expected.shape)).astype(np.float32)
    grid = {"latitude": latitude, "longitude": longitude}
    _write(
        xr.Dataset({CHANNEL: (("time", *grid), truth)}, {"time": times, **grid}), folder / "truth"
    )
    leads = np.arange(1, _NUM_LEADS + 1) * _STEP.astype("timedelta64[ns]")
    _write(
        xr.Dataset(
            {CHANNEL: (("prediction_timedelta", "time", *grid), forecasts)},
            {"prediction_timedelta": leads, "time": times[:_NUM_TIMES], **grid},
        ),
        folder / "forecast",
    )
    return Area(folder / "forecast.zarr", folder / "truth.zarr", forecasts, expected)


def _write(dataset: xr.Dataset, path: Path) -> None:
    dataset[CHANNEL].attrs["units"] = "K"
    dataset.latitude.attrs["units"] = "degrees_north"
    dataset.longitude.attrs["units"] = "degrees_east"
    dataset.to_zarr(path.with_suffix(".zarr"), zarr_format=2, consolidated=True)
