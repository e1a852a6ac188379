"""How often the truth had each rank among the members of an ensemble, by lead time and channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from weathermixer.verification.scores import MODEL, Scores

RANK = "rank_"
"""What names of metrics begin with that are the bins of the histogram."""


@dataclass(frozen=True)
class RankHistogram:
    """How often the truth had each rank among the members: ``shares (lead, channel, rank)``."""

    channels: tuple[str, ...]
    lead_hours: tuple[float, ...]
    shares: NDArray[np.float64]

    @classmethod
    def taken_from(cls, scores: Scores) -> tuple[Scores, Self | None]:
        """Scores without the bins of a histogram, and the histogram; None where there are none."""
        names = [name for name in scores.metrics if name.startswith(RANK)]
        if not names:
            return scores, None
        shares = np.stack([scores.values[MODEL][name] for name in names], axis=-1)
        return scores.without(names), cls(scores.channels, scores.lead_hours, shares)

    def to_json(self) -> dict[str, dict[str, list[float]]]:
        """``{channel: {lead hours: share of each rank}}``."""
        return {
            channel: {
                f"{hours:g}": self.shares[lead, place].tolist()
                for lead, hours in enumerate(self.lead_hours)
            }
            for place, channel in enumerate(self.channels)
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any] | None, scores: Scores) -> Self | None:
        """The histogram beside some scores that ``to_json`` made; None of none.

        Raises KeyError, TypeError or ValueError where it is something else.
        """
        if not record:
            return None
        shares = [
            [record[channel][f"{hours:g}"] for channel in scores.channels]
            for hours in scores.lead_hours
        ]
        return cls(scores.channels, scores.lead_hours, np.array(shares, dtype=np.float64))
