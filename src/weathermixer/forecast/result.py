"""What a forecast came to, for who asked for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weathermixer.verification.verification_record import Verification


@dataclass(frozen=True)
class ForecastResult:
    """What was forecast: initial times, lead times in hours, and channels.

    ``members`` is how many an ensemble has, None of a single forecast. ``path`` is the forecast's,
    None where no field was written; ``verification`` are its scores where they were asked for, on
    the first rank.
    """

    path: Path | None
    initial_times: tuple[np.datetime64, ...]
    lead_hours: tuple[float, ...]
    channels: tuple[str, ...]
    members: int | None = None
    verification: Verification | None = None

    def to_json(self) -> dict[str, Any]:
        """The result as an object of JSON: path, times, hours, names of channels, members.

        Where there are scores, it has what ``Verification.to_json`` has too.
        """
        return {
            **(self.verification.to_json() if self.verification else {}),
            "forecast": None if self.path is None else str(self.path),
            "initial_times": [str(time) for time in self.initial_times],
            "lead_hours": list(self.lead_hours),
            "channels": list(self.channels),
            "members": self.members,
        }
