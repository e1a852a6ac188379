"""Scoring a forecast while it is made: sums of fields as they come, on disk after every few."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from weathermixer.forecast.field_sums import FieldSums
from weathermixer.forecast.forecast_description import ForecastDescription
from weathermixer.forecast.scores_in_progress import ScoresInProgress
from weathermixer.jigsaw.layout import Dimension
from weathermixer.jigsaw.mesh import Mesh, gather_objects
from weathermixer.verification.metrics import Metric
from weathermixer.verification.pairing import Pairing
from weathermixer.verification.truth import CACHE_BYTES


class Scorer:
    """Adds the forecasts of a model instance to sums, which are on disk after some initial times.

    Arguments are those of ``FieldSums``. All ranks make one together, and find what was summed in
    ``in_progress`` before an interruption.
    """

    def __init__(
        self,
        pairing: Pairing,
        metrics: Sequence[Metric],
        description: ForecastDescription,
        in_progress: ScoresInProgress,
        mesh: Mesh,
        *,
        part: Sequence[int],
        longitudes: Dimension,
    ) -> None:
        self._in_progress, self._rank = in_progress, mesh.layout.rank
        self._description = description
        sums, self._finished = in_progress.load(self._rank) or (None, set())
        self._fields = FieldSums(
            pairing,
            metrics,
            description,
            mesh,
            part=part,
            longitudes=longitudes,
            # The ranks of an instance together keep as much as a process that verifies.
            cache_bytes=max(1, CACHE_BYTES // mesh.layout.ways),
            before=sums,
        )
        known = gather_objects((mesh.data.index, self._finished if self._fields.channels else None))
        of_instance = [
            finished
            for instance, finished in known
            if instance == mesh.data.index and finished is not None
        ]
        self._finished_by_all = set.intersection(*of_instance)

    def has(self, forecasts: Sequence[int]) -> bool:
        """Whether every rank of this instance has the initial times of forecasts in its sums.

        They are given by their places among all forecasts.
        """
        return self._finished_by_all.issuperset(self._times(forecasts))

    def adding(
        self, batch: Sequence[int], forecasts: Iterator[NDArray[np.float32]]
    ) -> Iterator[NDArray[np.float32]]:
        """Hand on some forecasts, by lead time, adding each to the sums; none is kept here.

        They are this rank's parts ``(len(batch), channel, latitude, longitude)`` in SI units. They
        are finished once ``save`` says so. Raises UserError where the truth cannot be read.
        """
        return map(partial(self._added, batch), count(), forecasts)

    def save(self, forecasts: Sequence[int]) -> None:
        """Write the sums, in which forecasts are whole, with all members; UserError if impossible.

        They are given by their places among all forecasts.
        """
        self._finished |= self._times(forecasts)
        if self._fields.sums is not None:
            self._in_progress.save(
                self._rank, self._fields.channels, self._fields.sums, self._finished
            )

    def _added(
        self, batch: Sequence[int], lead: int, states: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        self._fields.add(batch, lead, states, but=self._finished)
        return states

    def _times(self, forecasts: Sequence[int]) -> set[int]:
        return {self._description.place(number)[0] for number in forecasts}


def digest_of_weights(model: nn.Module) -> str:
    """A short text that is equal for two networks on one mesh where all of their weights are.

    Every rank of the mesh calls this with its part, and has the same.
    """
    result = hashlib.blake2b(digest_size=8)
    for name, parameter in model.named_parameters():
        result.update(name.encode())
        values = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        result.update(values.numpy().tobytes())
    return hashlib.blake2b(
        "".join(gather_objects(result.hexdigest())).encode(), digest_size=8
    ).hexdigest()
