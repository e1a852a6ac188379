"""Which states of a forecast are compared with which of the truth, wherever the forecast is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from weathermixer.data.grid import Grid, area_name, common_grid
from weathermixer.data.time_steps import to_hours
from weathermixer.errors import UserError
from weathermixer.verification.scores import MODEL
from weathermixer.verification.truth import Truth


@dataclass(frozen=True)
class Pairing:
    """A forecast and the truth, found to fit together.

    ``channels``, ``initial_times (time,)`` and ``lead_times (lead,)`` are the forecast's, and
    ``grid`` is the truth's, but for a row at the south pole that one of them lacks. ``pairs (time,
    lead)`` tells which pairs can be scored: the truth has a state at the valid time, and at the
    initial time, which persistence forecasts from.
    """

    truth: Truth
    grid: Grid
    channels: tuple[str, ...]
    initial_times: NDArray[np.datetime64]
    lead_times: NDArray[np.timedelta64]
    pairs: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        truth: Path | str,
        forecast: str,
        channels: Sequence[str],
        initial_times: NDArray[np.datetime64],
        lead_times: NDArray[np.timedelta64],
        grids: Mapping[str, Grid],
        *,
        climatology: str | None = None,
    ) -> Self:
        """Open the truth, and find which pairs of it and of a ``forecast``, as messages call it.

        ``grids`` are the forecasts', by name. ``climatology`` is an archive in the place of the
        truth's own. Raises UserError where grids or channels do not fit together, or no times.
        """
        reality = Truth(truth, channels, climatology=climatology)
        grid = common_grid({**reality.grids, **grids})
        pairs = reality.has(initial_times)[:, None] & reality.has(
            initial_times[:, None] + lead_times
        )
        if not pairs.any():
            raise UserError(
                f"{truth} has no pair of initial and valid time of {forecast}, whose initial times "
                f"run from {initial_times.min()} to {initial_times.max()}: verify against a store "
                "that covers them"
            )
        reality = reality.for_channels(channels, grid)
        return cls(reality, grid, tuple(channels), initial_times, lead_times, pairs)

    @property
    def forecast_names(self) -> tuple[str, ...]:
        """Names of the forecasts that are compared, the model's first."""
        return (MODEL,)

    @property
    def lead_hours(self) -> tuple[float, ...]:
        """The lead times in hours."""
        return tuple(to_hours(self.lead_times).tolist())

    @property
    def times(self) -> NDArray[np.intp]:
        """Indices of the initial times from which anything can be scored."""
        return np.flatnonzero(self.pairs.any(axis=1))

    @property
    def num_unscored(self) -> int:
        """How many pairs cannot be scored, for lack of truth."""
        return int((~self.pairs).sum())

    def valid_time(self, time: int, lead: int) -> np.datetime64:
        """The time that a forecast is for, by the indices of its initial and its lead time."""
        valid: np.datetime64 = self.initial_times[time] + self.lead_times[lead]
        return valid

    def warnings(self) -> Iterator[str]:
        """Sentences for the user about what of the scores will be lacking."""
        yield from self.truth.remarks
        if self.num_unscored:
            yield (
                f"{self.num_unscored} of {self.pairs.size} pairs of initial and lead time were "
                f"left out: {self.truth.path} has no state at their valid or initial time"
            )
        if not self.truth.has_climatology:
            yield (
                f"{self.truth.path} has no climatology: acc, activity and the climatology "
                "baseline are left out"
            )
        grid = self.grid
        if not grid.is_global:
            yield f"the data cover {area_name(grid)}, not the globe: all scores are of that region"
        if not grid.has_area:
            yield (
                f"the grid has {grid.shape[0]} × {grid.shape[1]} points (latitude × longitude), a "
                "single row or column, whose width is not known: scores are means along it, and "
                "there are no maps"
            )
        if not grid.goes_round:
            yield "longitudes do not go all round the globe: spectra are left out"
        elif not grid.has_even_columns:
            yield "the grid's longitudes are not evenly spaced: spectra are left out"
