"""What happened, and what the climate expects at a time.

States are kept for a while, since a valid time is met again from every initial time before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from weathermixer.data.store import Store

State = NDArray[np.float32]

_CACHE_BYTES = 512 * 1024 * 1024


class Truth:
    """States and climatology ``(channel, latitude, longitude)`` of some channels of a store.

    ``at(time)`` and ``climatology_at(time)`` read them. Raises UserError where the store lacks one
    of the channels.
    """

    at: Callable[[np.datetime64], State]
    climatology_at: Callable[[np.datetime64], State]

    def __init__(self, path: Path, channels: Sequence[str]) -> None:
        store = Store.open(path)
        indices = store.channel_indices(channels)
        self.path = path
        self.latitude = store.latitude
        self.longitude = store.longitude
        self.has_climatology = store.has_climatology
        self._times = store.times
        state_bytes = 4 * len(channels) * store.grid[0] * store.grid[1]
        cached = lru_cache(maxsize=max(2, _CACHE_BYTES // state_bytes))
        self.at = cached(lambda time: store.read(store.index_of(time), indices))
        self.climatology_at = cached(lambda time: store.climatology_at(time, indices))

    def has(self, times: NDArray[np.datetime64]) -> NDArray[np.bool_]:
        """At which of some times there is a state."""
        return np.isin(times, self._times)
