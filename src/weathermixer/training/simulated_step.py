"""A training step on a mesh as it goes on in time: the real code's traces, on a machine."""

from __future__ import annotations

from collections.abc import Callable

from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.trace import Event
from weathermixer.planning.machine import ProductType
from weathermixer.planning.simulation.machine_network import MachineNetwork
from weathermixer.planning.simulation.programs import (
    TraceTimer,
    are_alike,
    moved_to,
    program_of,
)
from weathermixer.planning.simulation.steps import SimulatedStep, simulate_step, variation_of
from weathermixer.planning.step_time import StepTimer
from weathermixer.training.rehearsal import Rehearsal


def traces_of_instance(
    layout: Layout, take: Callable[[Layout], Rehearsal]
) -> dict[int, tuple[Event, ...]]:
    """The trace of each rank of the first model instance of a mesh.

    Where those at its corners, which have the largest and the smallest shards, are alike, all are
    taken to do what the first does: some cut a product at another row, or do a few small operations
    less.
    """
    corners = {corner.rank: take(corner).events for corner in layout.corners()}
    first = corners[0]
    if all(are_alike(first, other) for other in corners.values()):
        ranks = map(layout.at, range(layout.ways))
        return {rank.rank: moved_to(first, traced=layout.at(0), rank=rank) for rank in ranks}
    return {
        rank: corners[rank] if rank in corners else take(layout.at(rank)).events
        for rank in range(layout.ways)
    }


def simulate_training_step(
    layout: Layout,
    take: Callable[[Layout], Rehearsal],
    timer: StepTimer,
    dtype: ProductType,
) -> SimulatedStep:
    """Simulate a step of the ranks of one model instance, which stand for all replicas."""
    costs = TraceTimer(timer, dtype)
    traces = traces_of_instance(layout, take)
    return simulate_step(
        {rank: program_of(events, costs) for rank, events in traces.items()},
        MachineNetwork(timer),
        sees_arrivals=not timer.computing.launches_ahead,
        variation=variation_of(timer.machine, replicas=layout.data),
    )
