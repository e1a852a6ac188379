"""One place that holds atmospheric states: a Zarr, NetCDF or GRIB archive, or a prepared store.

Whatever the archive calls its variables and however it orders its dimensions, here they come under
their canonical names, as ``(time, level, latitude, longitude)``, longitudes from 0 to 360. Archives
are merged in ``merging.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from weathermixer.data.archives.canonical import (
    DIMENSIONS,
    RENAMED,
    choose_member,
    known_variables,
    levels_hpa,
    with_valid_time,
)
from weathermixer.data.archives.formats import naming_errors, open_datasets
from weathermixer.data.channels import (
    PROGNOSTIC_VARIABLES,
    STATIC_VARIABLES,
    VARIABLES,
    Channel,
    parse_channel,
    units_accepted,
)
from weathermixer.data.store.reading_cost import ReadingCost, chunks_cost
from weathermixer.data.store.store import Store
from weathermixer.errors import UserError


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
        self,
        variable: str,
        levels: Sequence[int | None],
        start: int,
        stop: int,
        longitudes: slice = slice(None),
    ) -> NDArray[np.float32]:
        """``(time, level, latitude, longitude)`` of times ``start`` to ``stop``, exclusive."""

    def read_static(self, variable: str) -> NDArray[np.float32]:
        """``(latitude, longitude)``."""


def open_archives(source: str, member: int | None) -> list[Archive]:
    """The archives at a path or address: one, or several where a GRIB file mixes kinds of level.

    Raises UserError where nothing is there, or where it is in no format that can be read.
    """
    if is_store(source):
        return [StoreArchive(Store.open(source))]
    return [DatasetArchive(source, dataset, member) for dataset in open_datasets(source)]


class DatasetArchive:
    """An archive that xarray opens, read lazily."""

    def __init__(self, name: str, dataset: xr.Dataset, member: int | None) -> None:
        self.name = name
        with naming_errors(name, "opened"):
            dataset = with_valid_time(dataset, name)
            dataset = dataset.rename(
                {old: new for old, new in RENAMED.items() if old in dataset.variables}
            )
        self._variables = known_variables(dataset, name)
        self._dataset = choose_member(dataset, self._variables, name, member)
        self._check_dimensions()
        self._set_grid()
        self._set_times()
        self._levels = levels_hpa(self._dataset, name)
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
        self,
        variable: str,
        levels: Sequence[int | None],
        start: int,
        stop: int,
        longitudes: slice = slice(None),
    ) -> NDArray[np.float32]:
        array = self._dataset[self._variables[variable]]
        selection = self._selection(array, levels, longitudes)
        selection["time"] = _slice_if_consecutive(self._order[start:stop])
        return self._load(array, selection, f"{variable} at {self.times[start]}")

    def read_static(self, variable: str) -> NDArray[np.float32]:
        array = self._dataset[self._variables[variable]]
        return self._load(array, {"time": [0]}, variable)[0, 0]

    def reading_cost(
        self, variable: str, levels: Sequence[int | None], longitudes: slice
    ) -> ReadingCost:
        """The cost of reading this part of a variable at one time; UserError if it is not Zarr."""
        array = self._dataset[self._variables[variable]]
        if "chunks" not in array.encoding:
            raise UserError(
                f"{self.name} is not Zarr, which alone can be read in parts: make a store of it "
                "with 'weathermixer data prepare'"
            )
        # Under the archive's own names of dimensions, some of which may have been dropped since.
        chunks = {
            RENAMED.get(name, name): size
            for name, size in array.encoding["preferred_chunks"].items()
        }
        wanted = self._selection(array, levels, longitudes)
        wanted |= {"time": slice(0, 1), "latitude": self._rows}
        return chunks_cost(
            array.shape, [chunks[dim] for dim in array.dims], [wanted[str(d)] for d in array.dims]
        )

    def _selection(
        self, array: xr.DataArray, levels: Sequence[int | None], longitudes: slice
    ) -> dict[str, Any]:
        selection = {"longitude": self._columns(longitudes)}
        if "level" in array.dims:
            places = np.array([self._levels.index(level) for level in levels])
            selection["level"] = _slice_if_consecutive(places)
        return selection

    def _columns(self, longitudes: slice) -> Any:
        """Where the archive keeps these of the longitudes from 0 to 360."""
        count = len(self.longitude)
        columns = (np.arange(count)[longitudes] + self._first_column) % count
        # All of them are rolled after reading: readers handle whole fields best.
        return slice(None) if len(columns) == count else _slice_if_consecutive(columns)

    def _load(
        self, array: xr.DataArray, selection: dict[str, Any], what: str
    ) -> NDArray[np.float32]:
        """Fields ``(time, level, latitude, longitude)`` of a selection, by dimension.

        Rows are arranged after reading.
        """
        with naming_errors(self.name, f"read: {what}"):
            part = array.isel(selection, missing_dims="ignore")
            values = np.asarray(part.values, dtype=np.float32)
        absent = tuple(axis for axis, name in enumerate(DIMENSIONS) if name not in part.dims)
        values = values.transpose(
            [part.dims.index(name) for name in DIMENSIONS if name in part.dims]
        )
        values = np.expand_dims(values, absent)
        values = values[:, :, self._rows]
        rolled = self._first_column and values.shape[-1] == len(self.longitude)
        return np.roll(values, -self._first_column, axis=-1) if rolled else values

    def _check_dimensions(self) -> None:
        for name in self._variables.values():
            array = self._dataset[name]
            strange = [str(dim) for dim in array.dims if dim not in DIMENSIONS]
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
        self,
        variable: str,
        levels: Sequence[int | None],
        start: int,
        stop: int,
        longitudes: slice = slice(None),
    ) -> NDArray[np.float32]:
        indices = self._store.channel_indices([Channel(variable, level).name for level in levels])
        times = range(start, stop)
        return np.stack([self._store.read(index, indices, longitudes) for index in times])

    def read_static(self, variable: str) -> NDArray[np.float32]:
        return self._store.read_static([variable])[0]


def is_store(source: str) -> bool:
    """Whether there is a prepared store at a path, whole or not."""
    try:
        return "weathermixer_store" in zarr.open_group(Path(source), mode="r").attrs
    except (OSError, ValueError):
        return False


def _slice_if_consecutive(indices: NDArray[np.integer]) -> Any:
    """The same selection as a slice where it is one: every reader is faster with those."""
    if np.all(np.diff(indices) == 1):
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return indices
