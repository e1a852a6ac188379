"""The energy of fields by zonal wavenumber: what a forecast that blurs has too little of.

The definition is that of ``ZonalEnergySpectrum`` in WeatherBench 2 (Rasp et al. 2024,
doi:10.1029/2023MS004019). With f[l], l = 0 … L − 1, the values along a circle of latitude φ, whose
circumference is C = 2π a cos φ, in metres,

    F[k] = (1/L) Σₗ f[l] exp(−2πi k l / L)
    S[k] = C |F[k]|² for k = 0 and, where L is even, k = L/2;  2 C |F[k]|² between

which counts k and −k together, so that Parseval's relation holds: Σₖ S[k] = (C/L) Σₗ f[l]².
WeatherBench 2 doubles k = L/2 too, which has no partner; that one number is twice as large there.
S is averaged over the rows of a region by their area, and over initial times. Its unit is m times
the square of the field's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from weathermixer.data.grid import Grid
from weathermixer.verification.regions import Regions
from weathermixer.verification.scores import MODEL, TRUTH, Scores

Values = NDArray[np.float64]

EARTH_RADIUS_M = 6_367_500.0  # of WeatherBench 2: the mean of 6357 and 6378 km
_VALUES_PER_BLOCK = 1 << 18


@dataclass(frozen=True)
class ZonalSpectrum:
    """Computes the energy by zonal wavenumber of states on one grid, averaged over ``regions``.

    ``circumference_m (latitude,)`` is the length of each circle of latitude in metres. There are no
    wavenumbers, and no ``num_columns``, unless columns go all round the globe in equal steps.
    """

    regions: Regions
    circumference_m: Values
    num_columns: int

    @classmethod
    def of(cls, grid: Grid, regions: Regions) -> ZonalSpectrum:
        """The spectrum of states on a grid, averaged over regions of it."""
        circumference = 2.0 * np.pi * EARTH_RADIUS_M * np.cos(np.deg2rad(grid.latitude))
        return cls(regions, circumference, grid.shape[1] if grid.has_even_columns else 0)

    @property
    def num_wavenumbers(self) -> int:
        """How many wavenumbers there are, from 0 on."""
        return self.num_columns // 2 + 1 if self.num_columns else 0

    def __call__(self, state: NDArray[np.floating]) -> Values:
        """Spectra ``(region, wavenumber, channel)`` of ``state (channel, latitude, longitude)``.

        Those of an ensemble ``(member, channel, latitude, longitude)`` are the mean of its
        members'.
        """
        if state.ndim > 3:
            spectra: Values = np.mean([self(member) for member in state], axis=0)
            return spectra
        result = np.empty((len(self.regions.names), self.num_wavenumbers, len(state)))
        if not self.num_columns:
            return result
        both_signs = np.full(self.num_wavenumbers, 2.0)
        both_signs[0] = 1.0
        if self.num_columns % 2 == 0:
            both_signs[-1] = 1.0
        weights = self.regions.row_weights * self.circumference_m
        step = max(1, _VALUES_PER_BLOCK // state[0].size)
        for start in range(0, len(state), step):
            block = slice(start, start + step)
            waves = np.fft.rfft(state[block].astype(np.float64), norm="forward")
            energy = waves.real**2 + waves.imag**2
            result[..., block] = np.moveaxis(weights @ energy, 0, -1)
        return result * both_signs[:, None]


@dataclass(frozen=True)
class Spectra:
    """Mean spectra: ``values[source]`` is ``(lead, region, wavenumber, channel)``.

    Sources are the forecasts, by name, and the truth; the unit is m times the square of the
    channel's. ``lead_hours (lead,)`` are the lead times in hours, ``regions`` and ``channels``
    names.
    """

    channels: tuple[str, ...]
    lead_hours: tuple[float, ...]
    regions: tuple[str, ...]
    values: Mapping[str, Values]

    @property
    def num_wavenumbers(self) -> int:
        """How many wavenumbers there are, from 0 on; none on grids that have no spectra."""
        return next(iter(self.values.values())).shape[2]

    def series(self, source: str, region: str, channel: str) -> Values:
        """The spectra of a source in a region and a channel, ``(lead, wavenumber)``."""
        place = self.regions.index(region), slice(None), self.channels.index(channel)
        series: Values = self.values[source][:, *place]
        return series

    def to_json(self, region: str) -> dict[str, Any]:
        """The spectra of one region as an object of JSON, to nine digits.

        ``forecast``, ``truth`` and each of ``beside`` are ``{channel: {lead hours: [by
        wavenumber]}}``.
        """
        by_source = {source: self._by_channel(source, region) for source in self.values}
        return {
            "wavenumber": list(range(self.num_wavenumbers)),
            "forecast": by_source.pop(MODEL),
            "truth": by_source.pop(TRUTH),
            "beside": by_source,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any] | None, region: str, scores: Scores) -> Self:
        """The spectra of one region from the object of JSON that ``to_json`` made.

        Without a record there are no wavenumbers, for the channels and lead times of ``scores``.
        Raises KeyError, TypeError, ValueError, AttributeError or IndexError where the record is
        something else.
        """
        if not record or not record["wavenumber"]:
            empty = np.empty((len(scores.lead_hours), 1, 0, len(scores.channels)))
            sources = (MODEL, *scores.beside, TRUTH)
            return cls(scores.channels, scores.lead_hours, (region,), dict.fromkeys(sources, empty))
        channels = tuple(record["truth"])
        leads = sorted(record["truth"][channels[0]], key=float)
        by_source = {
            MODEL: record["forecast"],
            **record.get("beside", {}),
            TRUTH: record["truth"],
        }
        shape = len(leads), 1, len(record["wavenumber"]), len(channels)
        values = {}
        for source, by_channel in by_source.items():
            values[source] = np.empty(shape)
            for index, channel in enumerate(channels):
                for lead, hours in enumerate(leads):
                    values[source][lead, 0, :, index] = by_channel[channel][hours]
        return cls(channels, tuple(map(float, leads)), (region,), values)

    def _by_channel(self, source: str, region: str) -> dict[str, dict[str, list[float]]]:
        return {
            channel: {
                f"{hours:g}": [float(f"{value:.9g}") for value in spectrum]
                for hours, spectrum in zip(
                    self.lead_hours, self.series(source, region, channel).tolist(), strict=True
                )
            }
            for channel in self.channels
        }

    def write(self, path: Path) -> None:
        """Write all spectra to a NetCDF file; OSError where that is impossible."""
        xr.Dataset(
            {
                "energy": (
                    ("source", "lead_hours", "region", "zonal_wavenumber", "channel"),
                    np.stack(list(self.values.values())),
                    {"long_name": "zonal energy spectrum", "units": "m × square of the channel's"},
                )
            },
            {
                "source": list(self.values),
                "lead_hours": list(self.lead_hours),
                "region": list(self.regions),
                "zonal_wavenumber": np.arange(self.num_wavenumbers),
                "channel": list(self.channels),
            },
        ).to_netcdf(path, engine="h5netcdf")
