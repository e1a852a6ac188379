"""Writing a store: block by block, from any number of processes, and continued after a kill.

What a store holds, and how it is laid out, is said in ``store.py``.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from weathermixer.config import Period
from weathermixer.data.channels import parse_channel
from weathermixer.data.partial_files import partial_path, write_error
from weathermixer.data.statistics import MOMENTS, cell_area_weights, field_moments, merge_moments
from weathermixer.data.store.arrays import consolidate, write_array, write_grid
from weathermixer.data.store.chunks import choose_chunk
from weathermixer.data.store.store import (
    FORMAT,
    Store,
    read_times,
    step_of,
)
from weathermixer.data.store.store_description import StoreDescription
from weathermixer.data.time_steps import to_seconds
from weathermixer.errors import UserError

TIMES_PER_BLOCK = 16
_RECORD = "description.json"
_EPOCH_UNITS = "seconds since 1970-01-01T00:00:00"

Read = Callable[[int], NDArray[np.float32]]
"""Gives the state ``(channel, latitude, longitude)`` at a time index."""


class StoreWriter:
    """Fills a store block by block, from any number of processes; a later call may continue it.

    A block is ``TIMES_PER_BLOCK`` consecutive times. Its chunk of ``moments`` is written last and
    so records that the block is done.
    """

    def __init__(self, path: Path) -> None:
        """Attach to a store being written, as a worker process does."""
        self.path = path
        self.partial = partial_path(path)
        self._group = zarr.open_group(self.partial, mode="r+", use_consolidated=False)
        self._state: Any = self._group["state"]
        self._moments: Any = self._group["moments"]
        self._times = read_times(self._group)
        self._step = step_of(self._group)
        latitude: Any = self._group["latitude"]
        self._weights = cell_area_weights(latitude[:])

    @classmethod
    def create(cls, path: Path, description: StoreDescription) -> StoreWriter:
        """Begin a store, or continue one that was begun with an equal description.

        Raises UserError where ``path`` exists, or where the begun store is of something else.
        """
        if path.exists():
            raise UserError(f"{path} exists already: choose another place, or remove it first")
        partial = partial_path(path)
        fingerprint = description.fingerprint()
        record = partial / _RECORD
        if partial.exists():
            if not record.exists():
                shutil.rmtree(partial)  # killed before the first state was written
            elif record.read_text(encoding="utf-8") != fingerprint:
                raise UserError(
                    f"{partial} is an unfinished store of other sources or settings: "
                    "remove it, or choose another place"
                )
            else:
                for torn in partial.rglob("*.partial"):  # files that a kill left half written
                    torn.unlink()
                return cls(path)
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            _create_arrays(partial, description)
            unready = record.with_suffix(".partial")
            unready.write_text(fingerprint, encoding="utf-8")
            unready.rename(record)
        except OSError as error:
            raise write_error(partial, error) from error
        return cls(path)

    def blocks(self) -> list[range]:
        """Every block, as the time indices that it covers."""
        count = len(self._times)
        return [
            range(start, min(start + TIMES_PER_BLOCK, count))
            for start in range(0, count, TIMES_PER_BLOCK)
        ]

    def missing_blocks(self) -> list[range]:
        """The blocks still to be written."""
        return [block for block in self.blocks() if np.isnan(self._moments[block[0], 0, 0])]

    def write_block(self, block: range, read: Read) -> Iterator[int]:
        """Write the block's states, yielding each time index when its state is on disk.

        ``read(index)`` gives the state ``(channel, latitude, longitude)`` at a time index; it is
        also asked for the earlier states that lie one step before the block's own. A state is held
        only until the one a step later has been written. Raises UserError where the disk is full.
        """
        later = {self.previous(index) for index in block}
        held: dict[int, NDArray[np.float32]] = {}
        moments = np.empty((len(block), *self._moments.shape[1:]))
        for position, index in enumerate(block):
            previous = self.previous(index)
            before = None
            if previous is not None:
                before = held.pop(previous) if previous in held else read(previous)
            state = read(index)
            moments[position] = field_moments(state, before, self._weights)
            try:
                self._state[index] = state
            except OSError as error:
                raise write_error(self.partial, error) from error
            if index in later:
                held[index] = state
            yield index
        try:
            self._moments[block.start : block.stop] = moments
        except OSError as error:
            raise write_error(self.partial, error) from error

    def previous(self, index: int) -> int | None:
        """The index of the time exactly one step earlier, where there is one."""
        wanted = self._times[index] - self._step
        found = int(np.searchsorted(self._times, wanted))
        return found if self._times[found] == wanted else None

    def finish(self, training: Period | None) -> None:
        """Merge the statistics of the training period (inclusive) and give the store its name.

        Without a period the store has no statistics: it can be forecast from, not trained on.
        Raises UserError where blocks are missing, where the period holds no time, or no two times
        one step apart, and where it cannot be written.
        """
        missing = self.missing_blocks()
        if missing:
            raise UserError(
                f"{self.partial} lacks {len(missing)} of {len(self.blocks())} blocks: "
                "run the same command again to continue it"
            )
        try:
            if training is not None:
                statistics = merge_moments(self._moments[:], self._times, training, self._step)
                for name in ("mean", "std", "step_std"):
                    write_array(self._group, name, getattr(statistics, name), ("channel",))
                self._group.attrs["training_period"] = [str(edge) for edge in training]
            consolidate(self.partial, ignoring=_RECORD)
            self.partial.rename(self.path)
            # Last: without it, a store that was killed here would be begun anew.
            (self.path / _RECORD).unlink()
        except OSError as error:
            raise write_error(self.partial, error) from error

    def drop_climatology(self) -> None:
        """Remove what an earlier, interrupted call wrote of a climatology."""
        if "climatology" in self._group:
            del self._group["climatology"]

    def partial_store(self) -> Store:
        """The store as written so far, for what is derived from its states before it is whole."""
        return Store(self.path, self._group)


def _create_arrays(partial: Path, description: StoreDescription) -> None:
    for name in description.channels + description.static_channels:
        parse_channel(name)
    group = zarr.create_group(
        partial,
        zarr_format=3,
        attributes={
            "weathermixer_store": FORMAT,
            "step_hours": description.step_hours,
            "Conventions": "CF-1.11",
            **description.attributes,
        },
    )
    write_array(
        group,
        "time",
        to_seconds(description.times),
        ("time",),
        units=_EPOCH_UNITS,
        calendar="proleptic_gregorian",
        standard_name="time",
    )
    write_array(group, "channel", np.array(description.channels, dtype=object), ("channel",))
    write_grid(group, description.latitude, description.longitude)
    write_array(
        group,
        "static_channel",
        np.array(description.static_channels, dtype=object),
        ("static_channel",),
    )
    static = description.static
    if static is None:
        static = np.empty((0, *description.grid), dtype=np.float32)
    write_array(group, "static", static, ("static_channel", "latitude", "longitude"))

    shape = (len(description.times), len(description.channels), *description.grid)
    channels, longitudes = choose_chunk(shape[1], description.grid, description.planned_meshes)
    group.create_array(
        "state",
        shape=shape,
        dtype="float32",
        chunks=(1, channels, shape[2], longitudes),
        shards=(
            1,
            channels * math.ceil(shape[1] / channels),
            shape[2],
            longitudes * math.ceil(shape[3] / longitudes),
        ),
        # The checksum tells a damaged chunk from weather: Blosc decodes many a flipped bit.
        compressors=(BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"), Crc32cCodec()),
        fill_value=np.nan,
        dimension_names=("time", "channel", "latitude", "longitude"),
        config={"write_empty_chunks": True},
    )
    group.create_array(
        "moments",
        shape=(shape[0], len(MOMENTS), shape[1]),
        dtype="float64",
        chunks=(TIMES_PER_BLOCK, len(MOMENTS), shape[1]),
        fill_value=np.nan,
        dimension_names=("time", "moment", "channel"),
        attributes={"moments": list(MOMENTS)},
    )
