"""The training step as any rank of any mesh takes it, run on one process: its trace and memory.

It is the real step, ``take_step``, on tensors that have no memory: a network of billions of
parameters on a thousand ranks takes seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from weathermixer.config import Lengths, Parallel, Training
from weathermixer.jigsaw.count import Counter
from weathermixer.jigsaw.dry_run import recording
from weathermixer.jigsaw.fake import fake_mesh, fake_neighbours
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.trace import Event
from weathermixer.model.architecture import Architecture
from weathermixer.model.arithmetic import Arithmetic
from weathermixer.model.cuts import Part, check_cuts, cut
from weathermixer.model.mixer import WeatherMixer
from weathermixer.training.ensemble import Ensemble
from weathermixer.training.loss import error_function
from weathermixer.training.optimizer import optimizer_tensors
from weathermixer.training.passes import Objective
from weathermixer.training.small_scales import SmallScales
from weathermixer.training.state import TrainingState
from weathermixer.training.step import take_step


@dataclass(frozen=True)
class Rehearsal:
    """What a rank does in a training step, with every exchange in its place, and what it holds.

    ``counted`` is what the mesh counts, ``events`` the trace in the order of the program, and
    ``peak_parts`` the bytes of each part at the moment at which most is held.
    """

    layout: Layout
    counted: Counter
    events: tuple[Event, ...]
    peak_parts: dict[str, int]

    @property
    def peak_bytes(self) -> int:
        """The most bytes of tensors that the rank holds at one time."""
        return sum(self.peak_parts.values())


def rehearse(
    architecture: Architecture,
    layout: Layout,
    training: Training,
    parallel: Parallel,
    *,
    lengths: Lengths | None = None,
    has_link: bool = True,
) -> Rehearsal:
    """Run a training step as the rank that ``layout`` names, after another that came before.

    Held are the rank's tensors of the step: neither what is read ahead nor a next batch.
    ``lengths`` say how far samples are forecast, by default as far as the training ever does.
    Raises LayoutError where the mesh leaves some rank nothing to do.
    """
    lengths = lengths or training.longest
    training = training.model_copy(
        update={"rollout": lengths.rollout, "latent_rollout": lengths.latent}
    )
    arithmetic = Arithmetic.of(training.dtype)
    narrow = torch.bfloat16 if parallel.exchange_dtype else None
    with (
        FakeTensorMode(),
        fake_mesh(layout, has_link=has_link) as bare,
        recording(bare.exchanging(narrow)) as (mesh, recorder),
    ):
        part = Part.on(mesh, architecture)
        channels, static = len(part.channels), _size(part.static)
        num_forcings = _size(part.forcings)
        latitudes, longitudes = architecture.grid[0], _size(part.longitudes)
        model = _build(architecture, mesh, training, arithmetic)
        state = TrainingState.initial(model, mesh, training, parallel)
        recorder.label("parameters", (*model.parameters(), *model.buffers()))
        owned = state.replicas.parameters()
        averages = optimizer_tensors(owned, state.optimizer)
        steps = [each["step"] for each in state.optimizer.state.values()]
        recorder.label("optimizer", (*averages.values(), *steps))
        if state.average is not None:
            recorder.label("average", state.average.tensors.values())
        times = architecture.input_times + lengths.rollout
        shape = (training.instance_batch, times, channels, latitudes, longitudes)
        states = torch.empty(shape, dtype=arithmetic.states)
        shape = (training.instance_batch, lengths.rollout, num_forcings, latitudes, longitudes)
        forcings = torch.empty(shape, dtype=arithmetic.states)
        weights = torch.empty(channels, latitudes, 1, dtype=arithmetic.states)
        ensemble = Ensemble.of(training, architecture.drawn, mesh, fake_neighbours)
        small_scales = None
        if training.small_scales:
            rows = torch.empty(latitudes, 1, dtype=arithmetic.states)
            small_scales = SmallScales.on(
                mesh, training, torch.empty_like(weights), rows, architecture.grid[1], ensemble
            )
        objective = Objective(
            torch.empty(static, latitudes, longitudes, dtype=arithmetic.states),
            weights,
            error=error_function(training, torch.empty_like(weights), ensemble),
            input_times=architecture.input_times,
            ensemble=ensemble,
            small_scales=small_scales,
        )
        recorder.label("samples", (states, forcings, objective.static, objective.weights))
        for _ in range(2):  # after the first, weights of a sharded optimizer are on their way
            recorder.mark()
            take_step(state, mesh, training, states, objective, forcings)
        return Rehearsal(layout, recorder.counted, tuple(recorder.events), recorder.peak())


def _build(
    architecture: Architecture, mesh: Mesh, training: Training, arithmetic: Arithmetic
) -> WeatherMixer:
    """The rank's part of the network: made whole, which costs nothing here, and then cut."""
    check_cuts(architecture, mesh)
    before = torch.get_default_dtype()
    # A module whose tensors are fake cannot be brought to another type or device.
    torch.set_default_dtype(arithmetic.states)
    try:
        model = WeatherMixer(
            architecture,
            arithmetic=arithmetic.products,
            recompute=training.recompute == "blocks",
        )
    finally:
        torch.set_default_dtype(before)
    return cut(model, mesh, samples=training.forecasts_at_once)


def _size(part: slice) -> int:
    return int(part.stop - part.start)
