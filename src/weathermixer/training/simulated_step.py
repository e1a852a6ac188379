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

_MOST_TRACED = 8  # ranks, which takes seconds each for a large network


def traces_of_instance(
    layout: Layout, take: Callable[[Layout], Rehearsal]
) -> dict[int, tuple[Event, ...]]:
    """The trace of each rank of the first model instance of a mesh.

    The largest and the smallest shards are those of the ranks at its corners. Where these are
    alike, all ranks are taken to do what the first does: some cut a product at another row, or do a
    few small operations less. Among many ranks, each does what the nearest corner does; among few,
    and where some have nothing to send, each is traced itself.
    """
    corners = {corner.rank: take(corner).events for corner in layout.corners()}
    first, ranks = corners[0], [layout.at(rank) for rank in range(layout.ways)]
    others = corners.values()
    is_even = all(are_alike(first, other) for other in others)
    is_many = layout.ways > _MOST_TRACED
    if is_even or (is_many and all(are_alike(first, other, in_size=False) for other in others)):
        nearest = [layout.at(0) if is_even else _nearest_corner(rank) for rank in ranks]
        return {
            rank.rank: moved_to(corners[corner.rank], traced=corner, rank=rank)
            for rank, corner in zip(ranks, nearest, strict=True)
        }
    return {
        rank.rank: corners[rank.rank] if rank.rank in corners else take(rank).events
        for rank in ranks
    }


def _nearest_corner(rank: Layout) -> Layout:
    _, domain, tensor = rank.coordinates
    far = rank.domain - 1 if 2 * domain >= rank.domain else 0
    return rank.at(far * rank.tensor + (rank.tensor - 1 if 2 * tensor >= rank.tensor else 0))


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
