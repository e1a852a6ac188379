"""What the ranks of a training or a forecast settle together before either begins.

They compare what they were given, choose a mesh and connect; the result is one frozen ``Job``. What
is then made of it, a run or a forecast, is for ``training`` and ``forecast``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

from weathermixer.config import Config
from weathermixer.data.channels import channels_of, names, predicted_channels
from weathermixer.data.states import States
from weathermixer.errors import reason
from weathermixer.jigsaw import mesh as meshes
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.launch.consistency import require_equal_settings, settings_of, versions
from weathermixer.launch.ranks import this_rank
from weathermixer.model.architecture import Architecture, architecture_of
from weathermixer.model.arithmetic import Arithmetic
from weathermixer.model.cuts import Part
from weathermixer.model.other_network import NetworkBuilder, require_settings_for_other
from weathermixer.planning.choosing import MeshChoice, choose_mesh, choose_replicas
from weathermixer.planning.reading_share import REMEDY, reading_warning


@dataclass(frozen=True)
class Job:
    """The settings, states and mesh that all ranks share, and this rank's part of each state.

    ``config`` is the whole configuration, with what it left open decided, ``architecture`` the
    sizes of the network. ``channels`` are those that the states must have, in the network's order:
    of a training all that are predicted, of a forecast the prognostic ones;
    ``ranks_on_machine`` is the number of ranks that share this machine's memory, ``choice`` says
    why the mesh was taken and what a step was predicted to take on it. ``network`` makes what is
    trained or applied in WeatherMixer's place, if anything is.
    """

    config: Config
    states: States
    channels: tuple[str, ...]
    architecture: Architecture
    mesh: Mesh
    part: Part
    ranks_on_machine: int
    choice: MeshChoice
    network: NetworkBuilder | None = None

    def reading_problems(self, windows: Iterable[Iterable[int]]) -> list[str | None]:
        """Read the states at each window of time indices, and say for each what went wrong.

        Every rank calls this, reads its own part, and has the same answer: for each window the
        words of the first rank that cannot read it, or None.
        """
        own = [self._reading_problem(window) for window in windows]
        by_window = zip(*meshes.gather_objects(own), strict=True)
        return [next(filter(None, ranks), None) for ranks in by_window]

    def _reading_problem(self, window: Iterable[int]) -> str | None:
        own = self.states.channel_indices(self.part.names_among(self.channels))
        try:
            for index in window:
                self.states.read(int(index), own, self.part.longitudes)
        except Exception as error:  # noqa: BLE001 - of any kind, the other ranks must hear of it
            return reason(error)
        return None


def join(
    config: Config,
    states: States,
    *,
    trains: bool,
    say: Callable[[str], None],
    equal_on_all: Mapping[str, str] | None = None,
    device: torch.device | str | None = None,
    network: NetworkBuilder | None = None,
) -> Job:
    """Compare settings, states and software with all other ranks, choose a mesh, and connect.

    Every rank that was started calls this with the same arguments; ``equal_on_all`` holds what else
    has to be the same on all of them, by names for the user. The mesh is the one that ``config``
    asks for or, where it leaves a choice, the one on which a step takes the least time, as
    predicted: that of a training where this is one that ``trains``, else that of a forecast. So are
    the threads of this process, of those that it has, and recomputation. Of another ``network``
    nothing is predicted, and its ranks are replicas.
    ``device`` is by default the accelerator of this rank, or the processor. The first rank says
    what of an archive is left out, where memory is short, where the device does not have the
    arithmetic, where a setting of the exchange changes nothing, and where chunks make ranks read
    much more than their share.

    Raises UserError where ranks differ, where the states lack channels or do not fit the patches,
    where a training does not fit into memory, and where another network cannot follow a setting;
    LayoutError where the mesh does not fit the ranks or the network; RankLost where one is gone.
    """
    require_equal_settings(
        {**(equal_on_all or {}), "the store": states.fingerprint()}
        | settings_of(config)
        | versions()
    )
    if network is not None:
        require_settings_for_other(config)
    data = config.data
    channels = names(
        predicted_channels(data) if trains else channels_of(data.variables, data.levels)
    )
    states.channel_indices(channels)
    architecture = architecture_of(config.data, config.model, states.grid)
    # On the first rank, so that all take the same: a machine file may lie on its machine alone.
    choice = meshes.from_first_rank(
        lambda: (
            choose_mesh(
                config,
                architecture,
                world_size=meshes.world_size(),
                trains=trains,
                states=states if trains else None,
            )
            if network is None
            else choose_replicas(config, world_size=meshes.world_size(), trains=trains)
        )
    )
    training = config.training.model_copy(update={"recompute": choice.recompute})
    config = config.model_copy(update={"training": training})
    layout = choice.layout
    mesh = _connect(choice, config, device)
    if meshes.is_first_rank():
        if choice.warning is not None:
            say(choice.warning)
        for remark in states.remarks:
            say(remark)
        arithmetic_remark = Arithmetic.of(config.training.dtype).remark(mesh.device)
        if arithmetic_remark is not None:
            say(arithmetic_remark)
        if config.parallel.exchange_dtype and layout.ways == 1:
            say(
                f"parallel.exchange_dtype is {config.parallel.exchange_dtype}, but each model "
                "instance is one rank, which exchanges nothing within it: it changes nothing"
            )
        advice = reading_warning(states, channels, architecture, layout)
        if advice is not None:
            say(f"{advice}: {REMEDY}")
    return Job(
        config=config,
        states=states,
        channels=channels,
        architecture=architecture,
        mesh=mesh,
        part=Part.on(mesh, architecture),
        ranks_on_machine=this_rank().local_world_size,
        choice=choice,
        network=network,
    )


def connect_for_forecasts(
    config: Config, architecture: Architecture, *, device: torch.device | str | None = None
) -> Mesh:
    """Choose the mesh of a forecast from states in memory, and connect.

    Every rank that was started calls this with the same arguments; mesh, threads and ``device`` are
    as in :func:`join`. Raises LayoutError where the mesh does not fit the ranks or the network.
    """
    ranks = meshes.world_size()
    choice = meshes.from_first_rank(
        lambda: choose_mesh(config, architecture, world_size=ranks, trains=False)
    )
    return _connect(choice, config, device)


def _connect(choice: MeshChoice, config: Config, device: torch.device | str | None) -> Mesh:
    if choice.threads is not None:
        torch.set_num_threads(choice.threads)
    return meshes.connect(
        choice.layout, device=meshes.local_device() if device is None else torch.device(device)
    ).exchanging(torch.bfloat16 if config.parallel.exchange_dtype else None)
