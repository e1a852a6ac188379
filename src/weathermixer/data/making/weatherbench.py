"""A store copied into the form in which WeatherBench 2 keeps analyses, for its tools and others.

Layout (Zarr v3; plain xarray opens it)::

    VARIABLE   (time, level, latitude, longitude)  float32, SI units, one chunk per time
    VARIABLE   (time, latitude, longitude)         at the surface
    VARIABLE   (latitude, longitude)               static fields

It is written as ``NAME.partial`` and renamed when it is whole; interrupted, the same command goes
on.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from weathermixer.config import Period
from weathermixer.console import Progress
from weathermixer.credentials import without_credentials
from weathermixer.data.partial_files import partial_path, write_error
from weathermixer.data.store.arrays import consolidate, write_array, write_grid
from weathermixer.data.store.store import Store
from weathermixer.data.time_steps import to_seconds
from weathermixer.data.variables import attributes_of, variables_of
from weathermixer.errors import UserError

_DONE = ".progress"
_TOGETHER = 16  # times between two notes of how far it is


def export_store(
    store_path: Path | str,
    out: Path,
    *,
    period: Period | None = None,
    progress: Progress | None = None,
) -> None:
    """Copy the states of a store, those of a ``period`` alone (both ends inclusive), and static.

    ``progress(done, total)`` counts times. Raises UserError where there is no such store, where the
    period holds none of its times, where ``out`` exists or an unfinished one of other states does,
    and where it cannot be written.
    """
    store = Store.open(store_path)
    if out.exists():
        raise UserError(f"{out} exists: remove it, or choose another place")
    first, last = period or (store.times[0], store.times[-1])
    kept = np.flatnonzero((store.times >= first) & (store.times <= last))
    if not len(kept):
        raise UserError(
            f"{store.path} has no state from {first} to {last}: it spans {store.times[0]} to "
            f"{store.times[-1]}"
        )
    partial, which = partial_path(out), f"{store.fingerprint()} {kept[0]} {kept[-1]}"
    try:
        done = _begin(partial, store, kept, which)
        for number in _copied(partial, store, kept, done):
            if number % _TOGETHER == 0:
                _note(partial, which, number)
            if progress is not None:
                progress(number, len(kept))
        consolidate(partial, ignoring=_DONE)
        partial.rename(out)
        (out / _DONE).unlink()
    except OSError as error:
        raise write_error(partial, error) from error


def _begin(partial: Path, store: Store, kept: NDArray[np.intp], which: str) -> int:
    """Make the arrays, or find those that were begun; how many times have been copied."""
    note = partial / _DONE
    if note.exists():
        begun, _, done = note.read_text(encoding="utf-8").rpartition(" ")
        if begun != which:
            raise UserError(f"{partial} is of other states: remove it, or choose another place")
        return int(done)
    if partial.exists():
        shutil.rmtree(partial)  # killed before anything was copied
    partial.parent.mkdir(parents=True, exist_ok=True)
    about = {"source": without_credentials(str(store.path)), "Conventions": "CF-1.11"}
    group = zarr.create_group(partial, zarr_format=3, attributes=about)
    write_array(
        group, "time", to_seconds(store.times[kept]), ("time",),
        units="seconds since 1970-01-01T00:00:00", calendar="proleptic_gregorian",
        standard_name="time",
    )  # fmt: skip
    write_grid(group, store.latitude, store.longitude)
    levels = _levels(store)
    if levels:
        write_array(
            group, "level", np.array(levels, np.int64), ("level",),
            units="hPa", positive="down", standard_name="air_pressure",
        )  # fmt: skip
    for name, places in variables_of(store.channels).items():
        on_levels = None not in places
        shape = (*((len(levels),) if on_levels else ()), *store.grid)
        group.create_array(
            name,
            shape=(len(kept), *shape),
            chunks=(1, *shape),
            dtype="float32",
            compressors=BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
            fill_value=np.nan,
            dimension_names=("time", *(("level",) if on_levels else ()), "latitude", "longitude"),
            attributes=dict(attributes_of(name)),
            config={"write_empty_chunks": True},
        )
    for name, field in zip(
        store.static_channels, store.read_static(store.static_channels), strict=True
    ):
        write_array(group, name, field, ("latitude", "longitude"), **attributes_of(name))
    _note(partial, which, 0)
    return 0


def _note(partial: Path, which: str, done: int) -> None:
    """Record how many of which times have been copied, whole or not at all."""
    note = partial_path(partial / _DONE)
    note.write_text(f"{which} {done}", encoding="utf-8")
    note.replace(partial / _DONE)


def _copied(partial: Path, store: Store, kept: NDArray[np.intp], done: int) -> Iterator[int]:
    """Copy the times that are not ``done``, yielding how many are after each."""
    group = zarr.open_group(partial, mode="r+", use_consolidated=False)
    arrays: dict[str, Any] = {name: group[name] for name in variables_of(store.channels)}
    levels = _levels(store)
    for number in range(done, len(kept)):
        state = store.read(int(kept[number]))
        for name, places in variables_of(store.channels).items():
            if None in places:
                arrays[name][number] = state[places[None]]
                continue
            field = np.full((len(levels), *store.grid), np.nan, np.float32)
            rows = [levels.index(level) for level in places if level is not None]
            field[rows] = state[list(places.values())]
            arrays[name][number] = field
        yield number + 1


def _levels(store: Store) -> list[int]:
    """The levels that any variable has, hPa, increasing."""
    by_variable = variables_of(store.channels).values()
    return sorted({level for places in by_variable for level in places if level is not None})
