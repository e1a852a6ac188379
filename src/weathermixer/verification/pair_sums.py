"""Pairs taken one at a time into sums, whether forecasts are read or being made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from weathermixer.verification.metrics import Metric, Values, pair_statistics, statistics_of
from weathermixer.verification.pairing import Pairing
from weathermixer.verification.regions import Regions
from weathermixer.verification.spectrum import ZonalSpectrum
from weathermixer.verification.sums import Sums
from weathermixer.verification.truth import State

_SPECTRA_KEPT = 64


class PairSums:
    """Adds up statistics and spectra of pairs, of some ``channels``; ``sums`` are those so far.

    Statistics are those of the metrics. Candidates are the forecasts, persistence and, where there
    is one, climatology; sources of spectra are the forecasts and the truth. Of truth and
    climatology states are kept in ``cache_bytes`` each, by default as ``Truth`` does. ``sums`` of
    the same kind, where they are given, are added to. Without ``spectra`` there are none, of no
    wavenumbers.
    """

    def __init__(
        self,
        pairing: Pairing,
        metrics: Sequence[Metric],
        channels: Sequence[str],
        *,
        sums: Sums | None = None,
        cache_bytes: int | None = None,
        spectra: bool = True,
    ) -> None:
        self._pairing = pairing
        self._regions = regions = Regions.of(pairing.grid)
        spectrum = ZonalSpectrum.of(pairing.grid, regions)
        self._spectrum = spectrum = spectrum if spectra else replace(spectrum, num_columns=0)
        self._truth = truth = pairing.truth.for_channels(channels, cache_bytes=cache_bytes)
        self._statistics = statistics_of(metrics)
        self._truth_spectrum = lru_cache(_SPECTRA_KEPT)(lambda time: spectrum(truth.at(time)))
        num_forecasts, num_regions = len(pairing.forecast_names), len(regions.names)
        self.sums = sums or Sums.zero(
            len(pairing.lead_times),
            (*statistics_shape(pairing, metrics), len(channels)),
            (num_forecasts + 1, num_regions, spectrum.num_wavenumbers, len(channels)),
        )

    def add(self, time: int, lead: int, states: Sequence[State]) -> Values:
        """Add the states of all forecasts for one pair, by its indices.

        Returns the pair's statistics ``(candidate, statistic, region, channel)``. States are
        ``(channel, latitude, longitude)`` on the pairing's grid. Raises UserError where the truth
        cannot be read.
        """
        truth, valid_time = self._truth, self._pairing.valid_time(time, lead)
        candidates = [*states, truth.at(self._pairing.initial_times[time])]
        expected = truth.climatology_at(valid_time) if truth.has_climatology else None
        if expected is not None:
            candidates.append(expected)
        statistics = pair_statistics(
            self._statistics, candidates, truth.at(valid_time), expected, self._regions
        )
        spectra = np.stack([*map(self._spectrum, states), self._truth_spectrum(valid_time)])
        self.sums.add(lead, statistics, spectra)
        return statistics


def statistics_shape(pairing: Pairing, metrics: Sequence[Metric]) -> tuple[int, int, int]:
    """How many candidates, statistics and regions there are sums for, of each channel."""
    candidates = len(pairing.forecast_names) + 1 + pairing.truth.has_climatology
    return candidates, len(statistics_of(metrics)), len(Regions.of(pairing.grid).names)
