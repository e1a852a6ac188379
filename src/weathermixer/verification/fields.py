"""Variables on a grid as Zarr archives keep them: forecasts, analyses and climatologies alike.

The conventions are those of WeatherBench 2, read without hints: Zarr of version 2 or 3, with
consolidated metadata or without, dimensions and levels in any order, canonical names or the usual
short ones. What a forecast or a climatology is made of is not known here.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from weathermixer.data.channels import (
    ALIASES,
    PROGNOSTIC_VARIABLES,
    VARIABLES,
    Channel,
    parse_channel,
    units_accepted,
)
from weathermixer.data.grid import Grid, as_slice
from weathermixer.data.store.store import partial_path
from weathermixer.errors import UserError

_SYNONYMS = {
    "lat": "latitude",
    "lon": "longitude",
    "pressure_level": "level",
    "isobaricInhPa": "level",
    "plev": "level",
    "init_time": "time",
    "lead_time": "prediction_timedelta",
}


@dataclass(frozen=True)
class Fields:
    """The known variables of a data set that have the dimensions ``leading`` and a grid.

    ``channels`` are in canonical order, by increasing level; ``unknown_variables`` are the others.
    """

    path: str
    dataset: xr.Dataset
    leading: tuple[str, ...]
    channels: tuple[str, ...]
    unknown_variables: tuple[str, ...]

    @classmethod
    def of(cls, path: str, dataset: xr.Dataset, leading: tuple[str, ...], what: str) -> Fields:
        """Find the variables. Raises UserError where a coordinate or every variable is lacking."""
        lacking = [n for n in (*leading, "latitude", "longitude") if n not in dataset.coords]
        if lacking:
            raise UserError(
                f"{path} is no {what} after the conventions of WeatherBench 2: "
                f"it lacks the coordinate {lacking[0]}"
            )
        known: list[str] = []
        for name, variable in PROGNOSTIC_VARIABLES.items():
            expected = {*leading, "latitude", "longitude", *(["level"] * variable.on_levels)}
            if name in dataset.data_vars and set(dataset[name].dims) == expected:
                _check_units(path, name, dataset[name])
                levels = sorted(_levels(dataset)) if variable.on_levels else [None]
                known += [Channel(name, level).name for level in levels]
        if not known:
            raise UserError(
                f"{path} holds none of {', '.join(PROGNOSTIC_VARIABLES)} by "
                f"{', '.join(leading)}, latitude and longitude: rename its variables"
            )
        variables = {parse_channel(channel).variable for channel in known}
        unknown = sorted({str(name) for name in dataset.data_vars} - variables)
        return cls(path, dataset, leading, tuple(known), tuple(unknown))

    @property
    def grid(self) -> Grid:
        return Grid(
            np.asarray(self.dataset["latitude"].values, np.float64),
            np.asarray(self.dataset["longitude"].values, np.float64),
        )

    def chunk(self, dimension: str, channels: Sequence[str]) -> int:
        """How many of a leading dimension share a chunk in any variable of these channels."""
        chunks = (
            self.dataset[name].encoding.get("preferred_chunks", {})
            for name in _by_variable(channels)
        )
        return max(sizes.get(dimension, 1) for sizes in chunks)

    def read(self, channels: Sequence[str], **index: NDArray[np.intp]) -> NDArray[np.float32]:
        """Fields ``(*leading, channel, latitude, longitude)``, in SI units, rows as they stand.

        Raises UserError, naming what, where values are NaN or infinite or cannot be read.
        """
        selection = {name: as_slice(index[name]) for name in self.leading}
        sizes = [len(index[name]) for name in self.leading]
        fields = np.empty((*sizes, len(channels), *self.grid.shape), np.float32)
        for name, (places, levels) in _by_variable(channels).items():
            array = self.dataset[name].isel(selection)
            order = [*self.leading, "latitude", "longitude"]
            pressures = [level for level in levels if level is not None]
            if pressures:
                positions = _levels(self.dataset)
                array = array.isel(level=as_slice(np.array([positions[one] for one in pressures])))
                order.insert(len(self.leading), "level")
            try:
                values = array.transpose(*order).values
            except (OSError, ValueError, RuntimeError) as error:
                first = self._where(index, (0,) * len(self.leading))
                raise UserError(
                    f"{self.path}: {name} from {first} on cannot be read ({error}); its file is "
                    "corrupt or truncated: copy or make it again"
                ) from error
            shape = (*sizes, len(places), *values.shape[-2:])
            fields[..., places, :, :] = values.reshape(shape)
        self._check_finite(fields, channels, index)
        return fields

    def _check_finite(
        self, fields: NDArray[np.float32], channels: Sequence[str], index: dict[str, Any]
    ) -> None:
        # One addition per value finds NaN and infinity more cheaply than a mask.
        if np.isfinite(fields.sum(dtype=np.float64)):
            return
        *place, channel = np.argwhere(~np.isfinite(fields).all(axis=(-2, -1)))[0]
        raise UserError(
            f"{self.path}: the state of {self._where(index, place)} has missing chunks, NaN or "
            f"infinite values, first in {channels[channel]}: copy or make it again, or leave that "
            "time or channel out"
        )

    def _where(self, index: dict[str, Any], place: Sequence[int]) -> str:
        words = []
        for name, position in zip(self.leading, place, strict=True):
            value = self.dataset[name].values[index[name][position]]
            if name == "time":
                words.append(str(value.astype("datetime64[s]")))
            elif name == "prediction_timedelta":
                words.append(f"at lead {value / np.timedelta64(1, 'h'):g} h")
            else:
                words.append(f"{name} {value}")
        return " ".join(words)


def open_zarr(path: str, what: str) -> xr.Dataset:
    """A Zarr archive, here or remote, read lazily, under canonical names.

    Raises UserError where there is none, an unfinished one, or something else.
    """
    if "://" not in path:
        here = Path(path)
        if here.name.endswith(".partial") or (not here.exists() and partial_path(here).exists()):
            raise UserError(
                f"{path} is an unfinished {what}: run the command that writes it again, "
                "and it will continue"
            )
        if not here.exists():
            raise UserError(f"there is no {what} at {path}: correct the path")
    try:
        with warnings.catch_warnings():
            # Consolidated metadata only makes opening quicker.
            warnings.filterwarnings("ignore", message="Failed to open Zarr store with consol")
            dataset = xr.open_dataset(
                path, engine="zarr", chunks=None, cache=False, decode_timedelta=True
            )
    except ImportError as error:
        raise UserError(
            f"{path} needs a package that is not installed ({error}): "
            "pip install 'weathermixer[cloud]'"
        ) from error
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} cannot be opened as a Zarr {what} ({error}): is it one?"
        ) from error
    own = {str(name) for name in dataset.variables} | {str(name) for name in dataset.dims}
    names = {**_SYNONYMS, **ALIASES}
    return dataset.rename({old: new for old, new in names.items() if old in own and new not in own})


def _by_variable(channels: Sequence[str]) -> dict[str, tuple[list[int], list[int | None]]]:
    """For each variable, where its channels stand among the wanted ones, and their levels."""
    found: dict[str, tuple[list[int], list[int | None]]] = {}
    for place, name in enumerate(channels):
        channel = parse_channel(name)
        places, levels = found.setdefault(channel.variable, ([], []))
        places.append(place)
        levels.append(channel.level_hpa)
    return found


def _levels(dataset: xr.Dataset) -> dict[int, int]:
    """Where each pressure level stands, by hPa; without those of broken hectopascals."""
    level = dataset["level"]
    factor = 0.01 if str(level.attrs.get("units", "hPa")).lower() in ("pa", "pascal") else 1.0
    values = factor * np.asarray(level.values, np.float64)
    return {round(one): at for at, one in enumerate(values) if abs(one - round(one)) < 1e-6}


def _check_units(path: str, name: str, array: xr.DataArray) -> None:
    units = array.attrs.get("units")
    if units is not None and not units_accepted(name, str(units)):
        raise UserError(
            f"{path} has {name} in {units!r}, not in {VARIABLES[name].units}: convert it first"
        )
