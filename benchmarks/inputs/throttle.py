"""A Zarr store behind a link of a known bandwidth, which it fills without using the processor."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import zarr
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore

from weathermixer.data.store.store import Store

# What a link may have saved up while nothing was asked for: several requests' worth of the
# milliseconds by which timers wake late, a small part of the time that a sample takes.
BURST_SECONDS = 0.1


class Link:
    """Delivers bytes at no more than a fixed rate, whoever asks, and counts them: a token bucket.

    Between any two moments ``t`` seconds apart it delivers at most
    ``bytes_per_second · (t + BURST_SECONDS)`` bytes, besides the end of one request.
    """

    def __init__(self, bytes_per_second: float) -> None:
        self.bytes_per_second = bytes_per_second
        self.delivered_bytes = 0
        self._free_at = float("-inf")
        self._lock = threading.Lock()

    def seconds_until_delivered(self, num_bytes: int) -> float:
        """Queue bytes behind those asked for before; returns the seconds until the last arrives."""
        with self._lock:
            now = time.monotonic()
            start = max(self._free_at, now - BURST_SECONDS)
            self._free_at = start + num_bytes / self.bytes_per_second
            self.delivered_bytes += num_bytes
            return max(0.0, self._free_at - now)


class ThrottledStore(WrapperStore[LocalStore]):
    """A Zarr store whose values arrive when their bytes have come through a link."""

    def __init__(self, store: LocalStore, link: Link) -> None:
        super().__init__(store)
        self.link = link

    def _with_store(self, store: LocalStore) -> Self:
        return type(self)(store, self.link)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read a value, and wait until its bytes have come through the link."""
        value = await super().get(key, prototype, byte_range)
        if value is not None:
            await asyncio.sleep(self.link.seconds_until_delivered(len(value)))
        return value

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Read parts of values, and wait until their bytes have come through the link."""
        requests = (self.get(key, prototype, byte_range) for key, byte_range in key_ranges)
        return list(await asyncio.gather(*requests))


def open_throttled(path: Path, link: Link) -> Store:
    """Open a store whose every byte comes through the link."""
    store = ThrottledStore(LocalStore(path, read_only=True), link)
    return Store(path, zarr.open_group(store, mode="r", use_consolidated=False))
