"""What happened, and what the climate expects at a time, on the grid of a comparison.

States are kept for a while, since a valid time is met again from every initial time before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weathermixer.data.addresses import local_path
from weathermixer.data.archives.analyses import Analysis, is_store, open_analyses
from weathermixer.data.archives.climatologies import (
    Climatology,
    StoreClimatology,
    open_climatology,
)
from weathermixer.data.archives.left_out import LeftOut, reasons_in_words
from weathermixer.data.archives.merging import MergedAnalyses
from weathermixer.data.channels import names, parse_channel
from weathermixer.data.grid import Grid, common_grid
from weathermixer.data.store.store import Store
from weathermixer.errors import UserError

State = NDArray[np.float32]

CACHE_BYTES = 256 * 1024 * 1024
"""Memory for states of the truth; as much again is for the climatology's."""


class Truth:
    """What happened, and the climatology: states ``(channel, latitude, longitude)`` by time.

    ``at(time)`` and ``climatology_at(time)`` read them, on the truth's own grid or on ``grid``.
    The climatology is that of the archive ``climatology``, or else the truth's own where it has
    one. Of each, states are kept in ``cache_bytes``, by default ``CACHE_BYTES``, or two of them.
    Raises UserError where there are none, or where they lack one of the channels.
    """

    at: Callable[[np.datetime64], State]
    climatology_at: Callable[[np.datetime64], State]

    def __init__(
        self,
        path: Path | str,
        channels: Sequence[str],
        *,
        climatology: str | None = None,
        grid: Grid | None = None,
        cache_bytes: int | None = None,
    ) -> None:
        self.path = str(path)
        self._climatology = climatology
        self._cache_bytes = cache_bytes
        self._channels = tuple(channels)
        analyses = open_analyses(self.path, None)
        climate = open_climatology(climatology) if climatology else _own_climatology(self.path)
        self.grids = {self.path: analyses[0].grid}
        _require(self.path, _offered(analyses), channels, analyses[0].left_out)
        if climate is not None:
            self.grids[climate.name] = climate.grid
            _require(climate.name, climate.channels, channels, climate.left_out)
        self.grid = grid or common_grid(self.grids)
        self.has_climatology = climate is not None
        states = MergedAnalyses(
            analyses, [parse_channel(channel) for channel in channels], (), grid=self.grid
        )
        self.remarks = states.remarks
        self._times = states.times
        self._read_from(states, climate)

    @property
    def latitude(self) -> NDArray[np.float64]:
        """Latitudes ``(latitude,)`` of the grid's rows, degrees north."""
        return self.grid.latitude

    @property
    def longitude(self) -> NDArray[np.float64]:
        """Longitudes ``(longitude,)`` of the grid's columns, degrees east."""
        return self.grid.longitude

    def for_channels(
        self,
        channels: Sequence[str],
        grid: Grid | None = None,
        *,
        cache_bytes: int | None = None,
    ) -> Truth:
        """The truth of other channels, or on another grid, with nothing in memory yet."""
        return Truth(
            self.path,
            channels,
            climatology=self._climatology,
            grid=grid or self.grid,
            cache_bytes=cache_bytes,
        )

    def has(self, times: NDArray[np.datetime64]) -> NDArray[np.bool_]:
        """Whether there is a state at each of some times, in the shape of ``times``."""
        return np.isin(times, self._times)

    def __reduce__(self) -> tuple[Any, ...]:
        # What is kept stays behind: another process opens the archives anew.
        return _reopen, (
            self.path,
            self._channels,
            self._climatology,
            self.grid,
            self._cache_bytes,
        )

    def _read_from(self, states: MergedAnalyses, climate: Climatology | None) -> None:
        channels = self._channels
        state_bytes = 4 * len(channels) * self.grid.shape[0] * self.grid.shape[1]
        cache_bytes = self._cache_bytes or CACHE_BYTES
        together = states.times_per_chunk(states.channels)
        if 4 * together * state_bytes > cache_bytes:
            together = 1

        @lru_cache(maxsize=max(2, cache_bytes // (state_bytes * together)))
        def block(number: int) -> State:
            start = number * together
            return states.read(start, min(start + together, len(self._times)))

        def at(time: np.datetime64) -> State:
            index = int(np.searchsorted(self._times, time))
            return block(index // together)[index % together]

        self.at = at
        if climate is not None:
            expected = climate.at
            kept = lru_cache(maxsize=max(2, cache_bytes // state_bytes))
            self.climatology_at = kept(lambda time: expected(time, channels, self.grid))


def _reopen(
    path: str,
    channels: Sequence[str],
    climatology: str | None,
    grid: Grid,
    cache_bytes: int | None,
) -> Truth:
    return Truth(path, channels, climatology=climatology, grid=grid, cache_bytes=cache_bytes)


def _own_climatology(path: str) -> Climatology | None:
    if not is_store(path):
        return None
    store = Store.open(local_path(path))
    return StoreClimatology(store) if store.has_climatology else None


def _offered(analyses: Sequence[Analysis]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names(c for analysis in analyses for c in analysis.channels)))


def _require(
    path: str, held: Sequence[str], wanted: Sequence[str], left_out: Sequence[LeftOut]
) -> None:
    lacking = [name for name in wanted if name not in held]
    if lacking:
        raise UserError(
            f"{path} lacks {', '.join(lacking)}: it holds {', '.join(held)}"
            f"{reasons_in_words(path, left_out)}; verify against one that has them, or forecast "
            "fewer variables"
        )
