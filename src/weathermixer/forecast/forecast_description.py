"""What a forecast will hold, and the chunks of its arrays, known before its first step."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weathermixer.data.channels import PRESSURE_VARIABLES, Channel, parse_channel
from weathermixer.data.time_steps import to_seconds

# Small fields share a chunk with those of other levels and lead times, so that a forecast on a
# coarse grid is not a hundred thousand files; finer than about half a degree each has its own.
_LARGEST_CHUNK_BYTES = 1024 * 1024
# Zarr compresses several chunks at once and holds each of them three times over.
_BYTES_AT_ONCE = 16 * 1024 * 1024


@dataclass(frozen=True)
class ForecastDescription:
    """What a forecast will hold, known before its first step.

    ``channels`` are names. ``initial_times (time,)`` are datetime64, increasing; ``lead_times
    (lead,)`` timedelta64; ``latitude`` and ``longitude`` in degrees. ``attributes`` are JSON that
    says what made it: two forecasts are the same, and one may continue the other, where all of this
    is equal.

    An ensemble has ``members``, so many forecasts from each initial time, counted time by time.

    Where several ranks write, a chunk must belong to one of them: ``longitudes_per_chunk`` divides
    every boundary between their longitudes, and with ``one_level_per_chunk`` each level has chunks
    of its own.
    """

    channels: tuple[str, ...]
    initial_times: NDArray[np.datetime64]
    lead_times: NDArray[np.timedelta64]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    attributes: dict[str, Any] = field(default_factory=dict)
    longitudes_per_chunk: int | None = None
    one_level_per_chunk: bool = False
    members: int | None = None

    @property
    def num_forecasts(self) -> int:
        """Forecasts from all initial times, of all members."""
        return len(self.initial_times) * (self.members or 1)

    def place(self, number: int) -> tuple[int, int]:
        """The indices of a forecast's initial time and member."""
        return divmod(number, self.members or 1)

    @property
    def chunk_grid(self) -> tuple[int, int]:
        """Numbers of latitudes and longitudes in a chunk."""
        return len(self.latitude), self.longitudes_per_chunk or len(self.longitude)

    @property
    def levels_per_chunk(self) -> int:
        """Number of pressure levels in a chunk: all of them together, or one."""
        together = 4 * max(len(self.levels), 1) * math.prod(self.chunk_grid)
        if self.one_level_per_chunk or together > _LARGEST_CHUNK_BYTES:
            return 1
        return max(len(self.levels), 1)

    @property
    def grid(self) -> tuple[int, int]:
        """Numbers of latitudes and longitudes."""
        return len(self.latitude), len(self.longitude)

    @property
    def levels(self) -> tuple[int, ...]:
        """Pressure levels, hPa, increasing."""
        parsed = (parse_channel(name).level_hpa for name in self.channels)
        return tuple(sorted({level for level in parsed if level is not None}))

    @property
    def leads_per_chunk(self) -> int:
        """Number of lead times in a chunk."""
        return max(1, min(_LARGEST_CHUNK_BYTES // self._lead_bytes, len(self.lead_times)))

    def chunk_shape(self, variable: str) -> tuple[int, ...]:
        """The shape of a chunk of a variable, in the dimensions that it has."""
        return (
            1,
            *(() if self.members is None else (1,)),
            self.leads_per_chunk,
            *((self.levels_per_chunk,) if variable in PRESSURE_VARIABLES else ()),
            *self.chunk_grid,
        )

    @property
    def concurrent_chunks(self) -> int:
        """How many chunks may be compressed at once, within the memory that is set aside for it."""
        return max(1, _BYTES_AT_ONCE // (self.leads_per_chunk * self._lead_bytes))

    @property
    def _lead_bytes(self) -> int:
        """Bytes of one lead time in a chunk."""
        return 4 * self.levels_per_chunk * math.prod(self.chunk_grid)

    def fingerprint(self) -> str:
        """A text equal for two descriptions exactly when one may continue the other's forecast."""
        return json.dumps(
            {
                "channels": self.channels,
                "initial_times": to_seconds(self.initial_times).tolist(),
                "lead_times": to_seconds(self.lead_times).tolist(),
                "latitude": self.latitude.tolist(),
                "longitude": self.longitude.tolist(),
                "attributes": self.attributes,
                "members": self.members,
                "chunks": [self.levels_per_chunk, *self.chunk_grid],
            },
            sort_keys=True,
        )

    def variables(self) -> dict[str, list[int]]:
        """Indices of each variable's channels by its name, by increasing level where it has any."""
        parsed = [parse_channel(name) for name in self.channels]
        result: dict[str, list[int]] = {}
        for channel in parsed:
            if channel.variable in PRESSURE_VARIABLES:
                wanted = [Channel(channel.variable, level) for level in self.levels]
            else:
                wanted = [channel]
            result[channel.variable] = [parsed.index(each) for each in wanted]
        return result

    def targets(self, channels: Sequence[int]) -> dict[str, tuple[list[int], list[int]]]:
        """Where a part of the channels is written: ``{variable: (level indices, part indices)}``.

        The field at an index of the part goes to the level at the index beside it.
        """
        within = {index: n for n, index in enumerate(channels)}
        result: dict[str, tuple[list[int], list[int]]] = {}
        for name, members in self.variables().items():
            pairs = [(level, within[i]) for level, i in enumerate(members) if i in within]
            if pairs:
                levels, sources = zip(*pairs, strict=True)
                result[name] = (list(levels), list(sources))
        return result
