"""The state of a verification under way: sums over pairs, which add over any parts of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Sums:
    """Sums over pairs by lead time, and ``counts (lead,)`` of the pairs.

    ``values (lead, candidate, statistic, region, channel)`` are sums of statistics, ``energy
    (lead, source, region, wavenumber, channel)`` of spectra.
    """

    values: Values
    energy: Values
    counts: NDArray[np.int64]

    @classmethod
    def zero(cls, num_leads: int, statistics: tuple[int, ...], spectra: tuple[int, ...]) -> Self:
        """The sums over no pairs, for statistics and spectra of a pair of these shapes."""
        return cls(
            np.zeros((num_leads, *statistics)),
            np.zeros((num_leads, *spectra)),
            np.zeros(num_leads, np.int64),
        )

    def add(self, lead: int, statistics: Values, spectra: Values) -> None:
        """Add the statistics and spectra of one pair at a lead time, by its index."""
        self.values[lead] += statistics
        self.energy[lead] += spectra
        self.counts[lead] += 1

    def merge(self, other: Sums) -> Sums:
        """The sums over these pairs and the others'."""
        return Sums(
            self.values + other.values, self.energy + other.energy, self.counts + other.counts
        )

    def join_channels(self, other: Sums) -> Sums:
        """The sums of these channels and of the others', over the same pairs."""
        return Sums(
            np.concatenate([self.values, other.values], axis=-1),
            np.concatenate([self.energy, other.energy], axis=-1),
            self.counts,
        )

    def of_channels(self, places: Sequence[int]) -> Sums:
        """The sums of some of these channels, by their places, in that order."""
        return Sums(self.values[..., places], self.energy[..., places], self.counts)

    def save(self, file: Path | IO[bytes], **further: Any) -> None:
        """Write the sums, and ``further`` arrays, as ``.npz``; OSError where that is impossible."""
        np.savez(file, values=self.values, energy=self.energy, counts=self.counts, **further)

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read the sums that ``save`` wrote."""
        with np.load(file) as arrays:
            return cls(arrays["values"], arrays["energy"], arrays["counts"])

    def means(self) -> tuple[Values, Values]:
        """Mean ``values`` and ``energy`` over pairs; NaN at lead times without any."""
        with np.errstate(invalid="ignore"):
            counts = self.counts.reshape(-1, 1, 1, 1, 1)
            return self.values / counts, self.energy / counts
