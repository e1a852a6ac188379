"""Scoring a forecast while it is made: ``verify``'s sums, of whole fields as they come."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from weathermixer.data.grid import Grid, find_placement
from weathermixer.forecast.scores_in_progress import ScoresInProgress
from weathermixer.forecast.whole_fields import WholeFields
from weathermixer.jigsaw.layout import Dimension
from weathermixer.jigsaw.mesh import Mesh, gather_objects
from weathermixer.verification.metrics import Metric
from weathermixer.verification.pair_sums import PairSums
from weathermixer.verification.pairing import Pairing
from weathermixer.verification.truth import CACHE_BYTES


class Scorer:
    """Adds the forecasts of a model instance to sums, which are on disk after every batch.

    Each rank has the sums of its share of ``channels``, which are those of its part of the states;
    ``longitudes`` is how these are cut, and ``grid`` what they are on. All ranks make one together,
    and find what was summed before an interruption.
    """

    def __init__(
        self,
        pairing: Pairing,
        metrics: Sequence[Metric],
        scores: Path,
        mesh: Mesh,
        *,
        channels: Sequence[str],
        longitudes: Dimension,
        grid: Grid,
    ) -> None:
        self._pairing, self._rank = pairing, mesh.layout.rank
        self._in_progress = ScoresInProgress(scores)
        self._whole_fields = WholeFields(mesh, len(channels), longitudes)
        self._channels = [channels[place] for place in self._whole_fields.places]
        placement = find_placement(pairing.grid, grid)
        assert placement is not None, "the grids of a pairing fit together"
        self._placement = placement
        self._sums: PairSums | None = None
        self._finished: set[int] = set()
        if self._channels:
            before = self._in_progress.load(self._rank)
            sums, self._finished = before or (None, set())
            # The ranks of an instance together keep as much as a process that verifies.
            kept = max(1, CACHE_BYTES // mesh.layout.ways)
            self._sums = PairSums(pairing, metrics, self._channels, sums=sums, cache_bytes=kept)
        known = gather_objects((mesh.data.index, self._finished if self._channels else None))
        of_instance = [
            finished
            for instance, finished in known
            if instance == mesh.data.index and finished is not None
        ]
        self._finished_by_all = set.intersection(*of_instance)

    def has(self, batch: Sequence[int]) -> bool:
        """Whether every rank of this instance has forecasts from these initial times in its sums.

        They are given by their places among all initial times.
        """
        return self._finished_by_all.issuperset(batch)

    def adding(
        self, batch: Sequence[int], forecasts: Iterator[NDArray[np.float32]]
    ) -> Iterator[NDArray[np.float32]]:
        """Hand on forecasts from some initial times, by lead time, adding each to the sums.

        They are this rank's parts ``(len(batch), channel, latitude, longitude)`` in SI units. They
        are finished once ``save`` says so. Raises UserError where the truth cannot be read.
        """
        for lead, states in enumerate(forecasts):
            self._add(batch, lead, states)
            yield states
            del states  # or it would be kept while the next is made

    def save(self, batch: Sequence[int]) -> None:
        """Write the sums, all forecasts of a batch being in them; UserError if impossible."""
        self._finished.update(batch)
        if self._sums is not None:
            self._in_progress.save(self._rank, self._channels, self._sums.sums, self._finished)

    def _add(self, batch: Sequence[int], lead: int, states: NDArray[np.float32]) -> None:
        fields = self._whole_fields(states)
        if self._sums is None:
            return
        for time, state in zip(batch, fields, strict=True):
            if self._pairing.pairs[time, lead] and time not in self._finished:
                self._sums.add(time, lead, [self._placement(state)])


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
