"""From a rank's longitudes of many channels to whole fields of a few of them.

Scores are of whole fields: correlations and spectra do not add up over longitudes. So the ranks
that share the longitudes of the same channels exchange them, until each has its share of these
channels on the whole grid; what is then done with a field is done as on one rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from weathermixer.jigsaw.exchange import all_to_all
from weathermixer.jigsaw.layout import Dimension
from weathermixer.jigsaw.mesh import Mesh


class WholeFields:
    """Exchanges longitudes for channels over the ``domain`` axis.

    ``places`` are the places, among this rank's channels, of those that it has whole fields of:
    possibly none.
    """

    def __init__(self, mesh: Mesh, num_channels: int, longitudes: Dimension) -> None:
        self._domain, self._device = mesh.domain, mesh.device
        channels, size = Dimension((num_channels,)), self._domain.size
        self._shares = [channels.ranges(size, place)[0] for place in range(size)]
        self._widths = longitudes.sizes(size)
        self.places = self._shares[self._domain.index]

    def __call__(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """Whole fields ``(batch, channel share, latitude, longitude)`` of ``states``.

        ``states (batch, channel, latitude, longitude/domain)`` are this rank's part. Every rank
        along the axis calls this at the same time.
        """
        if self._domain.size == 1:
            return states
        part = torch.from_numpy(states).to(self._device)
        pieces = all_to_all(
            self._domain,
            [part[:, share.start : share.stop] for share in self._shares],
            [self._shape(states.shape, width) for width in self._widths],
        )
        whole: NDArray[np.float32] = torch.cat(pieces, dim=-1).cpu().numpy()
        return whole

    def _shape(self, shape: Sequence[int], width: int) -> tuple[int, ...]:
        batch, _, latitudes, _ = shape
        return batch, len(self.places), latitudes, width
