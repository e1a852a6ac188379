"""States behind a link of a known bandwidth, which takes no processor time to fill it."""

from __future__ import annotations

import threading
import time
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from weathermixer.data.states import Indices, States

# What a link may have saved up while nothing was asked for: several times the milliseconds by
# which timers wake late, a small part of the time that a sample takes.
BURST_SECONDS = 0.1


class Bucket:
    """Delivers bytes at no more than a fixed rate, whoever asks: a token bucket.

    Between any two moments ``t`` seconds apart it delivers at most
    ``bytes_per_second · (t + BURST_SECONDS)`` bytes, besides the end of one request.
    """

    def __init__(self, bytes_per_second: float) -> None:
        self.bytes_per_second = bytes_per_second
        self._free_at = float("-inf")
        self._lock = threading.Lock()

    def seconds_until_delivered(self, num_bytes: int) -> float:
        """Queue bytes behind those asked for before; returns the seconds until the last arrives."""
        with self._lock:
            now = time.monotonic()
            start = max(self._free_at, now - BURST_SECONDS)
            self._free_at = start + num_bytes / self.bytes_per_second
            return max(0.0, self._free_at - now)


class _Throttled:
    """States whose values arrive when their chunks have come through a link."""

    def __init__(self, states: States, bucket: Bucket) -> None:
        self._states, self._bucket = states, bucket

    def __getattr__(self, name: str) -> Any:
        return getattr(self._states, name)

    def read(
        self, index: int, channels: Indices = slice(None), longitudes: slice = slice(None)
    ) -> NDArray[np.float32]:
        state = self._states.read(index, channels, longitudes)
        cost = self._states.reading_cost(channels, longitudes)
        time.sleep(self._bucket.seconds_until_delivered(cost.touched_bytes))
        return state


def throttled(states: States, bytes_per_second: float) -> States:
    """The same states, of whose values this rank receives so many bytes a second.

    What counts are the bytes of all chunks that hold what is asked for, in float32.
    """
    return cast(States, _Throttled(states, Bucket(bytes_per_second)))
