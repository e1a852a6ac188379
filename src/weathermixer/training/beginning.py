"""From a configuration and a folder to a run that can be trained: what is checked and made once."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weathermixer.config import Config, Data, Section, Training
from weathermixer.console import progress
from weathermixer.data.channels import channels_of, names, predicted_channels
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.feeding.samples import (
    Windows,
    evenly_spaced,
    require_windows,
    training_period,
    validation_period,
    windows,
)
from weathermixer.data.states import States, Workers
from weathermixer.data.statistics import Statistics
from weathermixer.data.store.store import Store
from weathermixer.data.time_steps import to_hours
from weathermixer.errors import UserError
from weathermixer.jigsaw.mesh import from_first_rank
from weathermixer.runs import checkpoint
from weathermixer.runs.best import best_file
from weathermixer.runs.folder_lock import FolderLock
from weathermixer.runs.inheritance import Source, inherit_statistics
from weathermixer.runs.run import Run
from weathermixer.training.notices import Notices
from weathermixer.training.origin import Origin

_WITHOUT_EFFECT = ("reader",)  # settings of data and network that change none of a run's numbers


def begin_run(
    config: Config,
    out: Path,
    store: States,
    samples: Windows,
    *,
    resume: bool,
    lock: FolderLock,
    notices: Notices,
    workers: Workers,
    source: Path | None = None,
) -> tuple[Run, list[Path], Source | None]:
    """Create the run in ``out``, or continue it, with its configuration written into it.

    All ranks call this together. The first alone looks into the folder and writes: a shared one may
    look older to the others, and a thousand that look into it are slow. Where the statistics of an
    archive have to be estimated, each of the ranks, the ``workers``, reads a part of the states.

    Returns the run, the checkpoints that it can be continued from, the newest first, and what it is
    to begin with of the run ``source`` where there are none. ``samples`` are those to learn from.
    What has changed since the run was begun, and costs no sample, is said.

    A run without checkpoints starts over, whether or not it is resumed. ``lock`` is acquired here,
    on the first rank, and released by the caller. Raises UserError where another training holds it,
    and where a run with checkpoints is not resumed, or is resumed with another network, other data
    or another seed.
    """
    begun: _Begun | None = None

    def open_run() -> bool:
        nonlocal begun
        begun = _open_run(config, out, store, samples, resume, lock, notices, source)
        return begun.normalisation is None

    statistics: Statistics | None = None
    if from_first_rank(open_run):
        statistics = _statistics(config.data, store, workers)

    def create() -> tuple[Run, list[Path], Source | None]:
        assert begun is not None, "the first rank has opened the run"
        normalisation = begun.normalisation
        if normalisation is None:
            assert statistics is not None
            data = config.data
            channels = names(predicted_channels(data))
            diagnostic = names(channels_of(data.diagnostic, data.levels))
            normalisation = Normalisation.of(
                store, channels, data.static, statistics, diagnostic=diagnostic
            )
            if begun.source is not None:
                normalisation = inherit_statistics(normalisation, config, begun.source.run)
        run = Run.create(out, config, normalisation, begun.origin.write)
        return run.read(), checkpoint.checkpoints(run.checkpoints)[::-1], begun.source

    return from_first_rank(create)


class _Begun(NamedTuple):
    """What a run was begun with; a new one has no normalisation yet, but may have a source."""

    origin: Origin
    normalisation: Normalisation | None
    source: Source | None = None


def _open_run(
    config: Config,
    out: Path,
    store: States,
    samples: Windows,
    resume: bool,
    lock: FolderLock,
    notices: Notices,
    source: Path | None,
) -> _Begun:
    run = Run(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: choose another --out for the run")
    lock.acquire()
    if run.newest_checkpoint() is not None and not resume:
        raise UserError(
            f"the run {out} has checkpoints: continue it with --resume, or choose another --out"
        )
    checkpoint.remove_leftovers(run.checkpoints)
    origin = Origin.of(config, store, samples)
    if run.newest_checkpoint() is None:
        for left in (run.divergence, best_file(run.checkpoints)):  # without a checkpoint
            left.unlink(missing_ok=True)
        check_step(config.data, store)
        if source is None:
            return _Begun(origin, None)
        inherited = Source.open(source.absolute())
        return _Begun(replace(origin, source=str(inherited.checkpoint)), None, inherited)
    begun = Run.open(out)
    before = Origin.read(begun.origin)
    _check_same(begun, config, knows_its_times=before is not None)
    if before is not None:
        before.require_source(source, out)
        before.require_same_order(origin, out)
        for change in before.changes(origin):
            notices.say(change)
        origin = before
    begun.normalisation.check_grid(store)
    return _Begun(origin, begun.normalisation)


def _statistics(data: Data, store: States, workers: Workers) -> Statistics:
    """The statistics of the training period: a store has them, those of an archive take a while."""
    estimating = f"estimating the statistics of {store.path}"
    with nullcontext() if isinstance(store, Store) else progress(estimating) as update:
        return store.statistics_over(training_period(data, store), update, workers)


def training_windows(data: Data, training: Training, store: States) -> Windows:
    """All samples to learn from: input times, and as many as the farthest forecast has steps.

    Raises UserError where the training period holds none.
    """
    return require_windows(
        store,
        data.step_hours,
        training.window_length(data),
        training_period(data, store),
        key="data.train",
    )


def validation_windows(data: Data, training: Training, store: States) -> NDArray[np.int64]:
    """The samples of a validation, as time indices ``(sample, input times + rollout)``.

    They are forecast as far as any sample of the training. A validation period that was asked for
    must hold some (UserError); the one by default may not.
    """
    period = validation_period(data, store)
    hours, length, longest = data.step_hours, training.window_length(data), training.longest
    if period is None:
        return np.empty((0, data.input_times + longest.rollout), dtype=np.int64)
    samples = (
        windows(store.times, hours, length, period)
        if data.validation is None
        else require_windows(store, hours, length, period, key="data.validation")
    )
    return evenly_spaced(samples, training.validation_samples)[:, longest.leads(data.input_times)]


def check_step(data: Data, store: States) -> None:
    """Raise UserError where the store's increments were measured over another step."""
    hours = to_hours(store.step)
    if hours != data.step_hours:
        raise UserError(
            f"data.step_hours is {data.step_hours:g}, but the increments of {store.path} "
            f"were measured over {hours:g} h: set data.step_hours={hours:g}, or prepare the store "
            "again with the other step"
        )


def _check_same(run: Run, config: Config, *, knows_its_times: bool) -> None:
    # Whoever gives the period that was the default one changes nothing.
    changed = [
        f"{name}.{key}"
        for name in ("model", "data")
        for key in _differences(getattr(run.config, name), getattr(config, name))
        if not (knows_its_times and (name, key) == ("data", "train"))
    ]
    if changed:
        raise UserError(
            f"the run {run.path} was begun with other values of {', '.join(changed)}: continue it "
            f"with those in its config.yaml, or choose another --out"
        )


def _differences(begun: Section, now: Section) -> list[str]:
    return [
        key
        for key in type(begun).model_fields
        if key not in _WITHOUT_EFFECT
        and _comparable(getattr(begun, key)) != _comparable(getattr(now, key))
    ]


def _comparable(value: Any) -> Any:
    return value.absolute() if isinstance(value, Path) else value
