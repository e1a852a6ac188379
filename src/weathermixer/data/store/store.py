"""The store: one Zarr group that holds every state of a data set, its grid and its statistics.

Layout (Zarr v3; plain xarray opens it)::

    state        (time, channel, latitude, longitude)  float32, one shard per time
    static       (static_channel, latitude, longitude) float32
    mean, std, step_std                 (channel)      float64, of the training period
    moments      (time, moment, channel)               float64, per time: see ``statistics.py``
    climatology  (hour, dayofyear, channel, latitude, longitude)  float32, optional

A store is written beside its final place, as ``NAME.partial``, and renamed when it is whole, so
that a half-finished one is never taken for it. Statistics are kept per time and merged on demand:
one pass over the data serves any training period.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from weathermixer import __version__
from weathermixer.config import Period, Reader
from weathermixer.console import Progress
from weathermixer.credentials import without_credentials
from weathermixer.data.addresses import (
    file_system,
    is_address,
    read_errors,
)
from weathermixer.data.annual_cycle import last_hour, nearest_day
from weathermixer.data.partial_files import partial_path
from weathermixer.data.states import ALONE, Indices, Workers, digest, find_time
from weathermixer.data.statistics import Statistics, merge_moments
from weathermixer.data.store.exact_store import ExactStore
from weathermixer.data.store.reading_cost import ReadingCost, chunks_cost
from weathermixer.data.store.tensorstore_reader import open_with_tensorstore
from weathermixer.data.time_steps import to_timedelta
from weathermixer.errors import UserError

FORMAT = 1


@dataclass(frozen=True)
class Store:
    """A whole store, open for reading: the Zarr ``group`` at ``path``, or at that address.

    Reading is thread-safe. ``tensorstore`` is the array of states where that library shall read it,
    to the same bits.
    """

    path: Path | str
    group: zarr.Group
    tensorstore: Any = None

    @classmethod
    def open(cls, path: Path | str, *, reader: Reader = "zarr") -> Store:
        """Open a store; UserError where there is none, or only an unfinished one.

        ``path`` may be an address, such as ``s3://bucket/era5.zarr``. ``reader`` is the library
        that reads states, which may have to be installed, and reads local stores alone (UserError).
        """
        if isinstance(path, str) and is_address(path):
            return cls._open_remote(path, reader)
        path = Path(path)
        if not path.exists():
            if partial_path(path).exists():
                raise UserError(
                    f"{path} is only half prepared (found {partial_path(path).name}): "
                    "run the command that prepares it again, and it will continue"
                )
            raise UserError(f"there is no store at {path}: correct the path, or prepare it first")
        try:
            group = zarr.open_group(
                ExactStore(path, read_only=True), mode="r", use_consolidated=False
            )
            version = group.attrs.get("weathermixer_store")
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{path} cannot be opened as a Zarr group ({error}): is it a prepared store?"
            ) from error
        _require_format(version, path)
        if path.name.endswith(".partial"):
            raise UserError(f"{path} is only half prepared: run the command that prepares it again")
        if reader == "tensorstore":
            return cls(path, group, open_with_tensorstore(path / "state"))
        return cls(path, group)

    @classmethod
    def _open_remote(cls, address: str, reader: Reader) -> Store:
        name = without_credentials(address)
        if reader != "zarr":
            raise UserError(
                f"data.reader={reader} reads local stores alone, and {name} is an address: set "
                "data.reader=zarr, or copy the store"
            )
        file_system(address)  # says which package is lacking
        try:
            group = zarr.open_group(address, mode="r")
            version = group.attrs.get("weathermixer_store")
        except read_errors() as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"{name} cannot be opened as a Zarr group ({reason}): is it a prepared store?"
            ) from error
        _require_format(version, name)
        return cls(name, group)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences about what is left out: none, since all that a store holds is used."""
        return ()

    @cached_property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels, in the order in which states hold them."""
        return tuple(str(name) for name in self.array("channel"))

    @cached_property
    def static_channels(self) -> tuple[str, ...]:
        """Names of the static fields."""
        return tuple(str(name) for name in self.array("static_channel"))

    @cached_property
    def times(self) -> NDArray[np.datetime64]:
        """Times ``(time,)`` of the states, UTC, to the second, increasing."""
        return read_times(self.group)

    @cached_property
    def latitude(self) -> NDArray[np.float64]:
        """Latitudes ``(latitude,)`` of the rows, degrees north."""
        return self.array("latitude")

    @cached_property
    def longitude(self) -> NDArray[np.float64]:
        """Longitudes ``(longitude,)`` of the columns, degrees east, from 0 to 360."""
        return self.array("longitude")

    @cached_property
    def statistics(self) -> Statistics:
        """Mean and standard deviations of the training period that the store was made for.

        Raises UserError where the store was made without, from a single time.
        """
        self._require_training_period()
        return Statistics(self.array("mean"), self.array("std"), self.array("step_std"))

    def fingerprint(self) -> str:
        """A short text that two stores share when they describe the same states."""
        if not self.has_statistics:
            return digest(self)
        statistics = self.statistics
        return digest(self, statistics.mean, statistics.std, statistics.step_std)

    @property
    def grid(self) -> tuple[int, int]:
        """Numbers of latitudes and longitudes."""
        return len(self.latitude), len(self.longitude)

    @property
    def bytes_on_disk(self) -> int:
        """Bytes of all files of the store."""
        if isinstance(self.path, str):
            files, path = file_system(self.path)
            return int(files.du(path))
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the Zarr group, such as where the data came from."""
        return dict(self.group.attrs)

    @property
    def step(self) -> np.timedelta64:
        """The interval over which increments were measured."""
        return step_of(self.group)

    @property
    def has_statistics(self) -> bool:
        """Whether the store has statistics of a training period; one of a single time has none."""
        return "training_period" in self.group.attrs

    @property
    def training_period(self) -> Period:
        """The period of the statistics, both ends inclusive; UserError where there are none."""
        self._require_training_period()
        start, stop = self.attributes["training_period"]
        return np.datetime64(start, "s"), np.datetime64(stop, "s")

    def statistics_over(
        self, period: Period, progress: Progress | None = None, workers: Workers = ALONE
    ) -> Statistics:
        """Statistics of any period (inclusive), merged from the moments of its times.

        No state is read: ``progress`` is never called, and ``workers`` divide nothing. Raises
        UserError where the period holds no two times that are one step apart.
        """
        return merge_moments(self.array("moments"), self.times, period, self.step)

    @cached_property
    def _state(self) -> Any:
        """The array of states; both libraries index it alike."""
        return self.group["state"] if self.tensorstore is None else self.tensorstore

    def _require_training_period(self) -> None:
        if not self.has_statistics:
            raise UserError(
                f"{self.path} has no statistics, being of a single time: forecast from it with a "
                "trained run, or prepare a store of more times to train on"
            )

    def array(self, name: str) -> Any:
        """Read one of the group's small arrays whole, such as ``mean``, ``moments`` or ``hour``."""
        member: Any = self.group[name]
        return member[...]

    def channel_indices(self, wanted: Sequence[str]) -> Indices:
        """Indices of the wanted channels in a state; a slice where they stand side by side.

        Raises UserError naming those that the store lacks.
        """
        lacking = [name for name in wanted if name not in self.channels]
        if lacking:
            raise UserError(
                f"{self.path} lacks {', '.join(lacking)}: it holds {', '.join(self.channels)}; "
                "prepare it with these variables and levels, or leave them out of the configuration"
            )
        indices = [self.channels.index(name) for name in wanted]
        if indices == list(range(indices[0], indices[0] + len(indices))):
            return slice(indices[0], indices[0] + len(indices))
        return indices

    def index_of(self, time: np.datetime64) -> int:
        """The index of exactly this time; UserError, naming the nearest one, where it is absent."""
        return find_time(self, time)

    def read(
        self, index: int, channels: Indices = slice(None), longitudes: slice = slice(None)
    ) -> NDArray[np.float32]:
        """The state at a time index, ``(channel, latitude, longitude)``, or a part of it.

        Raises UserError, naming the time, where the bytes are corrupt, truncated or missing.
        """
        return self._checked(
            # Of a TensorStore, this is a view; reading it is converting it.
            lambda: np.asarray(self._state.oindex[index, channels, :, longitudes]),
            f"state at {self.times[index]}",
            np.array(self.channels)[channels].tolist(),
        )

    def reading_cost(self, channels: Indices, longitudes: slice) -> ReadingCost:
        """The cost of reading these channels and longitudes of one state."""
        array: Any = self.group["state"]
        wanted = (slice(0, 1), channels, slice(None), longitudes)
        return chunks_cost(array.shape, array.chunks, wanted)

    def read_static(self, wanted: Sequence[str]) -> NDArray[np.float32]:
        """Static fields ``(static_channel, latitude, longitude)`` under the wanted names.

        Raises UserError naming those that the store lacks, or where they cannot be read.
        """
        lacking = [name for name in wanted if name not in self.static_channels]
        if lacking:
            raise UserError(
                f"{self.path} lacks the static fields {', '.join(lacking)}: prepare it from a "
                "source that has them, or leave them out of data.static"
            )
        if not wanted:
            return np.empty((0, *self.grid), dtype=np.float32)
        array: Any = self.group["static"]
        indices = [self.static_channels.index(name) for name in wanted]
        return self._checked(lambda: array.oindex[indices], "static fields", wanted)

    @property
    def has_climatology(self) -> bool:
        """Whether the store has a climatology."""
        return "climatology" in self.group

    def climatology_at(
        self, time: np.datetime64, channels: Indices = slice(None)
    ) -> NDArray[np.float32]:
        """The climatology ``(channel, latitude, longitude)`` that applies at a time.

        It is that of the kept day nearest in the year, and of the last kept hour at or before.
        Raises UserError where the store has none, or where it cannot be read.
        """
        if not self.has_climatology:
            raise UserError(
                f"{self.path} has no climatology: prepare it again, without --no-climatology"
            )
        hours, days = self.array("hour"), self.array("dayofyear")
        hour_index, day_index = last_hour(hours, time), nearest_day(days, time)
        array: Any = self.group["climatology"]
        return self._checked(
            lambda: array.oindex[hour_index, day_index, channels],
            f"climatology of day {days[day_index]}, hour {hours[hour_index]}",
            np.array(self.channels)[channels].tolist(),
        )

    def _checked(
        self, read: Callable[[], NDArray[np.float32]], what: str, fields: Sequence[str]
    ) -> NDArray[np.float32]:
        try:
            values = read()
        except read_errors() as error:
            raise UserError(
                f"{self.path}: the {what} cannot be read ({error}); its "
                "file is corrupt, truncated or out of reach: copy or prepare the store again"
            ) from error
        # One addition per value finds NaN and infinity more cheaply than a mask. Missing chunks
        # read as NaN, the fill value.
        if not np.isfinite(values.sum(dtype=np.float64)):
            bad = int(np.argwhere(~np.isfinite(values).all(axis=(1, 2)))[0, 0])
            raise UserError(
                f"{self.path}: the {what} has missing chunks or NaN, first in {fields[bad]}: "
                "copy or prepare the store again"
            )
        return values


def _require_format(version: object, name: Path | str) -> None:
    if isinstance(version, int) and version > FORMAT:
        raise UserError(
            f"{name} is a store of format {version}, which a later version of WeatherMixer wrote "
            f"and this one, {__version__}, does not read: install a later version, or prepare the "
            "store again with this one"
        )
    if version != FORMAT:
        raise UserError(
            f"{name} is not a WeatherMixer store of format {FORMAT}: "
            "make one of it with 'weathermixer data prepare'"
        )


def step_of(group: zarr.Group) -> np.timedelta64:
    """The interval over which the increments of the store in ``group`` are measured."""
    hours: Any = group.attrs["step_hours"]
    return to_timedelta(hours)


def read_times(group: zarr.Group) -> NDArray[np.datetime64]:
    """The times ``(time,)`` of the store in ``group``, to the second."""
    seconds: Any = group["time"]
    times: NDArray[np.datetime64] = seconds[:].astype("datetime64[s]")
    return times
