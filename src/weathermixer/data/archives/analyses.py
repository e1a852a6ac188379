"""States by time, as archives or prepared stores hold them, and static fields.

Whatever an archive calls its variables and however it orders its dimensions, here its states come
under canonical names, in SI units, on a wanted grid, times increasing. Several analyses are put
together in ``merging.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import zarr
from numpy.typing import NDArray

from weathermixer.data.addresses import file_system, is_address, local_path
from weathermixer.data.archives.contents import ANALYSIS, read_contents
from weathermixer.data.archives.fields import ArchivedVariable, FieldGroup, slice_if_consecutive
from weathermixer.data.archives.formats import naming_errors
from weathermixer.data.archives.left_out import LeftOut
from weathermixer.data.archives.lent import is_lent
from weathermixer.data.archives.names import LATITUDE, LEVEL, LONGITUDE, TIME
from weathermixer.data.channels import Channel, names, parse_channel
from weathermixer.data.grid import Grid, Placement
from weathermixer.data.store.reading_cost import ReadingCost, chunks_cost
from weathermixer.data.store.store import Store
from weathermixer.errors import UserError

_PROBES = 64


class Analysis(Protocol):
    """States at increasing ``times (time,)`` and static fields, on one ``grid``.

    ``left_out`` are variables of the same archive that are not used, with the reasons;
    ``is_partial`` tells whether parts of a field can be read without the rest of it, and
    ``is_checked`` whether values were found plausible before.
    """

    name: str
    times: NDArray[np.datetime64]
    grid: Grid
    channels: tuple[Channel, ...]
    static_channels: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    licence: str | None
    is_partial: bool
    is_checked: bool

    def read(
        self,
        channels: Sequence[Channel],
        start: int,
        stop: int,
        placement: Placement,
        longitudes: slice = slice(None),
    ) -> NDArray[np.float32]:
        """Read states ``(time, channel, latitude, longitude)`` from ``start`` up to ``stop``.

        Both are time indices, the last exclusive. States are in SI units, on the grid of the
        placement; ``longitudes`` are some of its columns. Raises UserError where anything was never
        written or cannot be read.
        """

    def read_static(self, variable: str, placement: Placement) -> NDArray[np.float32]:
        """Read a static field ``(latitude, longitude)`` in SI units, on a placement's grid."""

    def times_per_chunk(self, channels: Sequence[Channel]) -> int:
        """How many consecutive times of some channels are read about as fast as one."""

    def written_range(self, channels: Sequence[Channel], within: range) -> range:
        """Narrow a range of time indices to the first and last at which anything was written.

        An axis of times may go on where the data have ended, in all channels: where only some are
        missing, the archive is damaged. The storage is asked, and a field is read at either end:
        fields that hold nothing but NaN count as not written too.
        """


def open_analyses(source: str, member: int | None) -> list[Analysis]:
    """Open what is at a path or address: a prepared store, or the groups of an archive's fields.

    ``member`` is the member of an ensemble to read. Raises UserError where nothing is there, or
    nothing that can be used.
    """
    if is_store(source):
        return [StoreAnalysis(Store.open(local_path(source)))]
    contents = read_contents(source, ANALYSIS, member=member)
    licence = contents.attributes.get("licence", contents.attributes.get("license"))
    return [
        ArchiveAnalysis(
            group,
            contents.left_out,
            None if licence is None else str(licence),
            is_partial=contents.is_partial,
        )
        for group in contents.groups
    ]


class ArchiveAnalysis:
    """A group of an archive's fields as an analysis."""

    is_checked = False

    def __init__(
        self,
        group: FieldGroup,
        left_out: tuple[LeftOut, ...] = (),
        licence: str | None = None,
        *,
        is_partial: bool = True,
    ) -> None:
        self._group = group
        self.name, self.grid = group.source, group.grid
        self.left_out, self.licence, self.is_partial = left_out, licence, is_partial
        times = group.coordinates.get(TIME, np.empty(0, dtype="datetime64[s]"))
        self._order = np.argsort(times, kind="stable")
        self.times = times[self._order]
        has_states = group.leading == ANALYSIS
        self.channels = group.channels if has_states else ()
        self.static_channels = () if has_states else tuple(group.variables)

    def read(
        self,
        channels: Sequence[Channel],
        start: int,
        stop: int,
        placement: Placement,
        longitudes: slice = slice(None),
    ) -> NDArray[np.float32]:
        """Read states ``(time, channel, latitude, longitude)`` from ``start`` up to ``stop``."""
        index = {TIME: slice_if_consecutive(self._order[start:stop])}
        return self._group.read_channels(channels, index, placement, longitudes)

    def read_static(self, variable: str, placement: Placement) -> NDArray[np.float32]:
        """Read a static field ``(latitude, longitude)`` in SI units, on a placement's grid."""
        return self._group.read(variable, [None], {}, placement)[0]

    def times_per_chunk(self, channels: Sequence[Channel]) -> int:
        """How many consecutive times of some channels are read about as fast as one."""
        return self._group.chunk_length(TIME, channels)

    def written_range(self, channels: Sequence[Channel], within: range) -> range:
        """Narrow a range of time indices to the first and last at which anything was written."""
        whole = Placement.identity(self.grid)

        def is_written(channel: Channel, index: int) -> bool:
            archived = self._group.variables[channel.variable]
            level = archived.levels.index(channel.level_hpa)
            if not archived.has_chunk({TIME: int(self._order[index]), LEVEL: level}):
                return False
            try:
                field = self.read([channel], index, index + 1, whole)
            except UserError:
                return True  # which is told where the state is read
            return not np.isnan(field).all()

        # A level stands for the others of its variable: archives keep them in one array. Surface
        # fields come first, since the first one that was written settles it, and they are small.
        looked_at = sorted(
            {channel.variable: channel for channel in channels}.values(),
            key=lambda channel: channel.level_hpa is not None,
        )
        return _span(lambda index: any(is_written(each, index) for each in looked_at), within)

    def reading_cost(
        self,
        variable: str,
        levels: Sequence[int | None],
        placement: Placement,
        longitudes: slice,
    ) -> ReadingCost:
        """The cost of reading levels and longitudes of a variable at one time."""
        archived = self._group.variables[variable]
        wanted = archived.selection(
            {
                TIME: slice(0, 1),
                LEVEL: slice_if_consecutive([archived.levels.index(level) for level in levels]),
                LATITUDE: slice_if_consecutive(np.sort(placement.rows)),
                LONGITUDE: slice_if_consecutive(placement.columns[longitudes]),
            }
        )
        return chunks_cost(archived.array.shape, _chunks(archived, self.is_partial), wanted)


class StoreAnalysis:
    """A prepared store as an analysis, from which another store takes fields."""

    is_partial = is_checked = True
    licence: str | None = None
    left_out: tuple[LeftOut, ...] = ()

    def __init__(self, store: Store) -> None:
        self._store = store
        self.name = str(store.path)
        self.times = store.times
        self.grid = Grid(store.latitude, store.longitude)
        self.channels = tuple(parse_channel(name) for name in store.channels)
        self.static_channels = store.static_channels

    def read(
        self,
        channels: Sequence[Channel],
        start: int,
        stop: int,
        placement: Placement,
        longitudes: slice = slice(None),
    ) -> NDArray[np.float32]:
        """Read states ``(time, channel, latitude, longitude)`` from ``start`` up to ``stop``."""
        indices = self._store.channel_indices(names(channels))
        placed = Placement(placement.rows, placement.columns[longitudes])
        return np.stack([placed(self._store.read(time, indices)) for time in range(start, stop)])

    def read_static(self, variable: str, placement: Placement) -> NDArray[np.float32]:
        """Read a static field ``(latitude, longitude)`` in SI units, on a placement's grid."""
        return placement(self._store.read_static([variable]))[0]

    def times_per_chunk(self, channels: Sequence[Channel]) -> int:
        """How many consecutive times of some channels are read about as fast as one."""
        return 1

    def written_range(self, channels: Sequence[Channel], within: range) -> range:
        """Narrow a range of time indices to the first and last at which anything was written."""
        return within


def is_store(source: str) -> bool:
    """Whether there is a prepared store at a path or address, whole or not.

    Raises UserError where an address cannot be reached.
    """
    if is_lent(source):
        return False
    if is_address(source):
        return _is_remote_store(source)
    try:
        group = zarr.open_group(Path(local_path(source)), mode="r", use_consolidated=False)
        return "weathermixer_store" in group.attrs
    except (OSError, ValueError):
        return False


def _is_remote_store(address: str) -> bool:
    files, path = file_system(address)
    with naming_errors(address, "opened"):
        try:
            described = json.loads(files.cat_file(f"{path.rstrip('/')}/zarr.json"))
        except (FileNotFoundError, UnicodeDecodeError, json.JSONDecodeError):
            return False
    return "weathermixer_store" in described.get("attributes", {})


def _span(is_written: Callable[[int], bool], within: range) -> range:
    """The range from the first to the last written index, if written ones lie side by side.

    Where both ends are written, as usual, nothing else is asked. The whole range where none of the
    indices that were tried is written.
    """
    if not within:
        return within
    first, last = is_written(within[0]), is_written(within[-1])
    if first and last:
        return within
    inside = within[0] if first else within[-1] if last else None
    if inside is None:
        inside = next((index for index in _spread(within) if is_written(index)), None)
    if inside is None:
        return within
    start = within[0] if first else _boundary(is_written, written=inside, unwritten=within[0])
    end = within[-1] if last else _boundary(is_written, written=inside, unwritten=within[-1])
    return range(start, end + 1)


def _spread(within: range) -> Iterator[int]:
    """Yield indices from all over a range, the middle first."""
    parts = 2
    while parts <= min(len(within), _PROBES):
        yield from (within[len(within) * part // parts] for part in range(1, parts, 2))
        parts *= 2


def _boundary(is_written: Callable[[int], bool], *, written: int, unwritten: int) -> int:
    """The last written index on the way from one that is to one that is not."""
    while abs(unwritten - written) > 1:
        middle = (written + unwritten) // 2
        if is_written(middle):
            written = middle
        else:
            unwritten = middle
    return written


def _chunks(archived: ArchivedVariable, is_partial: bool) -> list[int]:
    """Sizes of what is read at once; whole fields where parts of them cannot be read."""
    array = archived.array
    if not is_partial:
        whole = {archived.dimensions[LATITUDE], archived.dimensions[LONGITUDE]}
        return [array.sizes[dim] if dim in whole else 1 for dim in array.dims]
    chunks = array.encoding["preferred_chunks"]
    return [chunks[dim] for dim in array.dims]
