"""Ranks that read their parts of samples from storage of a limited rate, and do nothing else.

They read as a training does: the same states, parts, reader and reading ahead. The limit is put
where files are read, below everything that decodes, and every byte that passes there is counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr.storage._local as files_of_zarr

from weathermixer.config import Data
from weathermixer.console import muted
from weathermixer.data.channels import names, predicted_channels
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.feeding.read_ahead import StateReader, read_ahead
from weathermixer.data.opening import open_states
from weathermixer.data.states import States
from weathermixer.data.store import exact_store
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.architecture import Architecture
from weathermixer.model.cuts import Part
from weathermixer.scaling.throttle import Bucket

STATES = 2
"""States of a sample: one that the network is given, and one that it is to reach."""


@dataclass(frozen=True)
class Reading:
    """The bytes that a rank fetched for each of its samples, and the seconds that one took."""

    bytes_per_sample: float
    seconds_per_sample: float


class LimitedStorage:
    """All files of local Zarr, read at no more than ``bytes_per_second``; at any rate without."""

    def __init__(self, bytes_per_second: float | None) -> None:
        self.num_bytes = 0
        self._rate = bytes_per_second
        self._bucket: Bucket | None = None
        for module, name in ((files_of_zarr, "_get"), (exact_store, "_read")):
            setattr(module, name, self._limited(getattr(module, name)))

    def begin(self) -> None:
        """Count and limit from here on."""
        self.num_bytes = 0
        if self._rate is not None:
            self._bucket = Bucket(self._rate)

    def _limited(self, read: Callable[..., Any]) -> Callable[..., Any]:
        def limited(*arguments: Any) -> Any:
            found = read(*arguments)
            self.num_bytes += len(found)
            if self._bucket is not None:
                time.sleep(self._bucket.seconds_until_delivered(len(found)))
            return found

        return limited


def read_as_rank(
    answer: Connection,
    meet: Callable[[], object],
    source: Path,
    data: Data,
    architecture: Architecture,
    layout: Layout,
    samples: int,
    bytes_per_second: float | None,
) -> None:
    """Send what reading so many samples took as the rank of a mesh that ``layout`` describes.

    It begins when all ranks ``meet``. It is to be called in a process of its own, whose files stay
    limited.
    """
    torch.set_num_threads(1)
    storage = LimitedStorage(bytes_per_second)
    with muted():
        states = open_states(source, data)
    part = Part.on(Mesh.describe(layout), architecture)
    reader = StateReader(
        states,
        part.of(_normalisation_of(states, data)),
        torch.float32,
        num_states=len(states.times),
        longitudes=part.longitudes,
        memory_bytes=0,  # of an archive of decades, hardly a state is met again in an epoch
    )
    states.read(len(states.times) - 1, slice(0, 1), slice(0, 1))  # with it, what is read once
    first = np.arange(samples)[:, None, None] * STATES % (len(states.times) - STATES)
    meet()
    storage.begin()
    start = time.monotonic()
    for _ in read_ahead(reader, first + np.arange(STATES)):
        pass
    seconds = time.monotonic() - start
    answer.send(Reading(storage.num_bytes / samples, seconds / samples))


def _normalisation_of(states: States, data: Data) -> Normalisation:
    """A normalisation that leaves values as they are, of no static fields."""
    channels = names(predicted_channels(data))
    zeros, ones = np.zeros(len(channels)), np.ones(len(channels))
    nothing = np.empty((0, *states.grid), dtype=np.float32)
    return Normalisation(
        channels, zeros, ones, ones, (), nothing, states.latitude, states.longitude
    )
