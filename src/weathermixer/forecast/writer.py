"""The forecast Zarr: its layout, and writing it so that it is whole or absent.

Layout (Zarr v3, after the conventions of WeatherBench 2; plain xarray decodes it)::

    VARIABLE   (time, prediction_timedelta, level, latitude, longitude)  on pressure levels
    VARIABLE   (time, prediction_timedelta, latitude, longitude)         at the surface
    time       initial times;  prediction_timedelta  lead times, the first one step long

The analysis itself, lead time zero, is not repeated. A forecast is written as ``NAME.partial`` and
renamed when it is whole; a mark for each finished initial time lets an interrupted one go on.
"""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from weathermixer.data.channels import PRESSURE_VARIABLES, VARIABLES, Channel, parse_channel
from weathermixer.data.store.store import partial_path, write_error
from weathermixer.errors import UserError

# Names of the CF standard name table, version 90.
_STANDARD_NAMES = {
    "geopotential": "geopotential",
    "specific_humidity": "specific_humidity",
    "temperature": "air_temperature",
    "u_component_of_wind": "eastward_wind",
    "v_component_of_wind": "northward_wind",
    "mean_sea_level_pressure": "air_pressure_at_mean_sea_level",
    "10m_u_component_of_wind": "eastward_wind",
    "10m_v_component_of_wind": "northward_wind",
    "2m_temperature": "air_temperature",
}
# Small fields share a chunk with those of other levels and lead times, so that a forecast on a
# coarse grid is not a hundred thousand files; finer than about half a degree each has its own.
_LARGEST_CHUNK_BYTES = 1024 * 1024
# Zarr compresses several chunks at once and holds each of them three times over.
_BYTES_AT_ONCE = 16 * 1024 * 1024
_PROGRESS = ".progress"


@dataclass(frozen=True)
class ForecastDescription:
    """What a forecast will hold, known before its first step.

    ``initial_times (time,)`` datetime64, increasing; ``lead_times (lead,)`` timedelta64;
    ``latitude`` and ``longitude`` in degrees. ``attributes`` are JSON that says what made it: two
    forecasts are the same, and one may continue the other, where all of this is equal.

    Where several ranks write, a chunk must belong to one of them: ``longitudes_per_chunk`` divides
    every boundary between their longitudes, and with ``levels_apart`` each level has chunks of its
    own.
    """

    channels: tuple[str, ...]
    initial_times: NDArray[np.datetime64]
    lead_times: NDArray[np.timedelta64]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    attributes: dict[str, Any] = field(default_factory=dict)
    longitudes_per_chunk: int | None = None
    levels_apart: bool = False

    @property
    def chunk_grid(self) -> tuple[int, int]:
        """Latitudes and longitudes in a chunk."""
        return len(self.latitude), self.longitudes_per_chunk or len(self.longitude)

    @property
    def levels_per_chunk(self) -> int:
        together = 4 * max(len(self.levels), 1) * math.prod(self.chunk_grid)
        if self.levels_apart or together > _LARGEST_CHUNK_BYTES:
            return 1
        return max(len(self.levels), 1)

    @property
    def grid(self) -> tuple[int, int]:
        return len(self.latitude), len(self.longitude)

    @property
    def levels(self) -> tuple[int, ...]:
        """Pressure levels, hPa, increasing."""
        parsed = (parse_channel(name).level_hpa for name in self.channels)
        return tuple(sorted({level for level in parsed if level is not None}))

    @property
    def leads_per_chunk(self) -> int:
        return max(1, min(_LARGEST_CHUNK_BYTES // self._lead_bytes, len(self.lead_times)))

    @property
    def chunks_at_once(self) -> int:
        """How many chunks may be in the making."""
        return max(1, _BYTES_AT_ONCE // (self.leads_per_chunk * self._lead_bytes))

    @property
    def _lead_bytes(self) -> int:
        """Of one lead time in a chunk."""
        return 4 * self.levels_per_chunk * math.prod(self.chunk_grid)

    def fingerprint(self) -> str:
        return json.dumps(
            {
                "channels": self.channels,
                "initial_times": _seconds(self.initial_times).tolist(),
                "lead_times": _seconds(self.lead_times).tolist(),
                "latitude": self.latitude.tolist(),
                "longitude": self.longitude.tolist(),
                "attributes": self.attributes,
                "chunks": [self.levels_per_chunk, *self.chunk_grid],
            },
            sort_keys=True,
        )

    def variables(self) -> dict[str, list[int]]:
        """For each variable, where its channels stand; by increasing level where it has levels."""
        parsed = [parse_channel(name) for name in self.channels]
        result: dict[str, list[int]] = {}
        for channel in parsed:
            if channel.variable in PRESSURE_VARIABLES:
                wanted = [Channel(channel.variable, level) for level in self.levels]
            else:
                wanted = [channel]
            result[channel.variable] = [parsed.index(each) for each in wanted]
        return result

    def targets(self, channels: slice) -> dict[str, tuple[list[int], list[int]]]:
        """Where some of the channels go: for each variable, its levels, and their own places."""
        places = {place: here for here, place in enumerate(range(len(self.channels))[channels])}
        result: dict[str, tuple[list[int], list[int]]] = {}
        for name, members in self.variables().items():
            own = [(level, places[place]) for level, place in enumerate(members) if place in places]
            if own:
                levels, sources = zip(*own, strict=True)
                result[name] = (list(levels), list(sources))
        return result


class ForecastWriter:
    """Fills a forecast, some initial times at once, and can be picked up again.

    Of several ranks, one creates the forecast and finishes it; each fills its own part, the
    channels and longitudes of these slices, with a writer of its own.
    """

    def __init__(
        self,
        path: Path,
        description: ForecastDescription,
        *,
        channels: slice = slice(None),
        longitudes: slice = slice(None),
    ) -> None:
        self.path = path
        self._longitudes = longitudes
        self._targets = description.targets(channels)
        self.partial = partial_path(path)
        self.description = description
        self._marks = self.partial / _PROGRESS
        self._group = zarr.open_group(self.partial, mode="r+", use_consolidated=False)
        self._arrays: dict[str, Any] = {name: self._group[name] for name in description.variables()}

    @classmethod
    def create(cls, path: Path, description: ForecastDescription) -> None:
        """Begin a forecast, or find one that was begun with an equal description.

        Raises UserError where ``path`` exists, or where the begun forecast is another one.
        """
        refuse_existing(path)
        partial = partial_path(path)
        record = partial / _PROGRESS / "description.json"
        fingerprint = description.fingerprint()
        try:
            if record.exists():
                if record.read_text(encoding="utf-8") != fingerprint:
                    raise UserError(
                        f"{partial} is an unfinished forecast of another model, store, period, "
                        "length or mesh: remove it, or choose another place"
                    )
                return
            if partial.exists():
                shutil.rmtree(partial)  # killed before anything was computed
            partial.parent.mkdir(parents=True, exist_ok=True)
            _create_arrays(partial, description)
            record.parent.mkdir()
            record.write_text(fingerprint, encoding="utf-8")
        except OSError as error:
            raise write_error(partial, error) from error

    def is_finished(self, index: int) -> bool:
        """Whether the forecast from this initial time is on disk."""
        return (self._marks / str(index)).exists()

    def write(self, indices: Sequence[int], steps: Iterable[NDArray[np.float32]]) -> Iterator[int]:
        """Write the forecasts from some initial times, yielding the number of steps taken so far.

        ``steps`` gives, for one lead time after another, the part of the states that this writer
        fills, ``(len(indices), channel, latitude, longitude)`` in SI units. No more of them are
        held than share a chunk. The forecasts are finished once ``mark`` says so.
        """
        size = self.description.leads_per_chunk
        num_leads, taken = len(self.description.lead_times), 0
        held: list[NDArray[np.float32]] = []
        for states in steps:
            held.append(states)
            del states  # or it would be kept while the next is made
            taken += 1
            if len(held) == size or taken == num_leads:
                self._write_leads(indices, taken - len(held), held)
                held.clear()
            yield taken
        assert taken == num_leads

    def mark(self, indices: Sequence[int]) -> None:
        """Remember that every part of the forecasts from these initial times is on disk."""
        try:
            for index in indices:
                (self._marks / str(index)).touch()
        except OSError as error:
            raise write_error(self.partial, error) from error

    def _write_leads(
        self, indices: Sequence[int], start: int, held: Sequence[NDArray[np.float32]]
    ) -> None:
        """Write the states of some lead times, from ``start`` on."""
        leads = slice(start, start + len(held))
        most = min(zarr.config.get("async.concurrency"), self.description.chunks_at_once)
        try:
            with zarr.config.set({"async.concurrency": most}):
                self._write_variables(indices, leads, held)
        except OSError as error:
            raise write_error(self.partial, error) from error

    def _write_variables(
        self, indices: Sequence[int], leads: slice, held: Sequence[NDArray[np.float32]]
    ) -> None:
        """One after another, so that no more than one of them is copied at a time."""
        for name, (levels, channels) in self._targets.items():
            array = self._arrays[name]
            for place, index in enumerate(indices):
                fields = np.empty((len(held), len(channels), *held[0].shape[2:]), np.float32)
                for states, own in zip(held, fields, strict=True):
                    states[place].take(channels, axis=0, out=own, mode="clip")  # unbuffered
                if name in PRESSURE_VARIABLES:
                    array.oindex[index, leads, levels, :, self._longitudes] = fields
                else:
                    array[index, leads, :, self._longitudes] = fields[:, 0]

    def finish(self) -> None:
        """Give the forecast its name; every initial time must be finished."""
        assert all(map(self.is_finished, range(len(self.description.initial_times))))
        try:
            with warnings.catch_warnings():
                # xarray asks for it, though Zarr v3 has yet to specify it; the folder of marks is
                # none of Zarr's.
                warnings.filterwarnings("ignore", message="Consolidated metadata is currently not")
                warnings.filterwarnings("ignore", message=f"Object at {_PROGRESS}")
                zarr.consolidate_metadata(self.partial)
            self.partial.rename(self.path)
            shutil.rmtree(self.path / _PROGRESS)
        except OSError as error:
            raise write_error(self.partial, error) from error


def refuse_existing(path: Path) -> None:
    """Raise UserError where there is something at ``path`` that a forecast would overwrite."""
    if path.exists():
        raise UserError(
            f"{path} exists already: choose another place for the forecast, or remove it first"
        )


def _create_arrays(partial: Path, description: ForecastDescription) -> None:
    group = zarr.create_group(
        partial,
        zarr_format=3,
        attributes={"Conventions": "CF-1.11", **description.attributes},
    )
    _write_coordinate(
        group, "time", _seconds(description.initial_times),
        units="seconds since 1970-01-01T00:00:00", calendar="proleptic_gregorian",
        standard_name="forecast_reference_time", long_name="initial time",
    )  # fmt: skip
    _write_coordinate(
        # xarray takes a duration for one by the attribute ``dtype``.
        group, "prediction_timedelta", _seconds(description.lead_times),
        units="seconds", dtype="timedelta64[ns]",
        standard_name="forecast_period", long_name="lead time",
    )  # fmt: skip
    _write_coordinate(
        group, "latitude", description.latitude, units="degrees_north", standard_name="latitude"
    )
    _write_coordinate(
        group, "longitude", description.longitude, units="degrees_east", standard_name="longitude"
    )
    if description.levels:
        _write_coordinate(
            group, "level", np.array(description.levels, dtype=np.int64),
            units="hPa", positive="down", standard_name="air_pressure",
        )  # fmt: skip
    for name, channels in description.variables().items():
        on_levels = name in PRESSURE_VARIABLES
        levels = (len(channels),) if on_levels else ()
        group.create_array(
            name,
            shape=(
                len(description.initial_times),
                len(description.lead_times),
                *levels,
                *description.grid,
            ),
            chunks=(
                1,
                description.leads_per_chunk,
                *((description.levels_per_chunk,) if on_levels else ()),
                *description.chunk_grid,
            ),
            dtype="float32",
            compressors=BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
            fill_value=np.nan,
            dimension_names=(
                "time",
                "prediction_timedelta",
                *(("level",) if on_levels else ()),
                "latitude",
                "longitude",
            ),
            attributes={
                "units": VARIABLES[name].units,
                "standard_name": _STANDARD_NAMES[name],
                "long_name": name.replace("_", " "),
            },
            config={"write_empty_chunks": True},
        )


def _write_coordinate(
    group: zarr.Group, name: str, values: NDArray[Any], **attributes: Any
) -> None:
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=values.shape,
        dimension_names=(name,),
        attributes=attributes,
    )
    array[...] = values


def _seconds(values: NDArray[Any]) -> NDArray[np.int64]:
    kind = "datetime64[s]" if values.dtype.kind == "M" else "timedelta64[s]"
    return values.astype(kind).astype(np.int64)
