"""Reading samples ahead of the step that needs them, on background threads.

Decoding a chunk holds Python's lock for milliseconds, which a small model would feel; states of a
small data set therefore stay in memory once they were read.
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.feeding.upload import Upload
from weathermixer.data.forcings import Forcings
from weathermixer.data.states import States
from weathermixer.data.time_steps import to_hours
from weathermixer.jigsaw.activity import ACTIVITY

AHEAD = 2  # batches that are being read, or wait, while one is used
THREADS = 2

_MEMORY_SHARE = 8  # of the machine's memory, one part in so many is for states that were read

_WORTH_KEEPING = 0.1  # of the states; visited in random order, a smaller part is rarely hit


@dataclass(frozen=True)
class Batch:
    """Consecutive normalised states of several samples, and the forcings of the steps between them.

    ``states (batch, input times + rollout, channel, latitude, longitude)`` and ``forcings (batch,
    rollout, forcing, latitude, longitude)``, which may be none, lie on the device that they were
    read for; ``indices (batch, input times + rollout)`` are the states' places among the store's
    times. ``bytes_read`` is what reading them takes, as decoded from the store, whether or not some
    were still in memory.
    """

    states: Tensor
    forcings: Tensor
    indices: NDArray[np.int64]
    bytes_read: int


class StateReader:
    """Reads, checks and normalises single states of a store, from any thread.

    It reads the channels and longitudes of ``normalisation`` alone, the latter at ``longitudes``
    in the store; ``forcings`` are computed beside them, on the same part of the grid, for the steps
    that begin at the last of ``input_times`` states and later. ``num_states`` is how many different
    states will be asked for; where a good part of them fits in ``memory_bytes``, as many as fit are
    kept, unnormalised, in float32.
    """

    def __init__(
        self,
        store: States,
        normalisation: Normalisation,
        dtype: torch.dtype,
        *,
        num_states: int,
        longitudes: slice = slice(None),
        memory_bytes: int,
        forcings: Forcings | None = None,
        input_times: int = 1,
    ) -> None:
        self.store = store
        self.input_times = input_times
        self.forcings = forcings or Forcings(
            (), normalisation.latitude, normalisation.longitude, to_hours(store.step)
        )
        self.normalisation = normalisation
        self.dtype = dtype
        self._channels = store.channel_indices(normalisation.channels)
        self._longitudes = longitudes
        state_bytes = 4 * len(normalisation.channels) * math.prod(normalisation.grid)
        fitting = memory_bytes // state_bytes
        self._free = fitting if fitting >= _WORTH_KEEPING * num_states else 0
        self._kept: dict[int, NDArray[np.float32]] = {}
        self._lock = threading.Lock()

    def fill(self, slot: NDArray[np.floating], index: int) -> int:
        """Write the normalised state at a time index into ``slot (channel, latitude, longitude)``.

        Returns the bytes that reading it takes. Raises UserError where the store is damaged there.
        """
        state = self._kept.get(index)
        if state is None:
            state = self.store.read(index, self._channels, self._longitudes)
            with self._lock:
                if self._free > 0 and index not in self._kept:
                    self._kept[index] = state
                    self._free -= 1
        self.normalisation.normalise(state, out=slot)
        return state.nbytes

    def fill_forcings(self, slot: NDArray[np.floating], index: int) -> int:
        """Write the forcings of the step that begins at a time index into a slot of their shape.

        Returns the bytes that reading them takes: none.
        """
        self.forcings.fill(slot, self.store.times[index])
        return 0


def read_ahead(
    reader: StateReader,
    plan: Iterable[NDArray[np.int64]],
    *,
    device: torch.device | None = None,
    ahead: int = AHEAD,
    threads: int = THREADS,
) -> Generator[Batch, None, None]:
    """Yield the batches of a plan of time indices ``(batch, times)``, in its order.

    While one batch is used, ``ahead`` others are being read, or wait. On an accelerator, ``device``
    (by default the processor), the next one is copied there meanwhile. Close the generator
    (``contextlib.closing``) to stop early; errors of the threads are raised in their batch's turn.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read-ahead")
    stream = None if device is None or device.type == "cpu" else torch.Stream(device)
    try:
        yield from _in_order((_submit(pool, reader, indices, stream) for indices in plan), ahead)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def buffer_bytes(batch_bytes: int, state_bytes: int) -> int:
    """The most bytes that reading ahead holds: of batches, and of what its threads are reading.

    Another batch is begun while the last one is still used. ``state_bytes`` are those of one state
    of a batch, which a thread holds compressed, as chunks and put together.
    """
    return (AHEAD + 2) * batch_bytes + 3 * THREADS * state_bytes


def kept_states_bytes(ranks: int) -> int:
    """Bytes in which each of the ``ranks`` of this machine may keep states that it has read."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return memory // _MEMORY_SHARE // ranks


@dataclass
class _PendingBatch:
    """A batch that is being read into tensors, which are then copied to the stream's device.

    ``times`` are those of the store, among which ``indices`` are places; ``reads`` are those of the
    states, then those of the forcings.
    """

    states: Tensor
    forcings: Tensor
    indices: NDArray[np.int64]
    times: NDArray[np.datetime64]
    reads: list[Future[int]]
    stream: torch.Stream | None
    upload: Upload | None = None

    def begin_upload(self) -> None:
        """Begin to copy the batch, where it is to be and is read."""
        if self.stream is not None and self.upload is None and all(map(Future.done, self.reads)):
            self.upload = Upload((self.states, self.forcings), self.stream)

    def batch(self) -> Batch:
        with ACTIVITY.waiting_alone_for(self), ACTIVITY.named("wait for samples"):
            bytes_read = sum(read.result() for read in self.reads)
        self.begin_upload()
        states, forcings = self.states, self.forcings
        if self.upload is not None:
            states, forcings = self.upload.wait()
        return Batch(states, forcings, self.indices, bytes_read)

    def __str__(self) -> str:
        """What of it is being read, such as ``the store: state of 2010-01-01T06:00:00``."""
        missing = (
            index
            for index, read in zip(self.indices.ravel(), self.reads, strict=False)
            if not read.done()
        )
        index = next(missing, None)
        return "the store" if index is None else f"the store: state of {self.times[index]}"


def _submit(
    pool: ThreadPoolExecutor,
    reader: StateReader,
    indices: NDArray[np.int64],
    stream: torch.Stream | None,
) -> _PendingBatch:
    shape = (len(reader.normalisation.channels), *reader.normalisation.grid)
    begins = indices[:, reader.input_times - 1 : -1]  # of steps
    reads: list[Future[int]] = []

    def filled(
        fill: Callable[[NDArray[np.floating], int], int],
        times: NDArray[np.int64],
        shape: tuple[int, ...],
    ) -> Tensor:
        # Allocated by torch: NumPy aligns to 16 bytes only, and vectorised sums may depend on that.
        fields = torch.empty(
            (*times.shape, *shape), dtype=reader.dtype, pin_memory=stream is not None
        )
        if fields.numel():  # of no forcings there is nothing to compute
            slots = fields.flatten(0, 1).numpy()
            reads.extend(
                pool.submit(fill, slot, int(index))
                for slot, index in zip(slots, times.ravel(), strict=True)
            )
        return fields

    states = filled(reader.fill, indices, shape)
    forcings = filled(reader.fill_forcings, begins, reader.forcings.shape)
    return _PendingBatch(states, forcings, indices, reader.store.times, reads, stream)


def _in_order(batches: Iterator[_PendingBatch], ahead: int) -> Iterator[Batch]:
    waiting: deque[_PendingBatch] = deque()
    for pending in batches:
        waiting.append(pending)
        if len(waiting) > ahead:
            yield _next_of(waiting)
    while waiting:
        yield _next_of(waiting)


def _next_of(waiting: deque[_PendingBatch]) -> Batch:
    batch = waiting.popleft().batch()
    if waiting:
        waiting[0].begin_upload()  # while this batch is used
    return batch
