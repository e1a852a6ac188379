"""What the loss of a training step takes, and what replicas of a pool tell each other for it."""

from __future__ import annotations

from weathermixer.jigsaw.cost import Cost, gather_cost
from weathermixer.jigsaw.mesh import Axis, Mesh, describe_neighbours
from weathermixer.model.architecture import Architecture
from weathermixer.model.arithmetic import Arithmetic
from weathermixer.model.cuts import Part
from weathermixer.planning.layer_work import LayerWork
from weathermixer.planning.step_kind import StepKind


def members_cost(
    architecture: Architecture, mesh: Mesh, kind: StepKind, samples: int
) -> tuple[Axis, Cost]:
    """The replicas of a pool, and the cost of telling each other so many forecasts of one time.

    Where small scales are compared too, it is of these once more.
    """
    pool = describe_neighbours(mesh, kind.pool)
    itemsize = Arithmetic.of(kind.dtype).states.itemsize
    elements = _values(architecture, mesh) * samples
    told = gather_cost(pool, elements=elements, element_bytes=itemsize)
    return pool, told * kind.comparisons


def add_loss(work: LayerWork, architecture: Architecture, mesh: Mesh, kind: StepKind) -> None:
    """Add the loss of one application of the network, forward and back."""
    elements = _values(architecture, mesh) * work.samples * kind.comparisons
    # Difference, square, weight, mean; and the gradients of these.
    work.copies(elements, forward=4, backward=4)
    if kind.error == "crps":
        members = kind.members * kind.pool
        # From each of them: difference, sign, factor, sum.
        work.forward.add_elements(
            "copy",
            elements,
            tensors=10 * members,
            element_bytes=work.element_bytes,
            kernels=4 * members,
        )
    pool, told = members_cost(architecture, mesh, kind, work.samples)
    work.forward.add_exchange(told, pool)


def _values(architecture: Architecture, mesh: Mesh) -> int:
    """Values of the rank's part of a state that the network predicts."""
    part = Part.on(mesh, architecture)
    columns = part.longitudes.stop - part.longitudes.start
    return len(part.channels) * architecture.grid[0] * columns
