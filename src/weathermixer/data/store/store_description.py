"""What a store will hold, known before its first state is written."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weathermixer.data.store.chunks import PlannedMeshes
from weathermixer.data.time_steps import to_seconds


@dataclass(frozen=True)
class StoreDescription:
    """What a store will hold, known before its first state is written.

    ``times (time,)`` are datetime64, increasing; ``latitude`` and ``longitude`` are degrees, either
    direction; ``static (static_channel, latitude, longitude)``. ``step_hours`` is the interval over
    which increments are measured. ``attributes`` must be JSON; say there where the data came from.
    ``planned_meshes`` are those that chunks are made for.
    """

    channels: tuple[str, ...]
    times: NDArray[np.datetime64]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    step_hours: float
    static_channels: tuple[str, ...] = ()
    static: NDArray[np.float32] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    planned_meshes: PlannedMeshes | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """Numbers of latitudes and longitudes."""
        return len(self.latitude), len(self.longitude)

    def fingerprint(self) -> str:
        """A text equal for two descriptions exactly when one may continue the other's store."""
        return json.dumps(
            {
                "channels": self.channels,
                "static_channels": self.static_channels,
                "times": to_seconds(self.times).tolist(),
                "latitude": self.latitude.tolist(),
                "longitude": self.longitude.tolist(),
                "step_hours": self.step_hours,
                "attributes": self.attributes,
                "planned": self.planned_meshes and asdict(self.planned_meshes),
            },
            sort_keys=True,
        )
