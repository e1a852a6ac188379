"""Simulated training steps: the real code's traces on all ranks of an instance, in time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache

import pytest

from support.selection import exhaustive
from weathermixer.config import Parallel, Training
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.trace import (
    ExchangeBegun,
    ExchangeWaited,
    OperationTaken,
    ProductTaken,
    WorkDeferred,
)
from weathermixer.model.architecture import Architecture
from weathermixer.planning.machine import Machine
from weathermixer.planning.machine_files import find_machine
from weathermixer.planning.simulation.actions import (
    Action,
    Begins,
    Computes,
    Defers,
    Joins,
    Program,
    TakesInLater,
)
from weathermixer.planning.simulation.engine import simulate
from weathermixer.planning.simulation.machine_network import MachineNetwork
from weathermixer.planning.simulation.programs import TraceTimer, are_alike, program_of
from weathermixer.planning.step_time import StepTimer
from weathermixer.training.rehearsal import Rehearsal, rehearse
from weathermixer.training.simulated_step import simulate_training_step, traces_of_instance

EVEN = Architecture(
    prognostic=6,
    static=0,
    grid=(6, 24),
    patch=(3, 2),
    channels=24,
    blocks=2,
    token_hidden=24,
    channel_hidden=24,
    dropout=0.0,
    prediction="increment",
)
UNEVEN = replace(EVEN, prognostic=5, channels=13, token_hidden=11, channel_hidden=17)
TRAINING = Training(instance_batch=1)
PROCESSORS, ACCELERATORS = "processors", "a100-40gb"


# Of which a pool of two replicas makes half each.
OF_MEMBERS = Training(instance_batch=1, error="crps", members=2, instance_members=1)


@cache
def taken(architecture: Architecture, layout: Layout, *, in_pools: bool = False) -> Rehearsal:
    parallel = Parallel(data=layout.data)
    training = OF_MEMBERS if in_pools else TRAINING
    return rehearse(architecture, layout, training, parallel, has_link=True)


def flattened(program: Program) -> Iterator[Action]:
    """All actions of a program, those put off where they are."""
    for action in program:
        match action:
            case Defers():
                yield from flattened(action.work)
            case TakesInLater():
                yield from flattened(action.then)
            case _:
                yield action


def linked(name: str) -> Machine:
    """A machine all of whose ranks exchange over a link that nothing slows down for."""
    machine = find_machine(name)
    link = machine.within_node.model_copy(update={"carried_by_processors": False, "slowdown": 1.0})
    parts = tuple(part.model_copy(update={"within_node": None}) for part in machine.computing)
    links = {"within_node": link, "between_nodes": link}
    return machine.model_copy(update={**links, "computing": parts})


def computed(actions: Iterable[Action]) -> float:
    return sum(action.seconds for action in actions if isinstance(action, Computes))


@pytest.mark.parametrize("name", [ACCELERATORS, *exhaustive(PROCESSORS)])
@pytest.mark.parametrize(
    ("layout", "in_pools"),
    [
        (Layout(data=2, domain=2), True),
        *exhaustive((Layout(data=2, domain=2), False), (Layout(domain=2, tensor=3), False)),
    ],
    ids=str,
)
def test_a_simulated_step_does_all_that_was_traced(
    layout: Layout, in_pools: bool, name: str
) -> None:
    timer = StepTimer(linked(name), layout.world_size, threads=1)
    costs = TraceTimer(timer)
    traces = traces_of_instance(layout, lambda rank: taken(UNEVEN, rank, in_pools=in_pools))
    programs = {rank: program_of(events, costs) for rank, events in traces.items()}
    sees_arrivals = name == PROCESSORS
    found = simulate(programs, MachineNetwork(timer), sees_arrivals=sees_arrivals)
    for rank, program in programs.items():
        actions = list(flattened(program))
        sent = sum(each.num_bytes for each in actions if isinstance(each, Begins | Joins))
        assert sent == taken(UNEVEN, layout.at(rank), in_pools=in_pools).counted.bytes_sent
        operations = [
            event for event in traces[rank] if isinstance(event, OperationTaken | ProductTaken)
        ]
        assert len([each for each in actions if isinstance(each, Computes)]) == len(operations)
        # Whatever it did in which wait.
        assert found.ranks[rank].computed == pytest.approx(computed(actions))


@pytest.mark.exhaustive
def test_ranks_of_even_shards_are_known_by_the_trace_of_one() -> None:
    layout = Layout(data=2, domain=2, tensor=3)
    taken_of: list[int] = []

    def take(rank: Layout) -> Rehearsal:
        taken_of.append(rank.rank)
        return taken(EVEN, rank)

    traces = traces_of_instance(layout, take)
    assert taken_of == [corner.rank for corner in layout.corners()]
    for rank, events in traces.items():
        expected = taken(EVEN, layout.at(rank)).events
        for kind in (ExchangeBegun, ExchangeWaited, WorkDeferred):
            found, wanted = (
                [event for event in trace if isinstance(event, kind)]
                for trace in (events, expected)
            )
            assert found == wanted, f"rank {rank}"
        assert are_alike(events, expected)


@pytest.mark.exhaustive
def test_ranks_of_uneven_shards_are_traced_each() -> None:
    layout = Layout(domain=3)
    traces = traces_of_instance(layout, lambda rank: taken(UNEVEN, rank))
    assert sorted(traces) == [0, 1, 2]
    assert not are_alike(traces[0], traces[2])
    for rank, events in traces.items():
        assert events == taken(UNEVEN, layout.at(rank)).events


@pytest.mark.exhaustive
def test_many_ranks_of_uneven_shards_do_what_the_nearest_corner_does() -> None:
    layout = Layout(domain=2, tensor=5)
    traces = traces_of_instance(layout, lambda rank: taken(UNEVEN, rank))
    # Each of the other domain and of the far half of tensor does as its last rank does.
    for rank, corner in ((0, 0), (1, 0), (2, 0), (3, 4), (5, 5), (8, 9)):
        expected = taken(UNEVEN, layout.at(corner)).events
        assert are_alike(traces[rank], expected), f"rank {rank}"
    timer = StepTimer(linked(PROCESSORS), 10, threads=1)
    programs = {rank: program_of(events, TraceTimer(timer)) for rank, events in traces.items()}
    # They fit together: nobody waits for what is never sent.
    assert simulate(programs, MachineNetwork(timer)).seconds > 0.0


@pytest.mark.exhaustive
def test_a_machine_that_varies_gives_a_range_and_replicas_the_slowest_of_them() -> None:
    machine = find_machine(ACCELERATORS)
    medians = {}
    for spread, replicas in ((0.0, 2), (0.2, 2), (0.2, 64)):
        layout = Layout(data=replicas, domain=2)
        timer = StepTimer(machine.model_copy(update={"spread": spread}), layout.world_size)
        step = simulate_training_step(layout, lambda rank: taken(EVEN, rank), timer, TRAINING.dtype)
        assert (step.low < step.median < step.high) == (spread > 0.0)
        medians[spread, replicas] = step.median
    assert medians[0.2, 2] < medians[0.2, 64]
