"""From a rank's parts of forecasts to ``verify``'s sums, of whole fields as they come.

Where the sums are kept is for whoever makes them: a campaign keeps them on disk, a validation adds
up those of all ranks.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from weathermixer.data.grid import Grid, find_placement
from weathermixer.forecast.forecast_description import ForecastDescription
from weathermixer.forecast.whole_fields import WholeFields
from weathermixer.jigsaw.layout import Dimension
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.verification.metrics import Metric
from weathermixer.verification.pair_sums import PairSums
from weathermixer.verification.pairing import Pairing
from weathermixer.verification.sums import Sums


class FieldSums:
    """Adds the forecasts of a model instance to sums, each rank those of its share of the channels.

    ``description`` tells what is forecast, ``part`` which of its channels are in this rank's part
    of the states, and ``longitudes`` how these are cut. ``channels`` are then those that this rank
    has whole fields of: none, perhaps, and no ``sums`` either. Of an ensemble, the members of an
    initial time are held until the last of them has come to the same lead time. Sums that there are
    ``before`` are added to; of truth and climatology each, states are kept in ``cache_bytes``.
    ``spectra`` are summed too, or not.
    """

    def __init__(
        self,
        pairing: Pairing,
        metrics: Sequence[Metric],
        description: ForecastDescription,
        mesh: Mesh,
        *,
        part: Sequence[int],
        longitudes: Dimension,
        cache_bytes: int,
        before: Sums | None = None,
        spectra: bool = True,
    ) -> None:
        self._pairing, self._description = pairing, description
        self._whole_fields = WholeFields(mesh, len(part), longitudes)
        self.channels = [description.channels[part[place]] for place in self._whole_fields.places]
        placement = find_placement(pairing.grid, Grid(description.latitude, description.longitude))
        assert placement is not None, "the grids of a pairing fit together"
        self._placement = placement
        self._members: dict[tuple[int, int], NDArray[np.float32]] = {}
        self._pair_sums: PairSums | None = None
        if self.channels:
            self._pair_sums = PairSums(
                pairing,
                metrics,
                self.channels,
                sums=before,
                cache_bytes=cache_bytes,
                spectra=spectra,
            )

    @property
    def sums(self) -> Sums | None:
        """The sums so far, on a rank that has channels."""
        return None if self._pair_sums is None else self._pair_sums.sums

    def add(
        self,
        batch: Sequence[int],
        lead: int,
        states: NDArray[np.float32],
        *,
        but: Collection[int] = (),
    ) -> None:
        """Add forecasts for a lead time, by their places among all, but for some initial times.

        ``states (len(batch), channel, latitude, longitude)`` are this rank's parts in SI units.
        Every rank of the instance calls this at the same time, with members in their order. Raises
        UserError where the truth cannot be read.
        """
        fields = self._whole_fields(states)
        if self._pair_sums is None:
            return
        for number, field in zip(batch, fields, strict=True):
            time, member = self._description.place(number)
            if self._pairing.pairs[time, lead] and time not in but:
                state = self._with_other_members(time, lead, member, self._placement(field))
                if state is not None:
                    self._pair_sums.add(time, lead, [state])

    def _with_other_members(
        self, time: int, lead: int, member: int, state: NDArray[np.float32]
    ) -> NDArray[np.float32] | None:
        """A single state, or all members' once the last of them has come."""
        members = self._description.members
        if members is None:
            return state
        if member == 0:
            self._members[time, lead] = np.empty((members, *state.shape), np.float32)
        self._members[time, lead][member] = state
        return self._members.pop((time, lead)) if member == members - 1 else None
