"""From archives to a store: bounded memory, all cores, and continued where it was interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weathermixer.config import Config, Data, Period, parse_period
from weathermixer.console import Progress, say
from weathermixer.credentials import without_credentials
from weathermixer.data.archives.merging import MergedAnalyses, open_sources
from weathermixer.data.channels import Channel, names, predicted_channels
from weathermixer.data.feeding.periods import periods
from weathermixer.data.store.chunks import PlannedMeshes
from weathermixer.data.store.climatology import write_climatology
from weathermixer.data.store.store import Store
from weathermixer.data.store.store_description import StoreDescription
from weathermixer.data.store.store_writer import TIMES_PER_BLOCK, StoreWriter
from weathermixer.data.time_steps import to_hours, to_timedelta
from weathermixer.errors import UserError
from weathermixer.worker_processes import Tick, default_processes, for_each

DEFAULT_STEP_HOURS = 6.0

_READ_BYTES = 16 * 1024**2
# Imported libraries; then a state as read, as compressed, and as the increment's other end, each
# in up to two copies, beside what the decoder of a source holds.
_PROCESS_BYTES = 400 * 1024**2
_STATES_PER_PROCESS = 8
_WORTH_A_PROCESS_BYTES = 128 * 1024**2


@dataclass(frozen=True)
class _Choice:
    """What ``open_sources`` is asked for, so that all processes ask for the same."""

    sources: tuple[str, ...]
    channels: tuple[Channel, ...] | None
    static_channels: tuple[str, ...] | None
    member: int | None
    period: Period | None

    def open(self) -> MergedAnalyses:
        return open_sources(
            self.sources,
            channels=self.channels,
            static_channels=self.static_channels,
            member=self.member,
            period=self.period,
        )

    def narrowed_to(self, opened: MergedAnalyses) -> _Choice:
        """The choice of exactly the channels and times that ``opened`` has."""
        period = (opened.times[0], opened.times[-1])
        return replace(self, channels=opened.channels, period=period)


def prepare(
    out: Path,
    sources: Sequence[str],
    *,
    config: Config | None = None,
    step_hours: float | None = None,
    period: Period | None = None,
    member: int | None = None,
    climatology: bool = True,
    ways: int | None = None,
    processes: int | None = None,
    progress: Progress | None = None,
) -> Store:
    """Make a store of archives, at paths or addresses.

    Variables, levels, static fields, step and training period come from ``config.data``; without
    it, all variables that the sources have, on the usual 13 levels, all static fields, and the
    first four fifths of the times. ``step_hours`` overrides the configuration; ``period`` keeps
    only its times; ``member`` chooses one of an ensemble. Chunks are made for up to ``ways`` ranks
    that share a sample, by default for the mesh of ``config.parallel``, if it names one.
    ``progress(done, total)`` counts times, then the times of the climatology. Interrupted, even
    killed, the same call continues.

    Raises UserError for sources that cannot be merged or read, implausible values, a store that
    exists, and a disk that is full.
    """
    choice = _choice(sources, config.data if config else None, member, period)
    _opened.cache_clear()  # files may have changed since an earlier call
    opened = choice.open()
    for remark in opened.remarks:
        say(remark)
    if step_hours is None:
        step_hours = config.data.step_hours if config else DEFAULT_STEP_HOURS
    given = parse_period(config.data.train) if config and config.data.train else None
    training = _training_period(opened.times, step_hours, given)
    description = _describe(opened, choice, step_hours, _planned(config, ways))
    writer = StoreWriter.create(out, description)
    state_bytes = 4 * len(opened.channels) * opened.grid[0] * opened.grid[1]
    if processes is None:
        processes = default_processes(_PROCESS_BYTES + _STATES_PER_PROCESS * state_bytes)
        processes = min(processes, 1 + state_bytes * len(opened.times) // _WORTH_A_PROCESS_BYTES)

    blocks = writer.missing_blocks()
    for_each(
        partial(_write_block, out, choice.narrowed_to(opened)),
        blocks,
        processes=processes,
        ticks=sum(map(len, blocks)),
        progress=progress,
    )
    if climatology and training is not None:
        write_climatology(out, training, processes=processes, progress=progress)
    else:
        writer.drop_climatology()
    writer.finish(training)
    return Store.open(out)


def _choice(
    sources: Sequence[str], data: Data | None, member: int | None, period: Period | None
) -> _Choice:
    if data is None:
        return _Choice(tuple(sources), None, None, member, period)
    channels = predicted_channels(data)
    return _Choice(tuple(sources), channels, data.static, member, period)


def _training_period(
    times: NDArray[np.datetime64], step_hours: float, given: Period | None
) -> Period | None:
    """The period of the statistics, as given or by default; None for a single time.

    Raises UserError, before anything is written, where no increments could be measured.
    """
    if len(times) == 1 and given is None:
        return None
    training = periods(times, given).train
    inside = times[(times >= training[0]) & (times <= training[1])]
    step = to_timedelta(step_hours)
    if not np.isin(inside + step, inside).any():
        spacings, counts = np.unique(np.diff(inside), return_counts=True)
        usual = to_hours(spacings[np.argmax(counts)]) if len(spacings) else None
        remedy = "choose a longer training period" if usual is None else f"try {usual:g} h"
        raise UserError(
            f"no two of the {len(inside)} times from {training[0]} to {training[1]} are exactly "
            f"{step_hours:g} h apart, so increments have no statistics: {remedy} "
            "(--step-hours, data.step_hours or data.train)"
        )
    return training


def _planned(config: Config | None, ways: int | None) -> PlannedMeshes | None:
    """The meshes to make chunks for, where anything is known of them."""
    patch = config.model.patch[1] if config else 1
    if ways is not None:
        return PlannedMeshes(ways, patch)
    if config and config.parallel.domain and config.parallel.tensor:
        return PlannedMeshes((config.parallel.domain, config.parallel.tensor), patch)
    return None


def _describe(
    opened: MergedAnalyses, choice: _Choice, step_hours: float, planned: PlannedMeshes | None
) -> StoreDescription:
    attributes: dict[str, Any] = {"sources": list(map(without_credentials, choice.sources))}
    if opened.licences:
        attributes["source_licences"] = opened.licences
    if choice.member is not None:
        attributes["member"] = choice.member
    if opened.dropped_row:
        attributes["dropped_row"] = "latitude -90"
    if opened.num_incomplete_times:
        attributes["times_left_out_as_incomplete"] = opened.num_incomplete_times
    return StoreDescription(
        channels=names(opened.channels),
        times=opened.times,
        latitude=opened.latitude,
        longitude=opened.longitude,
        step_hours=step_hours,
        static_channels=opened.static_channels,
        static=opened.read_static(),
        attributes=attributes,
        planned_meshes=planned,
    )


def _write_block(out: Path, choice: _Choice, block: range, tick: Tick) -> None:
    opened = _opened(choice)
    for _ in StoreWriter(out).write_block(block, _BlockReader(opened, block)):
        tick()


@lru_cache(maxsize=1)
def _opened(choice: _Choice) -> MergedAnalyses:
    """The chosen archives, opened once in a process for all of its blocks."""
    return choice.open()


class _BlockReader:
    """Reads a block's states, several at a time: archives often keep many times in one chunk."""

    def __init__(self, sources: MergedAnalyses, block: range) -> None:
        self._sources = sources
        self._block = block
        state_bytes = 4 * len(sources.channels) * sources.grid[0] * sources.grid[1]
        self._together = min(max(_READ_BYTES // state_bytes, 1), TIMES_PER_BLOCK)
        self._held = range(0)
        self._states = np.empty(0, dtype=np.float32)

    def __call__(self, index: int) -> NDArray[np.float32]:
        if index not in self._block:
            return self._sources.read(index, index + 1)[0]
        if index not in self._held:
            self._held = range(index, min(index + self._together, self._block.stop))
            self._states = self._sources.read(self._held.start, self._held.stop)
        return self._states[index - self._held.start]
