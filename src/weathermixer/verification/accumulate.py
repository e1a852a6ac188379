"""Statistics of all pairs, in parts: some channels from some initial times, in several processes.

How the work is divided depends on the forecasts alone, and parts are merged in one order, so that
any number of processes gives the same sums, bit for bit. A process holds a block of states of each
forecast, what ``truth.py`` keeps of truth and climatology, and the sums of its part. Of these the
sums alone grow with the number of lead times, and nothing with that of initial times.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache, partial, reduce
from itertools import chain, count, groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from weathermixer.console import Progress
from weathermixer.data.channels import parse_channel
from weathermixer.errors import UserError
from weathermixer.verification.comparison import BLOCK_BYTES, Comparison
from weathermixer.verification.metrics import STATISTICS, Sums, statistics
from weathermixer.verification.regions import Regions
from weathermixer.verification.spectrum import ZonalSpectrum
from weathermixer.verification.truth import CACHE_BYTES
from weathermixer.worker_processes import Tick, default_processes, for_each

# Variables are taken together while a state of them is no larger.
_STATE_BYTES = 64 * 1024**2
# A part worth its own is at least so large; more than so many are no use to the cores of a machine.
_LEAST_PART_BYTES = 64 * 1024**2
_MOST_PARTS = 16
_SPECTRA_KEPT = 64
_PROCESS_BYTES = 512 * 1024**2  # libraries, and fields in float64


@dataclass(frozen=True)
class Part:
    """Some channels, from some initial times ``(time,)``, by their indices."""

    channels: tuple[str, ...]
    times: NDArray[np.intp]


def sum_up(
    comparison: Comparison, *, processes: int | None = None, progress: Progress | None = None
) -> Sums:
    """Sums over all pairs, in up to ``processes`` processes: by default, as many as are of use.

    Candidates are the forecasts, persistence and, where there is one, climatology; sources of
    spectra are the forecasts and the truth.
    """
    groups = list(_groups(comparison))
    parts = [list(_parts(comparison, channels)) for channels in groups]
    if processes is None:
        processes = default_processes(_memory_bytes(comparison, max(map(len, groups))))
    with tempfile.TemporaryDirectory(prefix="weathermixer-") as folder:
        try:
            for_each(
                partial(_sum_to_file, comparison, Path(folder)),
                list(enumerate(chain.from_iterable(parts))),
                processes=processes,
                ticks=len(groups) * int(comparison.pairs.sum()),
                progress=progress,
            )
        except UserError as error:
            if isinstance(error.__cause__, BrokenProcessPool):
                raise UserError(
                    "a process was killed while verifying, most likely for want of memory: run "
                    "the same command again with a smaller --processes"
                ) from error
            raise
        numbers = count()
        by_group = [
            reduce(Sums.merge, (_load(Path(folder), next(numbers)) for _ in group))
            for group in parts
        ]
    return reduce(Sums.beside, by_group)


def sum_part(comparison: Comparison, part: Part, tick: Tick) -> Sums:
    """The sums over the pairs of one part; one ``tick()`` for each."""
    regions = Regions.of(comparison.grid.latitude)
    spectrum = ZonalSpectrum.of(comparison.grid, regions)
    truth = comparison.truth.of(part.channels)
    truth_spectrum = lru_cache(_SPECTRA_KEPT)(lambda time: spectrum(truth.at(time)))
    num_forecasts, num_channels = len(comparison.forecasts), len(part.channels)
    sums = Sums.zero(
        len(comparison.lead_times),
        (
            num_forecasts + 1 + truth.has_climatology,
            len(STATISTICS),
            len(regions.names),
            num_channels,
        ),
        (num_forecasts + 1, len(regions.names), spectrum.num_wavenumbers, num_channels),
    )
    for time, lead, states in comparison.states(part.times, part.channels):
        valid_time = comparison.valid_time(time, lead)
        candidates = [*states, truth.at(comparison.initial_times[time])]
        expected = truth.climatology_at(valid_time) if truth.has_climatology else None
        if expected is not None:
            candidates.append(expected)
        sums.add(
            lead,
            statistics(candidates, truth.at(valid_time), expected, regions),
            np.stack([*map(spectrum, states), truth_spectrum(valid_time)]),
        )
        tick()
    return sums


def _sum_to_file(
    comparison: Comparison, folder: Path, numbered: tuple[int, Part], tick: Tick
) -> None:
    number, part = numbered
    sums = sum_part(comparison, part, tick)
    np.savez(folder / f"{number}.npz", values=sums.values, energy=sums.energy, counts=sums.counts)


def _load(folder: Path, number: int) -> Sums:
    with np.load(folder / f"{number}.npz") as file:
        return Sums(file["values"], file["energy"], file["counts"])


def _groups(comparison: Comparison) -> Iterator[tuple[str, ...]]:
    """Channels taken together: whole variables, in order, while their states are small."""
    largest = max(1, _STATE_BYTES // _field_bytes(comparison))
    group: list[str] = []
    for _, names in groupby(comparison.channels, lambda name: parse_channel(name).variable):
        variable = list(names)
        if group and len(group) + len(variable) > largest:
            yield tuple(group)
            group = []
        group += variable
    yield tuple(group)


def _parts(comparison: Comparison, channels: tuple[str, ...]) -> Iterator[Part]:
    times = comparison.times
    size = int(comparison.pairs.sum()) * len(channels) * _field_bytes(comparison)
    number = min(1 + size // _LEAST_PART_BYTES, len(times), _MOST_PARTS)
    for some in np.array_split(times, number):
        yield Part(channels, some)


def _memory_bytes(comparison: Comparison, num_channels: int) -> int:
    """The most that a process holds, but for its sums."""
    state = num_channels * _field_bytes(comparison)
    forecasts = len(comparison.forecasts) * max(BLOCK_BYTES, state)
    return _PROCESS_BYTES + forecasts + 2 * max(CACHE_BYTES, 2 * state)


def _field_bytes(comparison: Comparison) -> int:
    return 4 * comparison.grid.shape[0] * comparison.grid.shape[1]
