"""From a run, a store and initial times to a forecast on disk, its scores, or both.

Joins the parts: what is asked for is checked before anything is loaded, then a few initial times at
a time go through the model and to where they are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import weathermixer
from weathermixer.config import Config
from weathermixer.console import Progress, say, waiting_for
from weathermixer.credentials import without_credentials
from weathermixer.data.channels import channels_of, names
from weathermixer.data.grid import Grid
from weathermixer.data.opening import open_states_on
from weathermixer.data.time_steps import to_timedelta
from weathermixer.errors import UserError
from weathermixer.forecast.batches import forecast_groups, groups_of
from weathermixer.forecast.campaign import Campaign
from weathermixer.forecast.forecast_description import ForecastDescription
from weathermixer.forecast.forecaster import Forecaster
from weathermixer.forecast.initial_times import parse_initial_times
from weathermixer.forecast.inputs import input_windows
from weathermixer.forecast.members import networks_of, remark_on_equal_members
from weathermixer.forecast.memory import share_one_arena
from weathermixer.forecast.options import UNBOUND, check_overrides, check_wanted, key_of
from weathermixer.forecast.result import ForecastResult
from weathermixer.forecast.scores_in_progress import ScoresInProgress
from weathermixer.forecast.writer import ForecastWriter, refuse_existing
from weathermixer.jigsaw import mesh as meshes
from weathermixer.jigsaw.weights import kept_weights
from weathermixer.job import join
from weathermixer.model.arithmetic import Arithmetic
from weathermixer.model.other_network import NetworkBuilder
from weathermixer.runs.exported_run import open_trained
from weathermixer.runs.run import Run, Weights
from weathermixer.verification.verification_record import Verification


def forecast(
    run: Path,
    store: Path | str,
    init: str,
    steps: int,
    out: Path | None = None,
    *,
    truth: Path | str | None = None,
    scores: Path | None = None,
    climatology: str | None = None,
    checkpoint: str = "newest",
    weights: Weights | None = None,
    members: int | None = None,
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
    network: NetworkBuilder | None = None,
) -> ForecastResult:
    """Forecast ``steps`` steps from each initial time, into ``out``, ``scores``, or both.

    ``out`` is a NetCDF file where its name ends in ``.nc``, else Zarr.

    ``init`` is as :func:`parse_initial_times` reads it; ``store``, anything that ``data.store`` may
    name, holds the states at these times, and at least the run's channels on the run's grid.
    ``checkpoint`` is the ``newest``, the ``best``, or a number of optimizer steps. A forecast
    advances by as many steps at a time as training taught it to at the least, of which ``steps``
    are a multiple. Interrupted, the same call goes on with the initial times that are missing, and
    ends with the same values. ``weights`` are by default the average, where the checkpoint has one,
    else the last ones. ``members`` of an ensemble differ by what ``training.seed`` draws for each;
    without, a forecast draws nothing. ``overrides`` may change the arithmetic, ``training.dtype``,
    the steps at a time, ``training.latent_rollout``, the seed of an ensemble, the library that
    reads, ``data.reader``, and the mesh, ``parallel.*``. Each rank that was started calls this, and
    holds, computes, reads and writes its own part of every state and no more. A run that trained
    another ``network`` has to be given it.

    ``scores`` is the folder that ``verify`` would make of the forecast and of ``truth``, with the
    archive ``climatology`` in the place of the truth's own. Fields are scored as they come; they
    are written to ``out`` alone, without which there are no maps.

    Raises UserError for anything of this that does not hold, for an ``out`` that exists, for a disk
    that is full, and for a forecast that becomes NaN or infinite.
    """
    check_wanted(out, truth, scores, climatology, steps=steps, members=members)
    share_one_arena()
    check_overrides(overrides, members)
    opened, config, path, is_written = meshes.from_first_rank(
        lambda: _look_up(run, checkpoint, out, scores, overrides)
    )
    weights = opened.weights_of(path, weights)
    advance = _steps_of_an_application(opened.config, config, steps)
    normalisation = opened.normalisation
    grid = Grid(normalisation.latitude, normalisation.longitude)
    # Of a channel that is only predicted, a forecast begins with no state.
    needed = config.data.model_copy(update={"diagnostic": ()})
    source = open_states_on(store, needed, grid)
    initial = names(channels_of(config.data.variables, config.data.levels))
    source.channel_indices(initial)
    initial_times = parse_initial_times(init)
    windows = input_windows(source, initial_times, config.data)
    lead_hours = opened.config.data.step_hours * np.arange(advance, steps + 1, advance)
    campaign = None
    if truth is not None and scores is not None:
        campaign = Campaign.open(
            scores,
            truth,
            normalisation.channels,
            initial_times,
            to_timedelta(lead_hours),
            Grid(source.latitude, source.longitude),
            climatology=climatology,
            members=members,
        )
    job = join(
        config,
        source,
        trains=False,
        say=say,
        equal_on_all={"the run": str(run), "the checkpoint": path.name, "--out": str(out)}
        | {"--init": init, "--steps": str(steps), "--weights": weights, "--members": str(members)}
        | {"--truth": str(truth), "--scores": str(scores), "--climatology": str(climatology)},
        network=network,
    )
    if meshes.is_first_rank():
        say(job.choice.reason)
    mesh, part = job.mesh, job.part
    own = part.of(normalisation)
    opened = opened.without_static_fields()
    normalisation = opened.normalisation
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
            "overrides": [text for text in overrides if not key_of(text).startswith("parallel.")],
            "initial_conditions": without_credentials(str(store)),
        },
        longitudes_per_chunk=job.architecture.longitude_dimension.common_part(mesh.domain.size),
        one_level_per_chunk=mesh.tensor.size > 1,
        members=members,
    )
    groups = groups_of(description, num_instances=mesh.data.size, scored=campaign is not None)
    idle = mesh.data.size - len(groups)
    if idle > 0 and meshes.is_first_rank():
        say(
            f"Note: {idle} of the {mesh.data.size} model instances have nothing to forecast, since "
            f"there is too little to be divided further: parallel.data={len(groups)} is enough"
        )
    if len(groups) > 1:
        # What is read late is looked at now: an archive's times may go on where its data end.
        (problem,) = job.reading_problems(windows[-1:])
        if problem is not None:
            raise UserError(problem)
    model = opened.load_model(config, mesh, path, weights, network)
    scorer = None if campaign is None else campaign.begin(description, out, job, model)
    writer, written = None, [False] * description.num_forecasts
    if out is not None and not is_written:
        with waiting_for("the first rank to create the forecast"):
            written = meshes.from_first_rank(partial(_begin, out, description))
        writer = ForecastWriter(
            out, description, channels=part.channels, longitudes=part.longitudes
        )
    if members is not None:
        remark = remark_on_equal_members(model)
        if remark is not None and meshes.is_first_rank():
            say(f"Note: {remark}")
    forecaster = Forecaster(
        network_of=networks_of(model, description, applications=advance, seed=config.training.seed),
        like=next(model.parameters()),
        given=normalisation.part(
            range(part.prognostic.start, part.prognostic.stop), slice(0, 0), part.longitudes
        ),
        normalisation=own,
        forcings=part.forcings_of(config.data, normalisation),
        description=description,
    )
    own_channels = source.channel_indices(initial[part.prognostic])

    def read(time: int) -> Iterator[NDArray[np.float32]]:
        return (source.read(index, own_channels, part.longitudes) for index in windows[time])

    with kept_weights(model), Arithmetic.of(config.training.dtype).in_force():
        forecast_groups(
            groups,
            forecaster,
            read,
            mesh,
            writer=writer,
            written=written,
            scorer=scorer,
            progress=progress,
        )
    with waiting_for("the other ranks to finish their forecasts"):
        meshes.wait_for_all()
    if writer is not None:
        _finish(writer)
    verifications: list[Verification] = []  # too large to send them to every rank
    if campaign is not None:
        finish = partial(campaign.finish, description, out)
        with waiting_for("the first rank to write the scores"):
            meshes.from_first_rank(lambda: verifications.append(finish()))
    return ForecastResult(
        out,
        tuple(initial_times),
        tuple(lead_hours.tolist()),
        normalisation.channels,
        members,
        verifications[0] if verifications else None,
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
    run: Path, checkpoint: str, out: Path | None, scores: Path | None, overrides: Sequence[str]
) -> tuple[Run, Config, Path, bool]:
    """The run, its configuration with overrides, the checkpoint, and whether ``out`` is written.

    It may be by the same command, which was killed before it had written the scores. The first rank
    tells the others: on a shared file system they may see another state of it.
    """
    is_written = False
    if out is not None:
        is_written = out.exists() and scores is not None and ScoresInProgress(scores).is_of(out)
        if not is_written:
            refuse_existing(out)
    opened = open_trained(run).read()
    config = opened.config_with(overrides, base_overrides=UNBOUND)
    return opened, config, opened.require_checkpoint(checkpoint), is_written


def _finish(writer: ForecastWriter) -> None:
    """Give the forecast its name; the first rank alone does, and is heard of by the others.

    A file of many forecasts takes longer than ranks wait for one another.
    """
    steps, copied = writer.finish_in_steps(), 0
    total = writer.description.num_forecasts
    with waiting_for(lambda: f"{writer.path} to be written ({copied} of {total} forecasts)"):
        while (done := meshes.from_first_rank(lambda: next(steps, None))) is not None:
            copied = done


def _begin(out: Path, description: ForecastDescription) -> list[bool]:
    """Create the forecast, and tell which of its initial times are finished already."""
    ForecastWriter.create(out, description)
    writer = ForecastWriter(out, description)
    return [writer.is_finished(number) for number in range(description.num_forecasts)]
