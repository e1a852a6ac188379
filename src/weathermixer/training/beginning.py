"""From a configuration and a folder to a run that can be trained: what is checked and made once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from weathermixer.config import Config, Data, Section
from weathermixer.console import progress, waiting_for
from weathermixer.data.channels import channels_of, names, predicted_channels
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.feeding.samples import Windows, training_period
from weathermixer.data.opening import open_states
from weathermixer.data.states import States, Workers
from weathermixer.data.statistics import Statistics
from weathermixer.data.store.store import Store
from weathermixer.data.time_steps import to_hours
from weathermixer.errors import UserError
from weathermixer.jigsaw.mesh import from_first_rank, gather_objects
from weathermixer.job import Job, join
from weathermixer.model.other_network import NetworkBuilder
from weathermixer.runs import checkpoint
from weathermixer.runs.best import best_file
from weathermixer.runs.folder_lock import FolderLock
from weathermixer.runs.inheritance import Source, inherit_statistics
from weathermixer.runs.run import Run
from weathermixer.training.best_score import require_score
from weathermixer.training.feed import scored_states, training_windows, validation_windows
from weathermixer.training.forecast_scores import ScoredForecasts, require_climatology
from weathermixer.training.notices import Notices
from weathermixer.training.origin import Origin
from weathermixer.training.probing import readable_samples, require_last_sample

_WITHOUT_EFFECT = ("reader",)  # settings of data and network that change none of a run's numbers


@dataclass(frozen=True)
class Beginning:
    """What the ranks of a training have settled before its first step.

    ``windows`` are the samples to learn from, ``validation_samples (sample, times)`` the time
    indices of those to validate on, and ``forecasts`` what is forecast from these, if anything. The
    run can be continued from any of ``checkpoints``, the newest first; one without begins with
    weights of its ``source``, if it has one. ``held`` is closed with the training: it keeps others
    out of the run.
    """

    job: Job
    run: Run
    windows: Windows
    validation_samples: NDArray[np.int64]
    forecasts: ScoredForecasts | None = None
    checkpoints: Sequence[Path] = ()
    source: Source | None = None
    held: ExitStack = field(default_factory=ExitStack)


def begin_together(
    config: Config,
    out: Path,
    *,
    resume: bool,
    source: Path | None,
    device: torch.device | str | None,
    notices: Notices,
    network: NetworkBuilder | None = None,
) -> Beginning:
    """Connect the ranks, look at the data, and create or open the run in ``out``.

    Each rank that was started calls this. Raises UserError and LayoutError as
    ``TrainingLoop.begin``.
    """
    data, training = config.data, config.training
    if network is not None and source is not None:
        raise UserError(
            f"a network of your own cannot begin with the weights of {source}, which are "
            "WeatherMixer's: leave one of the two out"
        )
    states = open_states(data.store, data)
    job = join(config, states, trains=True, say=notices.say, device=device, network=network)
    windows = training_windows(data, training, states)
    validation_samples = validation_windows(data, training, states)
    require_score(config.checkpoint.best, job.channels, training)
    require_climatology(training, states)
    require_last_sample(job, windows)
    scored = scored_states(data, training, states, validation_samples)
    validation_samples = readable_samples(job, validation_samples, scored, notices)
    forecasts = ScoredForecasts.open(job, validation_samples)
    layout = job.mesh.layout
    lock = FolderLock(out, "training")
    with ExitStack() as held:
        held.callback(lock.release)
        with waiting_for("the first rank to open the run"):
            run, checkpoints, inherited = begin_run(
                config,
                out,
                states,
                windows,
                resume=resume,
                lock=lock,
                notices=notices,
                source=source,
                workers=Workers(layout.rank, layout.world_size, gather_objects),
            )
        return Beginning(
            job, run, windows, validation_samples, forecasts, checkpoints, inherited, held.pop_all()
        )


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
    begun = Run.open(out).read()
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
