"""WeatherMixer for Python programs: what the commands do, from and to xarray data sets.

``import weathermixer as wm`` has all of it. Every function calls what its command calls, so that
numbers, refusals (UserError) and progress on standard error are the same. A data set may be in
memory, of dask, or opened lazily; in its place a path or an address may stand, of anything that the
commands read. Its variables may have any names and units that archives have.

A program that ``torchrun`` or ``srun`` starts on several ranks calls all of this in ``with
wm.run_as_rank():``, each rank with the same arguments.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from weathermixer.config import Config
from weathermixer.console import progress
from weathermixer.data.archives.analyses import open_analyses
from weathermixer.data.archives.lent import lent
from weathermixer.data.store.dataset import store_dataset
from weathermixer.errors import UserError
from weathermixer.forecast.forecast import forecast
from weathermixer.forecast.netcdf import is_netcdf
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import world_size
from weathermixer.launch.ranks import run_as_rank
from weathermixer.model.other_network import NetworkBuilder
from weathermixer.planning.choosing import make_planner
from weathermixer.planning.plan import Plan
from weathermixer.runs.exported_run import open_trained
from weathermixer.runs.run import Run, Weights
from weathermixer.training.result import TrainResult
from weathermixer.training.trainer import train as train_run
from weathermixer.verification.scores_dataset import scores_dataset
from weathermixer.verification.verify import verify

__all__ = [
    "Config",
    "Layout",
    "Plan",
    "TrainResult",
    "TrainedModel",
    "UserError",
    "open_model",
    "open_store",
    "plan",
    "run_as_rank",
    "score",
    "train",
]

# Options of commands that are arguments of functions; in words of a command they stay.
_OPTION = re.compile(
    r"(?P<command>'weathermixer [^']*')|--(?P<argument>checkpoint|climatology|grid|init|machine|"
    r"members|out|steps|truth|weights)\b|(?P<resume>--resume)\b|(?P<source>--from)\b"
)

Source: TypeAlias = xr.Dataset | Path | str
"""A data set, or the path or address of one."""

Times: TypeAlias = ArrayLike | xr.DataArray | datetime | Sequence[datetime]
"""One time in UTC, or several; or words as ``--init`` of the command takes them."""


@dataclass(frozen=True)
class TrainedModel:
    """A trained network: a run at one of its checkpoints, or an export. :func:`open_model` has it.

    ``checkpoint`` is ``newest``, ``best`` or a number of steps, and ``weights`` the ``average`` of
    the training, the ``last`` ones, or None for the average where the checkpoint has one.
    ``network`` makes what was trained in WeatherMixer's place, if anything was.
    """

    run: Run
    checkpoint: str = "newest"
    weights: Weights | None = None
    network: NetworkBuilder | None = None

    @property
    def config(self) -> Config:
        """How it was trained."""
        return self.run.config

    @property
    def channels(self) -> tuple[str, ...]:
        """What it forecasts, such as ``temperature_850`` (hPa) and ``2m_temperature``."""
        return self.run.normalisation.channels

    @property
    def latitude(self) -> xr.DataArray:
        """Latitudes ``(latitude,)`` of its grid, degrees north."""
        values = self.run.normalisation.latitude
        return xr.DataArray(values, dims="latitude", attrs={"units": "degrees_north"})

    @property
    def longitude(self) -> xr.DataArray:
        """Longitudes ``(longitude,)`` of its grid, degrees east."""
        values = self.run.normalisation.longitude
        return xr.DataArray(values, dims="longitude", attrs={"units": "degrees_east"})

    @property
    def input_times(self) -> tuple[np.timedelta64, ...]:
        """When the states that a forecast starts from are, relative to its initial time."""
        data = self.config.data
        step = np.timedelta64(round(data.step_hours * 3600), "s")
        return tuple(-step * back for back in reversed(range(data.input_times)))

    def forecast(
        self,
        analysis: Source,
        steps: int,
        *,
        init: Times | None = None,
        members: int | None = None,
        out: Path | str | None = None,
        overrides: Sequence[str] = (),
    ) -> xr.Dataset:
        """Forecast ``steps`` steps from each initial time.

        ``analysis`` holds the states at :attr:`input_times`: variables ``(time, latitude,
        longitude)``, those on levels ``(time, level, latitude, longitude)`` with levels in hPa, on
        the model's grid in any order. ``init`` are one or several of its times, by default the
        last. ``members`` of an ensemble differ by noise. ``overrides`` are those of the command,
        such as ``--training.dtype=float32``.

        Returns variables ``(time, [realization,] prediction_timedelta, [level,] latitude,
        longitude)``, float32 in SI units. They are in memory, or, where ``out`` names a Zarr or a
        NetCDF file to write, read from there when they are looked at: choose it for what is large.
        Interrupted, the same call goes on with what is missing of it.

        Raises UserError, in one sentence, for an analysis that lacks a variable, a level or a time,
        is on another grid, or has values that are missing or cannot be SI units; for an ``out``
        that exists; and for a forecast that becomes NaN or infinite.
        """
        if out is None and world_size() > 1:
            raise UserError("a forecast on several ranks has parts on each: give out, a Zarr")
        with (
            _naming_arguments(),
            lent("the analysis", analysis) as name,
            tempfile.TemporaryDirectory(prefix="weathermixer-") as folder,
            progress("forecasting") as update,
        ):
            path = Path(folder) / "forecast.zarr" if out is None else Path(out)
            forecast(
                self.run.path,
                name,
                _times_in_words(_last_time(name) if init is None else init),
                steps,
                path,
                checkpoint=self.checkpoint,
                weights=self.weights,
                members=members,
                overrides=overrides,
                progress=update,
                network=self.network,
            )
            engine = "h5netcdf" if is_netcdf(path) else "zarr"
            made = xr.open_dataset(path, engine=engine, chunks={}, decode_timedelta=True)
            return made.load() if out is None else made


def open_model(
    path: Path | str,
    *,
    checkpoint: str = "newest",
    weights: Weights | None = None,
    network: NetworkBuilder | None = None,
) -> TrainedModel:
    """Open a run, or an export of one (``.safetensors``), to forecast with.

    A run that trained another ``network`` than WeatherMixer has to be given it, a function of the
    sizes of its fields. Raises UserError where it is neither, is damaged, or lacks such a
    checkpoint.
    """
    with _naming_arguments():
        run = open_trained(path)
        run.require_checkpoint(checkpoint)
    return TrainedModel(run, checkpoint, weights, network)


def open_store(path: Path | str) -> xr.Dataset:
    """Open a prepared store, a variable each, read when it is looked at.

    Variables are ``(time, [level,] latitude, longitude)``, static fields ``(latitude, longitude)``,
    float32 in SI units. Raises UserError where there is no store, or only an unfinished one.
    """
    return store_dataset(path)


def train(
    config: Config,
    out: Path | str,
    *,
    resume: bool = False,
    source: Path | str | None = None,
    network: NetworkBuilder | None = None,
) -> TrainResult:
    """Train as configured, into the run ``out``; ``open_model(out)`` has it then.

    ``resume`` continues an interrupted training from its newest checkpoint; ``source`` is a run, or
    an export, whose weights a new one begins with. ``network`` makes what is trained in
    WeatherMixer's place, of the sizes of its fields, if anything is. Raises UserError where store
    and configuration do not fit together, where a run would be overwritten, and at the first NaN or
    infinity.
    """
    with _naming_arguments():
        return train_run(
            config,
            Path(out),
            resume=resume,
            source=None if source is None else Path(source),
            network=network,
        )


def score(forecast: Source, truth: Source, *, climatology: Source | None = None) -> xr.Dataset:
    """Score a forecast beside persistence and, where the truth or an archive has it, climatology.

    ``forecast`` has variables ``(time, [realization,] prediction_timedelta, [level,] latitude,
    longitude)``, ``truth`` ``(time, [level,] latitude, longitude)``: what happened, at valid and
    initial times. Returns a variable for each of the forecast's, ``(source, metric, region,
    prediction_timedelta, [level])`` in float64: means over initial times, weighted by area, in the
    variable's units where the metric has any, NaN where it is not defined. Raises UserError where
    the two do not fit together.
    """
    with (
        _naming_arguments(),
        lent("the forecast", forecast) as forecast_name,
        lent("the truth", truth) as truth_name,
        nullcontext() if climatology is None else lent("the climatology", climatology) as expected,
        progress("verifying") as update,
    ):
        # What is lent is in the memory of this process alone.
        is_lent = any(isinstance(each, xr.Dataset) for each in (forecast, truth, climatology))
        verification = verify(
            forecast_name,
            truth_name,
            climatology=expected,
            processes=1 if is_lent else None,
            progress=update,
        )
    return scores_dataset(verification)


def plan(
    config: Config,
    gpus: int,
    *,
    machine: str | None = None,
    grid: tuple[int, int] | None = None,
) -> Plan:
    """Tell what a training takes on every mesh of so many GPUs, before anything runs.

    ``machine`` is one that is known, such as ``h100``, or a file that ``bench machine`` wrote; by
    default this one. ``grid`` are numbers of latitudes and longitudes, by default the store's.
    ``to_json()`` of the plan has everything that the command prints. Raises UserError where nothing
    says the grid, and for a machine that is not known.
    """
    with _naming_arguments():
        return make_planner(config, machine=machine, grid=grid).plan(gpus)


@contextmanager
def _naming_arguments() -> Iterator[None]:
    """While entered, refusals name arguments where they would name options of commands."""
    try:
        yield
    except UserError as error:
        error.args = (_OPTION.sub(_as_argument, str(error)),)
        raise


def _as_argument(option: re.Match[str]) -> str:
    if option["resume"]:
        return "resume=True"
    return "source" if option["source"] else option["command"] or option["argument"]


def _last_time(name: str) -> np.datetime64:
    times = [each.times[-1] for each in open_analyses(name, None) if len(each.times)]
    if not times:
        raise UserError(f"{name} has no times: give it a coordinate 'time'")
    return max(times)


def _times_in_words(times: Times) -> str:
    """Times as ``--init`` of the command takes them."""
    moments = np.atleast_1d(np.asarray(times))
    if moments.dtype.kind == "M":
        moments = np.unique(moments.astype("datetime64[s]"))
    return ",".join(map(str, moments.tolist() if moments.dtype.kind == "O" else moments))
