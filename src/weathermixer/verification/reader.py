"""Reading a forecast, from this project or from others who keep to WeatherBench 2's conventions.

Whatever the order of its dimensions, the direction of its latitudes or the origin of its
longitudes, a forecast is handed out channel by channel on the grid of the truth.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from weathermixer.data.channels import (
    PRESSURE_VARIABLES,
    PROGNOSTIC_VARIABLES,
    Channel,
    parse_channel,
)
from weathermixer.data.store import partial_path
from weathermixer.errors import UserError

_DIMENSIONS = ("time", "prediction_timedelta", "latitude", "longitude")
_TOLERANCE_DEGREES = 1e-3


@dataclass(frozen=True)
class Forecast:
    """An open forecast: ``initial_times (time,)``, ``lead_times (lead,)``, and its channels."""

    path: Path
    dataset: xr.Dataset
    initial_times: NDArray[np.datetime64]
    lead_times: NDArray[np.timedelta64]
    channels: tuple[str, ...]
    unknown_variables: tuple[str, ...]

    @property
    def lead_hours(self) -> tuple[float, ...]:
        return tuple((self.lead_times / np.timedelta64(1, "h")).tolist())

    @classmethod
    def open(cls, path: Path) -> Forecast:
        """Open a forecast; UserError where there is none, an unfinished one, or something else."""
        path = Path(path)
        if path.name.endswith(".partial") or (not path.exists() and partial_path(path).exists()):
            raise UserError(
                f"{path} is an unfinished forecast: run the command that writes it again, "
                "and it will continue"
            )
        if not path.exists():
            raise UserError(f"there is no forecast at {path}: correct the path")
        try:
            with warnings.catch_warnings():
                # Consolidated metadata only makes opening quicker.
                warnings.filterwarnings("ignore", message="Failed to open Zarr store with consol")
                dataset = xr.open_dataset(path, engine="zarr", chunks=None, decode_timedelta=True)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{path} cannot be opened as a Zarr forecast ({error}): is it one?"
            ) from error
        lacking = [name for name in _DIMENSIONS if name not in dataset.coords]
        if lacking:
            raise UserError(
                f"{path} is no forecast after the conventions of WeatherBench 2: "
                f"it lacks the coordinate {lacking[0]}"
            )
        lead_times = np.atleast_1d(dataset["prediction_timedelta"].values)
        if lead_times.dtype.kind != "m":
            raise UserError(
                f"{path}: prediction_timedelta is not a duration: give it units such as 'hours'"
            )
        known, unknown = _channels(dataset)
        if not known:
            raise UserError(
                f"{path} holds none of {', '.join(PROGNOSTIC_VARIABLES)} by time and "
                "prediction_timedelta: rename its variables"
            )
        return cls(
            path,
            dataset,
            np.atleast_1d(dataset["time"].values).astype("datetime64[s]"),
            lead_times.astype("timedelta64[s]"),
            known,
            unknown,
        )

    def read(self, time: int, leads: slice, rows: NDArray[Any], columns: NDArray[Any]) -> Any:
        """The states ``(lead, channel, latitude, longitude)`` from one initial time.

        ``rows`` and ``columns`` are as :meth:`positions_of` finds them. Raises UserError, naming
        what, where values are NaN or infinite or cannot be read.
        """
        states = np.empty(
            (len(self.lead_times[leads]), len(self.channels), len(rows), len(columns)), np.float32
        )
        position = 0
        for name in dict.fromkeys(parse_channel(channel).variable for channel in self.channels):
            on_levels = name in PRESSURE_VARIABLES
            order = ("prediction_timedelta", *(("level",) if on_levels else ()), *_DIMENSIONS[2:])
            array = self.dataset[name].isel(time=time, prediction_timedelta=leads)
            try:
                values = array.transpose(*order).values
            except (OSError, ValueError, RuntimeError) as error:
                raise UserError(
                    f"{self.path}: {name} from {self.initial_times[time]} cannot be read "
                    f"({error}); its file is corrupt or truncated: copy or make the forecast again"
                ) from error
            values = values if on_levels else values[:, None]
            size = values.shape[1]
            states[:, position : position + size] = values[:, :, rows[:, None], columns]
            position += size
        finite = np.isfinite(states).all(axis=(2, 3))
        if not finite.all():
            lead, channel = np.argwhere(~finite)[0]
            raise UserError(
                f"{self.path}: the forecast from {self.initial_times[time]} at lead "
                f"{self.lead_times[leads][lead] / np.timedelta64(1, 'h'):g} h has missing chunks, "
                f"NaN or infinite values, first in {self.channels[channel]}: make it again, or "
                "leave that time or channel out"
            )
        return states

    def positions_of(
        self, latitude: NDArray[np.float64], longitude: NDArray[np.float64]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Where the rows and columns of another grid stand in this one.

        Raises UserError where the grids differ in more than their order.
        """
        own_latitude = np.asarray(self.dataset["latitude"].values, np.float64)
        own_longitude = np.asarray(self.dataset["longitude"].values, np.float64)
        rows = _match(own_latitude, latitude, period=None)
        columns = _match(own_longitude, longitude, period=360.0)
        if rows is None or columns is None:
            raise UserError(
                f"{self.path} is on another grid ({_describe(own_latitude, own_longitude)}) than "
                f"the truth ({_describe(latitude, longitude)}): prepare the truth on the "
                "forecast's grid"
            )
        return rows, columns


def _channels(dataset: xr.Dataset) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The channels of a data set, in canonical order; and its other variables."""
    known: list[str] = []
    for name, variable in PROGNOSTIC_VARIABLES.items():
        dimensions = {*_DIMENSIONS, *(("level",) if variable.on_levels else ())}
        if name in dataset.data_vars and set(dataset[name].dims) == dimensions:
            levels = dataset["level"].values if variable.on_levels else (None,)
            known += [Channel(name, level and int(level)).name for level in levels]
    variables = {parse_channel(channel).variable for channel in known}
    unknown = sorted({str(name) for name in dataset.data_vars} - variables)
    return tuple(known), tuple(unknown)


def _match(
    own: NDArray[np.float64], wanted: NDArray[np.float64], period: float | None
) -> NDArray[np.intp] | None:
    """The index in ``own`` of each coordinate ``wanted``; None where they do not correspond."""
    if len(own) != len(wanted):
        return None
    distance = np.abs(own - wanted[:, None])
    if period is not None:
        distance = np.minimum(distance % period, -distance % period)
    nearest: NDArray[np.intp] = distance.argmin(axis=1)
    if distance.min(axis=1).max() > _TOLERANCE_DEGREES or len(np.unique(nearest)) < len(own):
        return None
    return nearest


def _describe(latitude: NDArray[np.float64], longitude: NDArray[np.float64]) -> str:
    return (
        f"{len(latitude)}×{len(longitude)}, latitude {latitude[0]:g} to {latitude[-1]:g}, "
        f"longitude {longitude[0]:g} to {longitude[-1]:g}"
    )
