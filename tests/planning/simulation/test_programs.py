"""Programs and links of a machine of round numbers, against traces and sums by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.trace import (
    Event,
    ExchangeBegun,
    ExchangeWaited,
    HostWaited,
    OperationTaken,
    PartBegun,
    PartEnded,
    PlaceReached,
    ProductTaken,
    SumsSent,
    WorkDeferred,
)
from weathermixer.planning.machine import Machine
from weathermixer.planning.simulation.actions import (
    Begins,
    CatchesUp,
    Computes,
    Defers,
    HostWaits,
    Joins,
    Program,
    TakesInLater,
    Waits,
)
from weathermixer.planning.simulation.engine import simulate
from weathermixer.planning.simulation.machine_network import MachineNetwork
from weathermixer.planning.simulation.programs import TraceTimer, moved_to, program_of
from weathermixer.planning.step_time import StepTimer


def machine(*, launches_ahead: bool = False, carried: bool = False) -> Machine:
    """Four ranks a node, of which two share an adapter; products at 1e12, memory at 1e11."""
    link = {"latency_seconds": 0.0, "source": "made up"}
    rates = {"sizes": [1.0], "rates": [1e12], "peak": 1e12, "source": "made up"}
    return Machine.model_validate(
        {
            "name": "round",
            "source": "made up",
            "ranks_per_node": 4,
            "memory_bytes": 1e10,
            "computing": [
                {
                    "source": "made up",
                    "memory_bytes_per_second": 1e11,
                    "launch_seconds": 1e-3,
                    "launches_ahead": launches_ahead,
                    "products": {"float32": rates},
                }
            ],
            "within_node": {
                **link,
                "messages": {"sizes": [1.0], "rates": [1e10]},
                "carried_by_processors": carried,
                "slowdown": 1.25,
            },
            "between_nodes": {
                **link,
                "latency_seconds": 3e-3,
                "waiting_seconds": 2e-3,
                "messages": {"sizes": [1.0], "rates": [1e9]},
                "ranks_sharing": 2,
            },
            "storage": {
                "source": "made up",
                "rank_bytes_per_second": 1e9,
                "node_bytes_per_second": 1e9,
            },
        }
    )


def begun(number: int, to: int, source: int, num_bytes: int, *, kind: str = "round") -> Event:
    return ExchangeBegun(
        number, kind, "tensor", (0, 1, 2), to, source, num_bytes, num_bytes, 1, False, "layer"
    )


PRODUCT = ProductTaken(1000, 1000, 1000, "float32", "layer")  # 2e9 operations
COPY = OperationTaken("add", 6 * 10**8, 4 * 10**8, "float32")


def test_an_operation_takes_its_time_and_that_of_its_host() -> None:
    behind = TraceTimer(StepTimer(machine(), ranks=4))
    assert behind.computes(PRODUCT).seconds == pytest.approx(2e-3 + 1e-3)
    assert behind.computes(COPY).seconds == pytest.approx(1e-2 + 1e-3)
    ahead = TraceTimer(StepTimer(machine(launches_ahead=True), ranks=4))
    assert ahead.computes(COPY).seconds == pytest.approx(1e-2)
    assert ahead.computes(COPY).host_seconds == 1e-3


def test_a_program_has_what_was_deferred_where_it_was_deferred() -> None:
    timer = TraceTimer(StepTimer(machine(), ranks=4))
    product, copy = timer.computes(PRODUCT), timer.computes(COPY)
    trace: list[Event] = [
        WorkDeferred(0, is_shared=True),
        begun(0, 1, 2, 80),
        PartBegun(0),  # done in the wait, on the machine that was traced
        PRODUCT,
        begun(1, 1, 2, 40),
        SumsSent(1, (1,)),
        PartEnded(0),
        ExchangeWaited(0, is_filled=True),
        COPY,
        PlaceReached("work"),
        PartBegun(1),
        ExchangeWaited(1),
        COPY,
        PartEnded(1),
        begun(2, 0, 0, 24, kind="all_reduce"),
        HostWaited(),
    ]
    stream = ("tensor", False)
    taken_in = TakesInLater((1,), [Waits(1), copy])
    assert program_of(trace, timer) == [
        Defers([product, Begins(1, 1, 2, 40, stream), taken_in], is_shared=True),
        Begins(0, 1, 2, 80, stream),
        Waits(0, is_filled=True),
        copy,
        CatchesUp(),
        Joins(2, (0, 1, 2), 24, stream, "all_reduce"),
        HostWaits(),
        Waits(2),  # which nobody did in the trace
    ]


def test_a_trace_is_moved_to_another_rank_along_its_axes() -> None:
    layout = Layout(domain=2, tensor=3)
    (moved,) = moved_to([begun(0, 1, 2, 80)], traced=layout.at(0), rank=layout.at(5))
    assert isinstance(moved, ExchangeBegun)
    assert (moved.to, moved.source, moved.ranks) == (3, 4, (3, 4, 5))
    # Replicas of a pool lie as far from each rank of the instance.
    told = begun(0, 6, 6, 80)
    assert isinstance(told, ExchangeBegun)
    told = replace(told, axis="members", ranks=(0, 6))
    (moved,) = moved_to([told], traced=layout.at(0), rank=layout.at(5))
    assert isinstance(moved, ExchangeBegun)
    assert (moved.to, moved.source, moved.ranks) == (11, 11, (5, 11))


def test_a_message_to_a_replica_stands_for_the_one_that_it_sends() -> None:
    program: Program = [Begins(0, 4, 4, 1e10), Begins(1, 8, 8, 1e10), Waits(0), Waits(1)]
    found = simulate({0: program}, MachineNetwork(StepTimer(machine(), ranks=8)))
    assert found.seconds == pytest.approx(20.0 + 3e-3)


@pytest.mark.parametrize(
    ("pairs", "seconds"),
    [
        ([(0, 1)], 1.0),  # 1e10 bytes within the node
        ([(0, 1), (2, 3)], 1.0),
        ([(0, 1), (2, 1)], 2.0),  # into the same rank
        ([(0, 4)], 10.0 + 3e-3),
        ([(0, 4), (2, 6)], 10.0 + 3e-3),  # an adapter each
        ([(0, 4), (1, 6)], 20.0 + 3e-3),  # out of the same
        ([(0, 4), (2, 5)], 20.0 + 3e-3),  # into the same
        ([(0, 4), (4, 0)], 10.0 + 3e-3),  # both ways at the same time
    ],
)
def test_ranks_share_their_ports_and_adapters(pairs: list[tuple[int, int]], seconds: float) -> None:
    programs: dict[int, list[Begins | Waits]] = {rank: [] for rank in range(8)}
    for number, (sender, receiver) in enumerate(pairs):
        programs[sender].append(Begins(number, receiver, None, 1e10))
        programs[receiver].append(Begins(number, None, sender, 0.0))
    for actions in programs.values():
        actions += [Waits(action.number) for action in actions]
    network = MachineNetwork(StepTimer(machine(), ranks=8))
    assert simulate(programs, network).seconds == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("ranks", "seconds"),
    [
        ((0, 1, 2, 3), 1.0),  # a ring within the node
        ((0, 4), 10.0 + 3e-3),
        # Two of each node: the ring leaves it once, and has two ways out.
        ((0, 2, 4, 6), 5.0 + 3e-3),
    ],
)
def test_a_ring_leaves_each_node_once(ranks: tuple[int, ...], seconds: float) -> None:
    network = MachineNetwork(StepTimer(machine(), ranks=8))
    found = simulate({0: [Joins(0, ranks, 1e10), Waits(0)]}, network)
    assert found.seconds == pytest.approx(seconds)


def test_processors_that_carry_a_message_do_not_compute_meanwhile() -> None:
    programs: dict[int, Program] = {
        rank: [Begins(0, 1 - rank, 1 - rank, 1e10), Computes(3.0), Waits(0)] for rank in (0, 1)
    }
    hidden = simulate(programs, MachineNetwork(StepTimer(machine(), ranks=2)))
    # In the second in which it travels, 0.8 s of work are done.
    assert hidden.seconds == pytest.approx(3.2)
    carried = simulate(programs, MachineNetwork(StepTimer(machine(carried=True), ranks=2)))
    assert carried.seconds == pytest.approx(4.0)
