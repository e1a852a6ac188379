"""A training step of Jigsaw on one mesh: what its ranks compute, send, hold and read, and its time.

Of every figure it is the rank with the most, and the time is that of the slowest.
"""

from __future__ import annotations

from dataclasses import dataclass

from weathermixer.jigsaw.cost import Cost, busiest
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.architecture import Architecture
from weathermixer.model.cuts import Part
from weathermixer.planning.machine import Machine
from weathermixer.planning.step_cost import step_cost
from weathermixer.planning.step_kind import StepKind
from weathermixer.planning.step_memory import step_memory
from weathermixer.planning.step_phases import describe_rank, sent, step_phases
from weathermixer.planning.step_time import Phase, StepTime, StepTimer

_STORED_BYTES = 4  # of a value in a store


@dataclass(frozen=True)
class JigsawStep:
    """A step on the ranks of one mesh. ``by_rank`` holds the phases of those at its corners.

    ``bytes_read`` are those of a step's samples as they are stored, ``memory_bytes`` the peak of
    what a rank holds in the longest rollout of the training.
    """

    by_rank: tuple[tuple[Phase, ...], ...]
    cost: Cost
    bytes_read: float
    memory_bytes: float

    @property
    def operations(self) -> int:
        """Operations of matrix products: two for a multiply-add."""
        return 2 * self.cost.multiply_adds

    @property
    def bytes_moved(self) -> int:
        """Bytes that products and elementwise work read from a rank's memory and write to it."""
        return max(sum(phase.num_bytes for phase in phases) for phases in self.by_rank)

    @property
    def bytes_sent(self) -> float:
        """Bytes that a rank sends."""
        return self.cost.bytes_sent

    @property
    def messages(self) -> float:
        """What goes to a peer of a rank's exchanges."""
        return self.cost.messages

    @property
    def calls(self) -> float:
        """Exchanges as they are handed to the backend."""
        return self.cost.calls

    def seconds(self, timer: StepTimer, *, loads: bool = True) -> StepTime:
        """The seconds of the step on the slowest rank, which reads where it ``loads`` samples.

        Raises UserError where the machine lacks what the step needs.
        """
        bytes_read = self.bytes_read if loads else 0.0
        times = [timer.step(phases, bytes_read=bytes_read) for phases in self.by_rank]
        return max(times, key=lambda time: time.total)


def describe_jigsaw(
    architecture: Architecture, layout: Layout, kind: StepKind, machine: Machine
) -> JigsawStep:
    """Describe a step of the network on a mesh.

    Raises LayoutError where some rank would be left with nothing to do.
    """
    costs, phases, memory, read = [], [], [], []
    on_accelerator = not machine.shares_processors
    for corner in layout.corners():
        model = describe_rank(architecture, corner, kind, machine)
        costs.append(step_cost(model, kind) + sent(model, corner, kind))
        phases.append(tuple(step_phases(model, corner, kind, machine)))
        memory.append(step_memory(model, kind, on_accelerator=on_accelerator).peak)
        times = architecture.input_times + kind.rollout
        read.append(kind.samples_read * times * _state_bytes(architecture, corner))
    return JigsawStep(tuple(phases), busiest(costs), max(read), max(memory))


def _state_bytes(architecture: Architecture, layout: Layout) -> int:
    """Bytes of a rank's part of a state in a store."""
    part = Part.on(Mesh.describe(layout), architecture)
    channels = len(part.channels)
    columns = part.longitudes.stop - part.longitudes.start
    return channels * architecture.grid[0] * columns * _STORED_BYTES
