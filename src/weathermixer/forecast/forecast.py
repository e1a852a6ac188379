"""From a run, a store and initial times to a forecast on disk.

Joins the parts: what is asked for is checked before anything is loaded, then a few initial times at
a time go through the model and into the writer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import weathermixer
from weathermixer.config import Config
from weathermixer.console import Progress, say, waiting_for
from weathermixer.credentials import without_credentials
from weathermixer.data.channels import channels_of, names
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.forcings import Forcings
from weathermixer.data.grid import Grid
from weathermixer.data.opening import open_states_on
from weathermixer.data.time_steps import to_hours, to_timedelta
from weathermixer.errors import UserError
from weathermixer.forecast.forecast_description import ForecastDescription
from weathermixer.forecast.initial_times import parse_initial_times
from weathermixer.forecast.inputs import forcings_at, input_windows, recent_states
from weathermixer.forecast.memory import return_freed_memory, share_one_arena
from weathermixer.forecast.rollout import Step, rollout
from weathermixer.forecast.writer import ForecastWriter, refuse_existing
from weathermixer.jigsaw import mesh as meshes
from weathermixer.jigsaw.exchange import total_over
from weathermixer.jigsaw.weights import kept_weights
from weathermixer.job import join
from weathermixer.model.arithmetic import Arithmetic
from weathermixer.runs.run import Run, Weights, weights_of

# More initial times at once use the processor better, until a batch of states outgrows its cache.
_LARGEST_BATCH = 8
_BATCH_BYTES = 64 * 1024 * 1024
_ADJUSTABLE = (
    "training.dtype",
    "training.latent_rollout",
    "data.reader",
    "parallel.data",
    "parallel.domain",
    "parallel.tensor",
)
_ANY_MESH = ("parallel.data=1", "parallel.domain=null", "parallel.tensor=null")


@dataclass(frozen=True)
class ForecastResult:
    """The forecast that was written: its path, initial times, lead times in hours, and channels."""

    path: Path
    initial_times: tuple[np.datetime64, ...]
    lead_hours: tuple[float, ...]
    channels: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The result as an object of JSON: path, times, hours and names of channels."""
        return {
            "forecast": str(self.path),
            "initial_times": [str(time) for time in self.initial_times],
            "lead_hours": list(self.lead_hours),
            "channels": list(self.channels),
        }


def forecast(
    run: Path,
    store: Path | str,
    init: str,
    steps: int,
    out: Path,
    *,
    checkpoint: str = "newest",
    weights: Weights | None = None,
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
) -> ForecastResult:
    """Forecast ``steps`` steps from each initial time and write them to the Zarr ``out``.

    ``init`` is as :func:`parse_initial_times` reads it; ``store``, anything that ``data.store`` may
    name, holds the states at these times, and at least the run's channels on the run's grid.
    ``checkpoint`` is the ``newest``, the ``best``, or a number of optimizer steps. A forecast
    advances by as many steps at a time as training taught it to at the least, of which ``steps``
    are a multiple. Interrupted, the same call goes on with the initial times that are missing, and
    ends with the same values. ``weights`` are by default the average, where the checkpoint has one,
    else the last ones. ``overrides`` may change the arithmetic, ``training.dtype``, the steps at a
    time, ``training.latent_rollout``, the library that reads, ``data.reader``, and the mesh,
    ``parallel.*``. Each rank that was started calls this, and holds, computes, reads and writes its
    own part of every state and no more.

    Raises UserError for anything of this that does not hold, for an ``out`` that exists, for a disk
    that is full, and for a forecast that becomes NaN or infinite.
    """
    if steps < 1:
        raise UserError(f"--steps {steps} is impossible: forecast at least one step")
    share_one_arena()
    _check_overrides(overrides)
    opened, config, path = meshes.from_first_rank(lambda: _look_up(run, checkpoint, out, overrides))
    weights = weights_of(path, weights)
    advance = _steps_of_an_application(opened.config, config, steps)
    applications = steps // advance
    normalisation = opened.normalisation
    grid = Grid(normalisation.latitude, normalisation.longitude)
    # Of a channel that is only predicted, a forecast begins with no state.
    needed = config.data.model_copy(update={"diagnostic": ()})
    source = open_states_on(store, needed, grid)
    initial = names(channels_of(config.data.variables, config.data.levels))
    source.channel_indices(initial)
    initial_times = parse_initial_times(init)
    windows = input_windows(source, initial_times, config.data)

    job = join(
        config,
        source,
        trains=False,
        say=say,
        equal_on_all={"the run": str(run), "the checkpoint": path.name, "--out": str(out)}
        | {"--init": init, "--steps": str(steps), "--weights": weights},
    )
    if meshes.is_first_rank():
        say(job.choice.reason)
    mesh, part = job.mesh, job.part
    own = part.of(normalisation)
    opened = opened.without_static_fields()
    normalisation = opened.normalisation
    step_hours = opened.config.data.step_hours
    lead_hours = step_hours * advance * np.arange(1, applications + 1)
    description = ForecastDescription(
        channels=normalisation.channels,
        initial_times=initial_times,
        lead_times=to_timedelta(lead_hours),
        latitude=source.latitude,
        longitude=source.longitude,
        attributes={
            "source": f"WeatherMixer {weathermixer.__version__}",
            "run": str(run),
            "checkpoint": path.name,
            "weights": weights,
            # The mesh is none of them: any gives the same forecast.
            "overrides": [text for text in overrides if not _key(text).startswith("parallel.")],
            "initial_conditions": without_credentials(str(store)),
        },
        longitudes_per_chunk=job.architecture.longitude_dimension.common_part(mesh.domain.size),
        one_level_per_chunk=mesh.tensor.size > 1,
    )
    batches = list(_batches(len(windows), description))
    if len(batches) > 1:
        # What is read late is looked at now: an archive's times may go on where its data end.
        (problem,) = job.reading_problems(windows[-1:])
        if problem is not None:
            raise UserError(problem)
    with waiting_for("the first rank to create the forecast"):
        finished = meshes.from_first_rank(lambda: _begin(out, description))
    writer = ForecastWriter(out, description, channels=part.channels, longitudes=part.longitudes)
    model = opened.load_model(config, mesh, path, weights)
    network = partial(model, applications=advance)
    total = len(windows) * applications
    given = normalisation.part(
        range(part.prognostic.start, part.prognostic.stop), slice(0, 0), part.longitudes
    )
    own_forcings = part.forcings_of(config.data, normalisation)
    own_channels = source.channel_indices(initial[part.prognostic])

    def read(number: int) -> Iterator[NDArray[np.float32]]:
        return (source.read(index, own_channels, part.longitudes) for index in windows[number])

    # The same batches whether or not some are done: rounding may depend on a batch's company.
    like = next(model.parameters())
    with kept_weights(model), Arithmetic.of(config.training.dtype).in_force():
        for number, batch in enumerate(batches):
            if number % mesh.data.size != mesh.data.index:
                continue
            if not all(finished[position] for position in batch):
                forecasts = _forecast_batch(
                    network, like, own, given, own_forcings, map(read, batch), description, batch
                )
                for taken in writer.write(batch, forecasts):
                    if progress is not None:
                        progress(batch.start * applications + taken * len(batch), total)
                # Each rank of the instance has written its part when all have come here.
                total_over((mesh.domain, mesh.tensor), torch.zeros(1, device=mesh.device))
                if mesh.domain.index == mesh.tensor.index == 0:
                    writer.mark_finished(batch)
            elif progress is not None:
                progress(batch.stop * applications, total)
    with waiting_for("the other ranks to finish their forecasts"):
        meshes.wait_for_all()
    meshes.from_first_rank(writer.finish)
    return ForecastResult(
        out, tuple(initial_times), tuple(lead_hours.tolist()), normalisation.channels
    )


def _steps_of_an_application(trained: Config, config: Config, steps: int) -> int:
    """The steps that an application of the network advances by, which all steps are made up of.

    Raises UserError where they are not.
    """
    advance = config.training.shortest_advance
    if steps % advance:
        raise UserError(
            f"--steps {steps} is impossible: with training.latent_rollout={advance} a forecast "
            f"advances by {advance} steps at a time; give a multiple, or set it to another length"
        )
    if meshes.is_first_rank():
        taught = trained.training.latent_rollout
        if advance != trained.training.shortest_advance:
            say(
                f"the forecast advances by {advance} steps at a time, and the run was trained with "
                f"training.latent_rollout={taught}"
            )
        elif advance > 1:
            hours = trained.data.step_hours
            say(
                f"as the run was trained, a forecast advances by {advance} steps at a time: its "
                f"lead times are {advance * hours:g} h apart"
            )
    return advance


def _look_up(
    run: Path, checkpoint: str, out: Path, overrides: Sequence[str]
) -> tuple[Run, Config, Path]:
    """The run, its configuration with overrides, and the checkpoint.

    The first rank tells the others: on a shared file system they may see another state of it.
    """
    refuse_existing(out)
    opened = Run.open(run).read()
    # What training had of a mesh does not bind a forecast.
    config = opened.config_with(overrides, base_overrides=_ANY_MESH)
    return opened, config, opened.require_checkpoint(checkpoint)


def _begin(out: Path, description: ForecastDescription) -> list[bool]:
    """Create the forecast, and tell which of its initial times are finished already."""
    ForecastWriter.create(out, description)
    writer = ForecastWriter(out, description)
    return [writer.is_finished(number) for number in range(len(description.initial_times))]


def _check_overrides(overrides: Sequence[str]) -> None:
    """Refuse what a forecast would silently ignore: all that training has settled."""
    for override in overrides:
        if _key(override) not in _ADJUSTABLE:
            raise UserError(
                f"{override} cannot change a forecast: only {', '.join(_ADJUSTABLE)} can be set, "
                "everything else is as the run was trained"
            )


def _key(override: str) -> str:
    return override.removeprefix("--").partition("=")[0]


def _batches(count: int, description: ForecastDescription) -> Iterator[range]:
    state_bytes = 4 * len(description.channels) * description.grid[0] * description.grid[1]
    size = max(1, min(_LARGEST_BATCH, _BATCH_BYTES // state_bytes))
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


def _forecast_batch(
    network: Step,
    like: Tensor,
    normalisation: Normalisation,
    given: Normalisation,
    forcings: Forcings,
    initial_states: Iterable[Iterable[NDArray[np.float32]]],
    description: ForecastDescription,
    batch: Sequence[int],
) -> Iterator[NDArray[np.float32]]:
    """Forecast states ``(batch, channel, latitude, longitude)`` in SI units, by lead time.

    ``initial_states (channel, latitude, longitude)`` are those that the network is given for each
    of ``batch``, the newest first, of the channels that ``given`` normalises; ``normalisation`` is
    of those that are predicted. Of all states, channels and longitudes are those of this rank's
    part. The network takes them in the type and place of ``like``. Nothing here refers to a state
    longer than it is needed: at 0.25° each is a good part of a rank's memory.

    Raises UserError at the first state that is NaN or infinite anywhere.
    """
    static = torch.from_numpy(normalisation.static).to(like)
    # In the model's type before normalising, as in training.
    precision = np.float64 if like.dtype == torch.float64 else np.float32
    initial_times = description.initial_times[batch]
    begins = (np.timedelta64(0, "s"), *description.lead_times[:-1])
    fields = (
        (static, torch.from_numpy(forcings_at(forcings, initial_times + lead, precision)).to(like))
        for lead in begins
    )
    steps = rollout(network, recent_states(given, initial_states, precision, like), fields)
    return_freed_memory()
    for step, state in enumerate(steps):
        restored = normalisation.restore(state.cpu().numpy()).astype(np.float32, copy=False)
        _check_finite(restored, normalisation.channels, description, batch, step)
        yield restored
        del restored
        return_freed_memory()


def _check_finite(
    states: NDArray[np.float32],
    channels: Sequence[str],
    description: ForecastDescription,
    batch: Sequence[int],
    step: int,
) -> None:
    # A sum needs no memory of the states' size, and that of float32 cannot overflow float64.
    finite = np.isfinite(states.sum(axis=(2, 3), dtype=np.float64))
    if not finite.all():
        item, channel = np.argwhere(~finite)[0]
        hours = to_hours(description.lead_times[step])
        raise UserError(
            f"the forecast from {description.initial_times[batch[item]]} is NaN or infinite at "
            f"{hours:g} h, first in {channels[channel]}: the model is unstable "
            "that far ahead, so forecast fewer steps, or train it longer or with a longer "
            "training.rollout"
        )
