"""Writing a forecast as Zarr, or as NetCDF where its name ends so, so that it is whole or absent.

Layout (Zarr v3, after the conventions of WeatherBench 2; plain xarray decodes it)::

    VARIABLE   (time, prediction_timedelta, level, latitude, longitude)  on pressure levels
    VARIABLE   (time, prediction_timedelta, latitude, longitude)         at the surface
    time       initial times;  prediction_timedelta  lead times, the first one step long

An ensemble has the dimension ``realization`` after ``time``, whose values are its members' numbers.
The analysis itself, lead time zero, is not repeated. A forecast is written as ``NAME.partial`` and
renamed when it is whole; a mark for each that is finished lets an interrupted one go on. That is
Zarr, into which many ranks write at once, for NetCDF too: its file is made of it in the end.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from weathermixer.data.channels import DIAGNOSTIC_VARIABLES, PRESSURE_VARIABLES, VARIABLES
from weathermixer.data.partial_files import partial_path, write_error
from weathermixer.data.store.arrays import consolidate, write_array, write_grid
from weathermixer.data.time_steps import to_seconds
from weathermixer.errors import UserError
from weathermixer.forecast.forecast_description import ForecastDescription
from weathermixer.forecast.netcdf import is_netcdf, write_netcdf

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
    **dict.fromkeys(DIAGNOSTIC_VARIABLES, "lwe_thickness_of_precipitation_amount"),
}
_PROGRESS = ".progress"


class ForecastWriter:
    """Fills a forecast, some initial times at once, and continues one that was interrupted.

    Of several ranks, one creates the forecast and finishes it; each fills its own part, some
    ``channels`` (by default all) and ``longitudes`` of the whole forecast, with its own writer.
    """

    def __init__(
        self,
        path: Path,
        description: ForecastDescription,
        *,
        channels: Sequence[int] | None = None,
        longitudes: slice = slice(None),
    ) -> None:
        self.path = path
        self._longitudes = longitudes
        self._targets = description.targets(
            range(len(description.channels)) if channels is None else channels
        )
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
        """Whether a forecast, by its place among all, was marked as finished."""
        return (self._marks / str(index)).exists()

    def write(self, indices: Sequence[int], steps: Iterable[NDArray[np.float32]]) -> Iterator[int]:
        """Write some forecasts, by place among all, yielding the number of steps taken so far.

        ``steps`` gives, for one lead time after another, the part of the states that this writer
        fills, ``(len(indices), channel, latitude, longitude)`` in SI units. No more of them are
        held than share a chunk. The forecasts are finished once ``mark_finished`` says so. Raises
        UserError where they cannot be written.
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

    def mark_finished(self, indices: Sequence[int]) -> None:
        """Record that every rank's part of these forecasts is on disk.

        Raises UserError where the record cannot be written.
        """
        try:
            for index in indices:
                (self._marks / str(index)).touch()
        except OSError as error:
            raise write_error(self.partial, error) from error

    def _write_leads(
        self, indices: Sequence[int], start: int, held: Sequence[NDArray[np.float32]]
    ) -> None:
        """Write the states ``held`` of consecutive lead times, the first of which is ``start``."""
        leads = slice(start, start + len(held))
        most = min(zarr.config.get("async.concurrency"), self.description.concurrent_chunks)
        try:
            with zarr.config.set({"async.concurrency": most}):
                self._write_variables(indices, leads, held)
        except OSError as error:
            raise write_error(self.partial, error) from error

    def _write_variables(
        self, indices: Sequence[int], leads: slice, held: Sequence[NDArray[np.float32]]
    ) -> None:
        """Write states of some lead times, one variable at a time so that one alone is copied."""
        for name, (levels, channels) in self._targets.items():
            array = self._arrays[name]
            for place, index in enumerate(indices):
                time, member = self.description.place(index)
                where = (time,) if self.description.members is None else (time, member)
                fields = np.empty((len(held), len(channels), *held[0].shape[2:]), np.float32)
                for states, own in zip(held, fields, strict=True):
                    states[place].take(channels, axis=0, out=own, mode="clip")  # unbuffered
                if name in PRESSURE_VARIABLES:
                    array.oindex[*where, leads, levels, :, self._longitudes] = fields
                else:
                    array[*where, leads, :, self._longitudes] = fields[:, 0]

    def finish(self) -> None:
        """Give the forecast, of which every initial time must be finished, its final name.

        Whoever calls this knows that they are: what other ranks have marked on a shared file system
        may be seen later. Raises UserError where that cannot be written.
        """
        for _ in self.finish_in_steps():
            pass

    def finish_in_steps(self) -> Iterator[int]:
        """Do as ``finish``, yielding the number of forecasts that are in the NetCDF file so far.

        Of Zarr there are no steps. Others can be told between steps that the work goes on.
        """
        try:
            if is_netcdf(self.path):
                yield from self._finish_netcdf()
            else:
                consolidate(self.partial, ignoring=_PROGRESS)
                self.partial.rename(self.path)
                shutil.rmtree(self.path / _PROGRESS)
        except OSError as error:
            raise write_error(self.partial, error) from error

    def _finish_netcdf(self) -> Iterator[int]:
        file = self._marks / "forecast.nc"
        try:
            yield from write_netcdf(self._group, file, self.description)
        except OSError:
            file.unlink(missing_ok=True)  # useless, and the disk may be full
            raise
        file.rename(self.path)
        shutil.rmtree(self.partial)


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
    write_array(
        group, "time", to_seconds(description.initial_times), ("time",),
        units="seconds since 1970-01-01T00:00:00", calendar="proleptic_gregorian",
        standard_name="forecast_reference_time", long_name="initial time",
    )  # fmt: skip
    write_array(
        # xarray takes a duration for one by the attribute ``dtype``.
        group, "prediction_timedelta", to_seconds(description.lead_times),
        ("prediction_timedelta",), units="seconds", dtype="timedelta64[ns]",
        standard_name="forecast_period", long_name="lead time",
    )  # fmt: skip
    members = () if description.members is None else (description.members,)
    if members:
        write_array(
            group, "realization", np.arange(*members, dtype=np.int64), ("realization",),
            standard_name="realization", long_name="member of the ensemble",
        )  # fmt: skip
    write_grid(group, description.latitude, description.longitude)
    if description.levels:
        write_array(
            group, "level", np.array(description.levels, dtype=np.int64), ("level",),
            units="hPa", positive="down", standard_name="air_pressure",
        )  # fmt: skip
    for name, channels in description.variables().items():
        on_levels = name in PRESSURE_VARIABLES
        levels = (len(channels),) if on_levels else ()
        group.create_array(
            name,
            shape=(
                len(description.initial_times),
                *members,
                len(description.lead_times),
                *levels,
                *description.grid,
            ),
            chunks=description.chunk_shape(name),
            dtype="float32",
            compressors=BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
            fill_value=np.nan,
            dimension_names=(
                "time",
                *("realization" for _ in members),
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
