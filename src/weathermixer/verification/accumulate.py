"""Statistics of all pairs, in batches of some channels from some initial times, in processes.

How the work is divided depends on the forecasts alone, and sums are merged in one order, so that
any number of processes gives the same sums, bit for bit. A process holds a block of states of each
forecast, what ``truth.py`` keeps of truth and climatology, and the sums of its batch. Of these the
sums alone grow with the number of lead times, and nothing with that of initial times. Where
forecasts stand beside each other, a few statistics of every pair are kept too: they grow with both.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial, reduce
from itertools import chain, count, groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from weathermixer.console import Progress
from weathermixer.data.channels import parse_channel
from weathermixer.errors import UserError
from weathermixer.verification.comparison import BLOCK_BYTES, Comparison
from weathermixer.verification.metrics import Metric
from weathermixer.verification.pair_series import PairSeries
from weathermixer.verification.pair_sums import PairSums
from weathermixer.verification.sums import Sums
from weathermixer.verification.truth import CACHE_BYTES
from weathermixer.worker_processes import Tick, default_processes, for_each

# Variables are taken together while a state of them is no larger.
_STATE_BYTES = 64 * 1024**2
# A batch worth its own is at least so large; more than so many are no use to a machine's cores.
_LEAST_BATCH_BYTES = 64 * 1024**2
_MOST_BATCHES = 16
_PROCESS_BYTES = 512 * 1024**2  # libraries, and fields in float64


@dataclass(frozen=True)
class PairBatch:
    """The pairs that one task takes in: some channels, from some initial times, by their indices.

    ``times (time,)`` are indices of the comparison's initial times.
    """

    channels: tuple[str, ...]
    times: NDArray[np.intp]


def sum_up(
    comparison: Comparison,
    metrics: Sequence[Metric],
    *,
    processes: int | None = None,
    progress: Progress | None = None,
) -> tuple[Sums, PairSeries | None]:
    """Add up statistics and spectra over all pairs, in up to ``processes`` processes.

    By default there are as many as are of use. Statistics are those of the metrics, of which none
    may need a climatology where the truth has none; ``PairSums`` tells of what there are sums.
    Where there are forecasts beside the model's, also hands out the statistics of each pair apart.
    Raises UserError where a process is killed, or cannot be given the metrics.
    """
    groups = list(_groups(comparison))
    batches = [list(_batches(comparison, channels)) for channels in groups]
    if processes is None:
        processes = default_processes(_memory_bytes(comparison, max(map(len, groups))))
    if processes > 1:
        _require_picklable(metrics)
    with tempfile.TemporaryDirectory(prefix="weathermixer-") as folder:
        try:
            for_each(
                partial(_sum_to_file, comparison, tuple(metrics), Path(folder)),
                list(enumerate(chain.from_iterable(batches))),
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
            reduce(Sums.merge, (Sums.load(Path(folder) / f"{next(numbers)}.npz") for _ in group))
            for group in batches
        ]
        series = _join_series(comparison, metrics, batches, Path(folder))
    return reduce(Sums.join_channels, by_group), series


def sum_batch(
    comparison: Comparison,
    metrics: Sequence[Metric],
    batch: PairBatch,
    tick: Tick,
    series: PairSeries | None = None,
) -> Sums:
    """Add up statistics and spectra over the pairs of one batch, calling ``tick()`` for each.

    ``series`` of the batch's times and channels, where it is given, takes each pair's statistics.
    """
    pairs = PairSums(comparison, metrics, batch.channels)
    for time, lead, states in comparison.states(batch.times, batch.channels):
        statistics = pairs.add(time, lead, states)
        if series is not None:
            series.put(int(np.searchsorted(batch.times, time)), lead, statistics)
        tick()
    return pairs.sums


def _sum_to_file(
    comparison: Comparison,
    metrics: tuple[Metric, ...],
    folder: Path,
    numbered: tuple[int, PairBatch],
    tick: Tick,
) -> None:
    number, batch = numbered
    further = {}
    series = None
    if comparison.beside:
        series = _empty_series(comparison, metrics, len(batch.times), len(batch.channels))
        further["series"] = series.values
    sums = sum_batch(comparison, metrics, batch, tick, series)
    sums.save(folder / f"{number}.npz", **further)


def _join_series(
    comparison: Comparison,
    metrics: Sequence[Metric],
    batches: Sequence[Sequence[PairBatch]],
    folder: Path,
) -> PairSeries | None:
    """The statistics of each pair that processes left, in one; None without forecasts beside."""
    if not comparison.beside:
        return None
    times = comparison.times
    whole = _empty_series(comparison, metrics, len(times), len(comparison.channels))
    numbers = count()
    first_channel = 0
    for group in batches:
        channels = slice(first_channel, first_channel + len(group[0].channels))
        for batch in group:
            first = int(np.searchsorted(times, batch.times[0]))
            with np.load(folder / f"{next(numbers)}.npz") as arrays:
                whole.fill(slice(first, first + len(batch.times)), channels, arrays["series"])
        first_channel = channels.stop
    return whole


def _empty_series(
    comparison: Comparison, metrics: Sequence[Metric], num_times: int, num_channels: int
) -> PairSeries:
    return PairSeries.empty(comparison, metrics, num_times=num_times, num_channels=num_channels)


def _require_picklable(metrics: Sequence[Metric]) -> None:
    for metric in metrics:
        try:
            pickle.dumps(metric)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UserError(
                f"the metric {metric.name} cannot be sent to other processes ({error}): define "
                "its functions at the top of a module, or verify with processes=1"
            ) from error


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


def _batches(comparison: Comparison, channels: tuple[str, ...]) -> Iterator[PairBatch]:
    """The pairs of some channels in batches of about the same size."""
    times = comparison.times
    size = int(comparison.pairs.sum()) * len(channels) * _field_bytes(comparison)
    number = min(1 + size // _LEAST_BATCH_BYTES, len(times), _MOST_BATCHES)
    for some in np.array_split(times, number):
        yield PairBatch(channels, some)


def _memory_bytes(comparison: Comparison, num_channels: int) -> int:
    """The most bytes that a process holds, but for its sums."""
    state = num_channels * _field_bytes(comparison)
    members = comparison.most_members * state
    forecasts = len(comparison.forecasts) * max(BLOCK_BYTES, members)
    return _PROCESS_BYTES + forecasts + 2 * max(CACHE_BYTES, 2 * state)


def _field_bytes(comparison: Comparison) -> int:
    return 4 * comparison.grid.shape[0] * comparison.grid.shape[1]
