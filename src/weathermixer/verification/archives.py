"""States by time, and expected states: of a WeatherMixer store, or of Zarr after WeatherBench 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from weathermixer.data.grid import Grid
from weathermixer.data.store.store import DAYS_IN_YEAR, Store
from weathermixer.errors import UserError
from weathermixer.verification.fields import Fields, open_zarr

State = NDArray[np.float32]


class States(Protocol):
    """States by time: ``times (time,)``, in any order, none of them twice."""

    @property
    def grid(self) -> Grid: ...

    @property
    def channels(self) -> tuple[str, ...]: ...

    @property
    def times(self) -> NDArray[np.datetime64]: ...

    def times_per_chunk(self, channels: Sequence[str]) -> int:
        """How many times are read about as fast as one."""

    def read(self, start: int, stop: int, channels: Sequence[str]) -> State:
        """States ``(time, channel, latitude, longitude)`` of some indices, as far as there are."""


class Climate(Protocol):
    """The state that is expected at a time of the year and of the day."""

    @property
    def grid(self) -> Grid: ...

    @property
    def channels(self) -> tuple[str, ...]: ...

    def at(self, time: np.datetime64, channels: Sequence[str]) -> State:
        """``(channel, latitude, longitude)``."""


@dataclass(frozen=True)
class StoreStates:
    """The states, and the climatology, of a WeatherMixer store."""

    store: Store

    @property
    def grid(self) -> Grid:
        return Grid(self.store.latitude, self.store.longitude)

    @property
    def channels(self) -> tuple[str, ...]:
        return self.store.channels

    @property
    def times(self) -> NDArray[np.datetime64]:
        return self.store.times

    def times_per_chunk(self, channels: Sequence[str]) -> int:
        return 1

    def read(self, start: int, stop: int, channels: Sequence[str]) -> State:
        indices = self.store.channel_indices(channels)
        times = range(start, min(stop, len(self.times)))
        return np.stack([self.store.read(time, indices) for time in times])

    def at(self, time: np.datetime64, channels: Sequence[str]) -> State:
        return self.store.climatology_at(time, self.store.channel_indices(channels))


@dataclass(frozen=True)
class ZarrStates:
    """The states of a Zarr archive with the dimension ``time``."""

    fields: Fields
    times: NDArray[np.datetime64]

    @classmethod
    def of(cls, fields: Fields) -> ZarrStates:
        """Raises UserError where times are of another calendar, or repeated."""
        times = fields.dataset["time"].values
        if times.dtype.kind != "M" or len(np.unique(times)) < len(times):
            raise UserError(
                f"{fields.path} has times that are repeated or not of the standard (Gregorian) "
                "calendar: correct them first"
            )
        return cls(fields, times.astype("datetime64[s]"))

    @property
    def grid(self) -> Grid:
        return self.fields.grid

    @property
    def channels(self) -> tuple[str, ...]:
        return self.fields.channels

    def times_per_chunk(self, channels: Sequence[str]) -> int:
        return self.fields.chunk("time", channels)

    def read(self, start: int, stop: int, channels: Sequence[str]) -> State:
        return self.fields.read(channels, time=np.arange(start, min(stop, len(self.times))))


@dataclass(frozen=True)
class ZarrClimate:
    """A climatology as WeatherBench 2 publishes it, by ``hour`` and ``dayofyear``."""

    fields: Fields

    @property
    def grid(self) -> Grid:
        return self.fields.grid

    @property
    def channels(self) -> tuple[str, ...]:
        return self.fields.channels

    def at(self, time: np.datetime64, channels: Sequence[str]) -> State:
        """As of a store: of the hours the last at or before, of the days the nearest."""
        midnight = time.astype("datetime64[D]")
        hour = (time - midnight) / np.timedelta64(1, "h")
        day = (midnight - midnight.astype("datetime64[Y]")).astype(int) + 1
        hours, days = (self.fields.dataset[name].values for name in ("hour", "dayofyear"))
        apart = np.abs(days - day)
        index = {
            "hour": np.array([np.argmin((hour - hours) % 24)]),
            "dayofyear": np.array([np.argmin(np.minimum(apart, DAYS_IN_YEAR - apart))]),
        }
        return self.fields.read(channels, **index)[0, 0]


def open_states(path: str) -> StoreStates | ZarrStates:
    """Raises UserError where there are no states at ``path``."""
    dataset = open_zarr(path, "store")
    if "weathermixer_store" in dataset.attrs:
        return StoreStates(Store.open(Path(path)))
    return ZarrStates.of(Fields.of(path, dataset, ("time",), "analysis"))


def open_climate(path: str) -> StoreStates | ZarrClimate:
    """Raises UserError where there is no climatology at ``path``."""
    dataset = open_zarr(path, "climatology")
    if "weathermixer_store" not in dataset.attrs:
        return ZarrClimate(Fields.of(path, dataset, ("hour", "dayofyear"), "climatology"))
    store = Store.open(Path(path))
    if not store.has_climatology:
        raise UserError(f"{path} has no climatology: prepare it again, without --no-climatology")
    return StoreStates(store)
