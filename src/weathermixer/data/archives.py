"""One place that holds atmospheric states: a Zarr, NetCDF or GRIB archive, or a prepared store.

Whatever the archive calls its variables and however it orders its dimensions, here they come under
their canonical names, as ``(time, level, latitude, longitude)``, longitudes from 0 to 360. Archives
are merged in ``sources.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from weathermixer.data.channels import (
    ALIASES,
    PROGNOSTIC_VARIABLES,
    STATIC_VARIABLES,
    VARIABLES,
    Channel,
    parse_channel,
    units_accepted,
)
from weathermixer.data.formats import naming_errors, open_datasets
from weathermixer.data.store import Store
from weathermixer.errors import UserError

_RENAMED = {
    "lat": "latitude",
    "lon": "longitude",
    "isobaricInhPa": "level",
    "pressure_level": "level",
    "plev": "level",
    "member": "number",
    "realization": "number",
}
_DIMENSIONS = ("time", "level", "latitude", "longitude")


class Archive(Protocol):
    """States on one grid: ``times (time,)`` increasing, ``latitude``, ``longitude`` in degrees.

    ``dropped_row`` is true where the archive has both poles and an odd number of rows: its row at
    the south pole is then left out, so that rows can be shared evenly.
    """

    name: str
    times: NDArray[np.datetime64]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    dropped_row: bool
    channels: tuple[Channel, ...]
    static_channels: tuple[str, ...]
    licence: str | None

    def check_units(self, variable: str) -> None:
        """Raises UserError where the archive says that it keeps a variable in other units."""

    def read(
        self, variable: str, levels: Sequence[int | None], start: int, stop: int
    ) -> NDArray[np.float32]:
        """``(time, level, latitude, longitude)`` of times ``start`` to ``stop``, exclusive."""

    def read_static(self, variable: str) -> NDArray[np.float32]:
        """``(latitude, longitude)``."""


def open_archives(source: str, member: int | None) -> list[Archive]:
    """The archives at a path or address: one, or several where a GRIB file mixes kinds of level.

    Raises UserError where nothing is there, or where it is in no format that can be read.
    """
    if _is_store(source):
        return [StoreArchive(Store.open(source))]
    return [DatasetArchive(source, dataset, member) for dataset in open_datasets(source)]


class DatasetArchive:
    """An archive that xarray opens, read lazily."""

    def __init__(self, name: str, dataset: xr.Dataset, member: int | None) -> None:
        self.name = name
        with naming_errors(name, "opened"):
            dataset = _with_valid_time(dataset, name)
            dataset = dataset.rename(
                {old: new for old, new in _RENAMED.items() if old in dataset.variables}
            )
        self._variables = _known_variables(dataset, name)
        self._dataset = _choose_member(dataset, self._variables, name, member)
        self._check_dimensions()
        self._set_grid()
        self._set_times()
        self._levels = _levels_hpa(self._dataset, name)
        self.channels = tuple(self._offered_channels())
        self.static_channels = tuple(name for name in STATIC_VARIABLES if name in self._variables)
        licence = dataset.attrs.get("licence", dataset.attrs.get("license"))
        self.licence = None if licence is None else str(licence)

    def check_units(self, variable: str) -> None:
        units = self._dataset[self._variables[variable]].attrs.get("units")
        if units is not None and not units_accepted(variable, str(units)):
            raise UserError(
                f"{self.name} has {variable} in {units!r}, not in {VARIABLES[variable].units}: "
                "convert it first"
            )

    def read(
        self, variable: str, levels: Sequence[int | None], start: int, stop: int
    ) -> NDArray[np.float32]:
        array = self._dataset[self._variables[variable]]
        selection: dict[str, Any] = {}
        if "time" in array.dims:
            selection["time"] = _slice_if_consecutive(self._order[start:stop])
        if "level" in array.dims:
            selection["level"] = _slice_if_consecutive(
                np.array([self._levels.index(level) for level in levels])
            )
        return self._load(array, selection, f"{variable} at {self.times[start]}")

    def read_static(self, variable: str) -> NDArray[np.float32]:
        array = self._dataset[self._variables[variable]]
        first = {"time": [0]} if "time" in array.dims else {}
        return self._load(array, first, variable)[0, 0]

    def _load(
        self, array: xr.DataArray, selection: dict[str, Any], what: str
    ) -> NDArray[np.float32]:
        """Whole fields ``(time, level, latitude, longitude)``.

        Rows and longitudes are arranged after reading: readers handle whole fields best.
        """
        with naming_errors(self.name, f"read: {what}"):
            part = array.isel(selection)
            values = np.asarray(part.values, dtype=np.float32)
        absent = tuple(axis for axis, name in enumerate(_DIMENSIONS) if name not in part.dims)
        values = values.transpose(
            [part.dims.index(name) for name in _DIMENSIONS if name in part.dims]
        )
        values = np.expand_dims(values, absent)
        values = values[:, :, self._rows]
        return np.roll(values, -self._first_column, axis=-1) if self._first_column else values

    def _check_dimensions(self) -> None:
        for name in self._variables.values():
            array = self._dataset[name]
            strange = [str(dim) for dim in array.dims if dim not in _DIMENSIONS]
            if strange or not {"latitude", "longitude"} <= set(array.dims):
                raise UserError(
                    f"{self.name} has {name} on {', '.join(map(str, array.dims))}: "
                    "it must be on a grid of latitude × longitude, with time and level at most"
                )

    def _set_grid(self) -> None:
        latitude = np.asarray(self._dataset["latitude"].values, dtype=np.float64)
        longitude = np.asarray(self._dataset["longitude"].values, dtype=np.float64) % 360.0
        longitude[longitude > 360.0 - 1e-6] = 0.0
        self._first_column = int(np.argmin(longitude))
        self.longitude = np.roll(longitude, -self._first_column)
        rises = np.diff(latitude)
        if not (np.all(rises > 0) or np.all(rises < 0)) or not np.all(np.diff(self.longitude) > 0):
            raise UserError(
                f"{self.name} has latitudes or longitudes that are repeated or out of order: "
                "sort them first, and drop longitude 360 where 0 is there too"
            )
        spacing = self.longitude[1] - self.longitude[0]
        reach = 90.0 - np.abs(latitude[[0, -1]])
        if abs(spacing * len(longitude) - 360.0) > 0.01 * 360.0 or np.any(
            reach > 1.01 * np.abs(rises).max()
        ):
            raise UserError(
                f"{self.name} spans latitudes {latitude.min():g} to {latitude.max():g} and "
                f"longitudes {self.longitude[0]:g} to {self.longitude[-1]:g}, not the whole globe: "
                "choose a global source"
            )
        self.dropped_row = len(latitude) % 2 == 1 and bool(np.all(reach < 1e-6))
        self._rows = slice(None)
        if self.dropped_row:
            self._rows = slice(0, -1) if latitude[0] > 0 else slice(1, None)
        self.latitude = latitude[self._rows]

    def _set_times(self) -> None:
        self._order = np.arange(0)
        self.times = np.empty(0, dtype="datetime64[s]")
        if "time" not in self._dataset.variables:
            return
        times = np.atleast_1d(self._dataset["time"].values)
        if not np.issubdtype(times.dtype, np.datetime64) or np.isnat(times).any():
            raise UserError(
                f"{self.name} has times that are missing or not of the usual calendar: "
                "give it a time coordinate in the standard (Gregorian) calendar"
            )
        self._order = np.argsort(times, kind="stable")
        self.times = times[self._order].astype("datetime64[s]")
        repeated = self.times[1:][np.diff(self.times) == np.timedelta64(0, "s")]
        if len(repeated):
            raise UserError(
                f"{self.name} holds {repeated[0]} more than once (and {len(repeated) - 1} other "
                "repeated times): drop the duplicates first"
            )

    def _offered_channels(self) -> Iterator[Channel]:
        for variable, known in PROGNOSTIC_VARIABLES.items():
            if variable not in self._variables or not len(self.times):
                continue
            if "time" not in self._dataset[self._variables[variable]].dims and len(self.times) > 1:
                continue
            if known.on_levels:
                yield from (Channel(variable, level) for level in self._levels if level is not None)
            else:
                yield Channel(variable)


class StoreArchive:
    """A prepared store, from which another one takes fields."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.name = str(store.path)
        self.times = store.times
        self.latitude = store.latitude
        self.longitude = store.longitude
        self.channels = tuple(parse_channel(name) for name in store.channels)
        self.static_channels = store.static_channels
        self.dropped_row = "dropped_row" in store.attributes
        self.licence = "; ".join(store.attributes.get("source_licences", ())) or None

    def check_units(self, variable: str) -> None:
        """Stores are in SI units."""

    def read(
        self, variable: str, levels: Sequence[int | None], start: int, stop: int
    ) -> NDArray[np.float32]:
        indices = self._store.channel_indices([Channel(variable, level).name for level in levels])
        return np.stack([self._store.read(index, indices) for index in range(start, stop)])

    def read_static(self, variable: str) -> NDArray[np.float32]:
        return self._store.read_static([variable])[0]


def _is_store(source: str) -> bool:
    try:
        return "weathermixer_store" in zarr.open_group(Path(source), mode="r").attrs
    except (OSError, ValueError):
        return False


def _with_valid_time(dataset: xr.Dataset, name: str) -> xr.Dataset:
    """The data set with the time that its states are valid at as its ``time``."""
    if "valid_time" not in dataset.variables:
        return dataset
    valid = dataset["valid_time"]
    if valid.ndim > 1:
        # Of several forecast lead times, not one is meant.
        raise UserError(
            f"{name} has times along {' × '.join(map(str, valid.dims))}, as forecasts have: "
            "choose one lead time first"
        )
    dataset = dataset.drop_vars(["time", "valid_time", "step"], errors="ignore")
    if valid.ndim == 1 and valid.dims[0] != "time":
        dataset = dataset.rename({valid.dims[0]: "time"})
    return dataset.assign_coords(time=(valid.dims and ("time",), valid.values))


def _known_variables(dataset: xr.Dataset, name: str) -> dict[str, str]:
    """The archive's own names of the variables that WeatherMixer knows, by canonical name."""
    found: dict[str, str] = {}
    for own in map(str, dataset.data_vars):
        variable = ALIASES.get(own, own)
        if variable == "geopotential" and "level" not in dataset[own].coords:
            variable = "geopotential_at_surface"  # archives call both of them z
        if variable in VARIABLES:
            found[variable] = own
    if not found:
        raise UserError(
            f"{name} holds none of the variables that WeatherMixer knows; it has "
            f"{', '.join(map(str, dataset.data_vars)) or 'none at all'}: choose another source"
        )
    return found


def _choose_member(
    dataset: xr.Dataset, variables: dict[str, str], name: str, member: int | None
) -> xr.Dataset:
    """The data set without dimensions of one element, and of an ensemble the chosen member."""
    dataset = dataset[list(variables.values())]
    alone = [dim for dim, size in dataset.sizes.items() if size == 1 and dim not in _DIMENSIONS]
    dataset = dataset.isel(dict.fromkeys(alone, 0))
    if "number" not in dataset.dims:
        return dataset
    members = dataset["number"].values.tolist()
    if member not in members:
        said = "" if member is None else f"no member {member}, but "
        raise UserError(
            f"{name} holds {said}{len(members)} ensemble members, "
            f"{', '.join(map(str, members))}: choose one with --member"
        )
    return dataset.isel(number=members.index(member))


def _levels_hpa(dataset: xr.Dataset, name: str) -> list[int | None]:
    """Pressure of each level in hPa; None where it is not a whole number, as no channel is."""
    if "level" not in dataset.variables:
        return [None]
    level = dataset["level"]
    values = np.atleast_1d(level.values).astype(np.float64)
    units = str(level.attrs.get("units", "hPa"))
    if units.lower() in ("pa", "pascal"):
        values = values / 100.0
    elif units.lower() not in ("hpa", "millibars", "millibar", "mbar", "mb"):
        raise UserError(f"{name} has levels in {units!r}, not in hPa: choose pressure levels")
    return [round(value) if abs(value - round(value)) < 1e-6 else None for value in values]


def _slice_if_consecutive(indices: NDArray[np.integer]) -> Any:
    """The same selection as a slice where it is one: every reader is faster with those."""
    if np.all(np.diff(indices) == 1):
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return indices
