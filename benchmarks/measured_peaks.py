"""What a rank really holds at the peak of a training step, beside what is predicted of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from allocated_memory import allocated_bytes, most_allocated_bytes
from harness import Rank
from torch import Tensor

from weathermixer.config import Parallel, Training
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh, connect
from weathermixer.model.architecture import Architecture
from weathermixer.model.arithmetic import Arithmetic
from weathermixer.model.cuts import Part, build, describe
from weathermixer.planning.step_kind import StepKind
from weathermixer.planning.step_memory import step_memory
from weathermixer.training.passes import Objective
from weathermixer.training.state import TrainingState
from weathermixer.training.step import take_step


@dataclass(frozen=True)
class Case:
    """A training whose memory is measured."""

    name: str
    architecture: Architecture
    layout: Layout
    training: Training
    parallel: Parallel


@dataclass(frozen=True)
class PeakRow:
    """Bytes of the rank with the most at the peak of a training: predicted, and as allocated.

    ``allocated`` is the most that the allocator gave out, to tensors and to kernels, on all
    threads. ``libraries`` is not in it: what it had given out between the steps to what is no
    tensor, such as modules of Python and compiled kernels.
    """

    case: str
    predicted: int
    allocated: int
    libraries: int

    @property
    def error(self) -> float:
        """Relative error of the prediction."""
        return self.predicted / self.allocated - 1.0


def measure_peak(rank: Rank, case: Case) -> PeakRow:
    """Measure a case on as many ranks as it has; nothing larger may have run in the process."""
    mesh = connect(case.layout, device=rank.device)
    predicted = max(rank.gather(_predicted(case, mesh.layout)))
    libraries = _take_steps(case, mesh, rank)
    most = most_allocated_bytes(rank.device)
    allocated, libraries = max(rank.gather((most - libraries, libraries)))
    return PeakRow(case.name, predicted, allocated, libraries)


def _predicted(case: Case, layout: Layout) -> int:
    arithmetic = Arithmetic.of(case.training.dtype)
    model = describe(
        case.architecture,
        Mesh.describe(layout),
        samples=case.training.samples_at_once,
        arithmetic=arithmetic.products,
    ).to(arithmetic.states)
    memory = step_memory(model, StepKind.of(case.training, case.parallel))
    return memory.peak - memory.read_ahead - memory.checkpoint  # nothing is read here, nor saved


def _take_steps(case: Case, mesh: Mesh, rank: Rank) -> int:
    """Build the network and take two steps; the bytes between them that are of no tensor."""
    a, training = case.architecture, case.training
    arithmetic = Arithmetic.of(training.dtype)
    part = Part.on(mesh, a)
    channels, static = len(part.channels), _size(part.static)
    latitudes, longitudes = a.grid[0], _size(part.longitudes)
    model = build(
        a,
        mesh,
        seed=0,
        increment_scale=torch.ones(channels),
        samples=training.samples_at_once,
        dtype=arithmetic.states,
        arithmetic=arithmetic.products,
        recompute=training.recompute == "blocks",
    )
    state = TrainingState.initial(model, mesh, training, case.parallel)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=arithmetic.states, device=rank.device)

    samples = (training.instance_batch, training.longest.rollout + 1)
    states = draw(*samples, channels, latitudes, longitudes)
    share = 1.0 / mesh.layout.world_size
    weights = torch.ones(channels, latitudes, 1, dtype=arithmetic.states, device=rank.device)
    objective = Objective(draw(static, latitudes, longitudes), weights, share)
    take_step(state, mesh, training, states, objective)
    rank.meet()
    averages = [each for held in state.optimizer.state.values() for each in held.values()]
    held = [*model.parameters(), *model.buffers(), *averages]
    held += [states, objective.static, objective.weights]
    tensors = sum(tensor.nbytes for tensor in held)  # which waits for weights on their way
    libraries = allocated_bytes(rank.device) - tensors
    take_step(state, mesh, training, states, objective)
    return libraries


def _size(part: slice) -> int:
    return int(part.stop - part.start)
