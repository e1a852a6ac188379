"""A forecast beside the truth: whether they fit together, and which pairs of states to compare."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from weathermixer.errors import UserError
from weathermixer.verification.reader import Forecast
from weathermixer.verification.truth import State, Truth

_BLOCK_BYTES = 128 * 1024 * 1024


@dataclass(frozen=True)
class Comparison:
    """A forecast and the truth, found to fit together.

    ``pairs (time, lead)`` tells which pairs of initial and lead time can be scored: the truth has a
    state at the valid time, and at the initial time, which persistence forecasts from. ``rows`` and
    ``columns`` put the forecast's fields on the truth's grid.
    """

    forecast: Forecast
    truth: Truth
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    pairs: NDArray[np.bool_]

    @classmethod
    def open(cls, forecast: Path, truth: Path) -> Comparison:
        """Raises UserError where grids, channels or times do not fit together."""
        opened = Forecast.open(forecast)
        reality = Truth(truth, opened.channels)
        rows, columns = opened.positions_of(reality.latitude, reality.longitude)
        return cls(opened, reality, rows, columns, _scorable(opened, reality))

    @property
    def times(self) -> list[int]:
        """Indices of the initial times from which anything can be scored."""
        return np.flatnonzero(self.pairs.any(axis=1)).tolist()

    def valid_time(self, time: int, lead: int) -> np.datetime64:
        valid: np.datetime64 = self.forecast.initial_times[time] + self.forecast.lead_times[lead]
        return valid

    def states(self, time: int) -> Iterator[tuple[int, State]]:
        """The forecast states from one initial time that can be scored, with their lead's index."""
        wanted = np.flatnonzero(self.pairs[time])
        state_bytes = 4 * len(self.forecast.channels) * len(self.rows) * len(self.columns)
        size = max(1, _BLOCK_BYTES // state_bytes)
        for start in range(wanted[0], wanted[-1] + 1, size):
            leads = slice(start, min(start + size, wanted[-1] + 1))
            states = self.forecast.read(time, leads, self.rows, self.columns)
            for lead in wanted[(wanted >= leads.start) & (wanted < leads.stop)]:
                yield int(lead), states[lead - start]

    def state(self, time: int, lead: int) -> State:
        """One forecast state ``(channel, latitude, longitude)``."""
        alone = slice(lead, lead + 1)
        state: State = self.forecast.read(time, alone, self.rows, self.columns)[0]
        return state


def _scorable(forecast: Forecast, truth: Truth) -> NDArray[np.bool_]:
    valid_times = forecast.initial_times[:, None] + forecast.lead_times
    pairs: NDArray[np.bool_] = truth.has(forecast.initial_times)[:, None] & truth.has(valid_times)
    if not pairs.any():
        raise UserError(
            f"{truth.path} has no pair of initial and valid time of {forecast.path}, whose initial "
            f"times run from {forecast.initial_times[0]} to {forecast.initial_times[-1]}: "
            "verify against a store that covers them"
        )
    return pairs
