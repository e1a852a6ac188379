"""A run: the folder in which training leaves what forecasting needs.

::

    config.yaml           the configuration as run
    normalisation.npz     channels, their statistics, static fields, grid
    origin.json           seed, times and software that the run was begun with
    checkpoints/step-N    weights, and what else a training needs to go on
    checkpoints/best.json which of them scored best, where checkpoint.best is set
    log.jsonl             what training said, and TensorBoard's events beside it
    .lock                 there while a training writes into the folder
    training.json         what the latest training took and came to, when it ended
    divergence.json       samples that are left out since the training diverged on them
    ranks/rank-N.log      what a rank has to say that is worth knowing after the fact
    profile/              where a step's time went on each rank, for steps that were chosen

What is in a checkpoint besides weights is for ``training`` to know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Self, TypeAlias

from torch import nn

from weathermixer import __version__
from weathermixer.config import Config, read_config, version_that_wrote, write_config
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.errors import UserError
from weathermixer.jigsaw.mesh import Axis, Mesh
from weathermixer.jigsaw.pieces import local_parameters
from weathermixer.model.architecture import architecture_of
from weathermixer.model.other_network import Network, NetworkBuilder
from weathermixer.runs import checkpoint
from weathermixer.runs.best import best_checkpoint, read_best
from weathermixer.runs.building import build_network
from weathermixer.runs.checkpoint_index import stored_kinds
from weathermixer.runs.shards import Shard

_CONFIG = "config.yaml"
_NORMALISATION = "normalisation.npz"
_ORIGIN = "origin.json"

AVERAGE = "average"
"""What the names of the weights' averages begin with in a checkpoint."""

Weights: TypeAlias = Literal["last", "average"]
"""The weights of a checkpoint: as the last step left them, or their moving average."""


@dataclass(frozen=True)
class Run:
    """The folder ``path`` of a run. ``create`` makes one, ``open`` looks into one."""

    path: Path

    @classmethod
    def create(
        cls,
        path: Path,
        config: Config,
        normalisation: Normalisation,
        write_origin: Callable[[Path], None],
    ) -> Run:
        """Begin a run, or renew the configuration of one that goes on.

        ``write_origin(file)`` writes what the run was begun with.

        Raises UserError where the folder cannot be written.
        """
        try:
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
            # Each is renamed into place, so that none is ever there in part.
            _replace(path / _NORMALISATION, normalisation.save)
            _replace(path / _ORIGIN, write_origin)
            _replace(path / _CONFIG, lambda file: write_config(config, file))
        except OSError as error:
            raise UserError(
                f"the run {path} cannot be written ({error.strerror or error}): choose another "
                "place, free some space, or make the folder writable"
            ) from error
        return cls(path)

    @classmethod
    def open(cls, path: Path | str) -> Run:
        """Open the folder of an existing run; UserError where it holds none."""
        run = Run(Path(path))
        if not (run.path / _CONFIG).is_file():
            raise UserError(
                f"{run.path} is not a run (it has no {_CONFIG}): give the folder that "
                "'weathermixer train --out' wrote"
            )
        return run

    @cached_property
    def config(self) -> Config:
        """The configuration as run; UserError where it is damaged, or of another version."""
        with self._naming_its_version():
            return self._read_config((), ())

    @cached_property
    def normalisation(self) -> Normalisation:
        """Channels, their statistics and the grid; UserError where the file is damaged."""
        with self._naming_its_version():
            return Normalisation.load(self.path / _NORMALISATION)

    def read(self) -> Self:
        """This run with configuration and normalisation read: who is sent it opens no file."""
        _ = self.config, self.normalisation
        return self

    def without_static_fields(self) -> Run:
        """The run as ``read``, but for the static fields, of which a rank keeps its part alone."""
        run = copy(self)
        # As the cached properties keep them.
        vars(run).update(config=self.config, normalisation=self.normalisation.without_static())
        return run

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def origin(self) -> Path:
        """The file of what the run was begun with, which ``training`` reads and writes."""
        return self.path / _ORIGIN

    @property
    def log(self) -> Path:
        """The file of records of training steps, one JSON object a line."""
        return self.path / "log.jsonl"

    @property
    def training_result(self) -> Path:
        """The file in which the latest training left its result, as JSON."""
        return self.path / "training.json"

    @property
    def divergence(self) -> Path:
        """The file of where a training diverged, which ``training`` reads and writes."""
        return self.path / "divergence.json"

    def rank_log(self, rank: int) -> Path:
        """The file in which a rank notes what is worth knowing after the fact."""
        return self.path / "ranks" / f"rank-{rank:05d}.log"

    @property
    def profiles(self) -> Path:
        """The folder of profiles of steps, one of each rank."""
        return self.path / "profile"

    @contextmanager
    def _naming_its_version(self) -> Iterator[None]:
        """While entered, let a UserError say if another version of the program wrote the run."""
        try:
            yield
        except UserError as error:
            program = version_that_wrote(self.path / _CONFIG)
            if program in (None, __version__):
                raise
            raise UserError(
                f"the run {self.path} was written by WeatherMixer {program}, and this version, "
                f"{__version__}, does not understand it ({error}): install WeatherMixer {program} "
                "to go on with it"
            ) from error

    def newest_checkpoint(self) -> Path | None:
        """The path of the newest whole checkpoint, None where there is none."""
        return next(reversed(checkpoint.checkpoints(self.checkpoints)), None)

    def require_checkpoint(self, which: str = "newest") -> Path:
        """The path of a whole checkpoint: the ``newest``, the ``best``, or that after a step.

        Raises UserError where there is none.
        """
        if which == "best":
            found = best_checkpoint(self.checkpoints, read_best(self.checkpoints))
            if found is None:
                raise UserError(
                    f"{self.path} has no best checkpoint: train it with checkpoint.best=loss, or "
                    "another score of its validations"
                )
            return found
        whole = checkpoint.checkpoints(self.checkpoints)
        if not whole:
            raise UserError(f"{self.path} has no checkpoint yet: train it first")
        if which == "newest":
            return whole[-1]
        if not which.isdecimal():
            raise UserError(f"{which} is no checkpoint: give newest, best, or a number of steps")
        path = checkpoint.checkpoint_path(self.checkpoints, int(which))
        if path not in whole:
            steps = ", ".join(str(int(each.name.partition("-")[2])) for each in whole)
            raise UserError(f"{self.path} has no checkpoint after step {which}: there are {steps}")
        return path

    def weights_of(self, checkpoint_path: Path, weights: Weights | None) -> Weights:
        """Which weights to take from a checkpoint: by default the average, where there is one.

        All ranks call this. Raises UserError where it has none of those that are asked for.
        """
        if weights == "last":
            return weights
        has_average = AVERAGE in stored_kinds(checkpoint_path)
        if weights == "average" and not has_average:
            raise UserError(
                f"the checkpoint {checkpoint_path} has no average of the weights: take the last "
                "ones, or train with training.average_decay"
            )
        return "average" if has_average else "last"

    def kind_of(self, weights: Weights) -> str:
        """What the names of such weights begin with in a checkpoint."""
        return AVERAGE if weights == "average" else "model"

    def config_with(
        self, overrides: Sequence[str], *, base_overrides: Sequence[str] = ()
    ) -> Config:
        """The configuration with overrides ``section.key=value``, such as another dtype.

        ``base_overrides`` give way to them. Raises UserError where one is impossible.
        """
        _ = self.config  # what is wrong with that is not for the overrides to answer for
        return self._read_config(overrides, base_overrides)

    def _read_config(self, overrides: Sequence[str], base_overrides: Sequence[str]) -> Config:
        return read_config(self.path / _CONFIG, overrides, base_overrides=base_overrides)

    def load_model(
        self,
        config: Config | None = None,
        mesh: Mesh | None = None,
        checkpoint_path: Path | None = None,
        weights: Weights | None = "last",
        network: NetworkBuilder | None = None,
    ) -> Network:
        """Load the network with a checkpoint's weights, in eval mode; a rank's part of it.

        ``config`` is the run's own by default, ``checkpoint_path`` that of the newest checkpoint,
        ``weights`` are as :meth:`weights_of` takes them, and ``network`` is what it was trained
        with, where that is not WeatherMixer. Raises UserError where it does not fit, and where it
        has no such weights.
        """
        path = checkpoint_path or self.require_checkpoint()
        config = config or self.config
        mesh = mesh or Mesh.describe()
        architecture = architecture_of(config.data, config.model, self.normalisation.grid)
        model = build_network(
            architecture,
            config.training,
            self.normalisation,
            mesh=mesh,
            draws_weights=False,
            network=network,
        )
        kind = self.kind_of(self.weights_of(path, weights))
        checkpoint.load(path, model_tensors(model, mesh.data, kind=kind))
        return model.eval()


def model_tensors(model: nn.Module, *replicas: Axis, kind: str = "model") -> dict[str, Shard]:
    """A network's parameters under the names that they have in a checkpoint.

    ``replicas`` is the axis of its replicas, where they write one together; the ``kind`` AVERAGE
    names the averages of the parameters.
    """
    return {
        f"{kind}.{name}": Shard(parameter, piece.block, (*replicas, *piece.shared_over))
        for name, parameter, piece in local_parameters(model)
    }


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    partial = path.with_name(path.name + ".partial")
    write(partial)
    partial.replace(path)
