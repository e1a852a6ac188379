"""The schedule of a step: against what a pencil finds, and against bounds that hold for all."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weathermixer.planning.simulation.actions import (
    Action,
    Begins,
    CatchesUp,
    Computes,
    Defers,
    FinishesLayer,
    HostWaits,
    Joins,
    Program,
    TakesInAll,
    TakesInLater,
    Waits,
)
from weathermixer.planning.simulation.engine import Timeline, simulate
from weathermixer.planning.simulation.flows import Route
from weathermixer.planning.simulation.variation import Variation

RATE = 10.0  # bytes per second


@dataclass(frozen=True)
class Wires:
    """Each rank sends over a wire of its own, or over that of its node."""

    rate: float = RATE
    latency: float = 0.0
    pace: float = 1.0
    in_order: bool = False
    nodes: dict[int, str] = field(default_factory=dict)

    def message(self, sender: int, receiver: int, num_bytes: float) -> Route:
        wire = self.nodes.get(sender, sender)
        return Route(num_bytes / self.rate, self.latency, (wire,), self.pace)

    def collective(self, rank: int, exchange: Joins) -> Route:
        return self.message(rank, rank, exchange.num_bytes)


def swap(number: int, other: int, num_bytes: float, stream: str = "") -> Begins:
    return Begins(number, other, other, num_bytes, (stream,))


def both(*program: Action) -> dict[int, Program]:
    """The same program on two ranks that exchange with each other."""

    def on(rank: int, actions: Program) -> Program:
        return [
            replace(each, to=1 - rank, source=1 - rank)
            if isinstance(each, Begins)
            else replace(each, work=on(rank, each.work))
            if isinstance(each, Defers)
            else replace(each, then=on(rank, each.then))
            if isinstance(each, TakesInLater)
            else each
            for each in actions
        ]

    return {rank: on(rank, program) for rank in (0, 1)}


def waited(timeline: Timeline) -> list[float]:
    return [times.waited for times in timeline.ranks.values()]


@pytest.mark.parametrize(
    ("program", "seconds", "waits"),
    [
        # 20 bytes take two seconds, which nothing hides
        ((Computes(1.0), swap(0, 1, 20.0), Waits(0)), 3.0, 2.0),
        # half of them are hidden
        ((swap(0, 1, 20.0), Computes(1.0), Waits(0)), 2.0, 1.0),
        # all of them are
        ((swap(0, 1, 20.0), Computes(5.0), Waits(0)), 5.0, 0.0),
        # the second message follows the first, one second each
        ((swap(0, 1, 10.0), swap(1, 1, 10.0), Waits(0), Computes(0.25), Waits(1)), 2.0, 1.75),
        # what is begun last may be waited for first, and comes last all the same
        ((swap(0, 1, 10.0), swap(1, 1, 10.0), Waits(1), Waits(0)), 2.0, 2.0),
        # two streams share the wire: 10 bytes are there after two seconds, 30 after four
        ((swap(0, 1, 10.0, "a"), swap(1, 1, 30.0, "b"), Waits(0)), 2.0, 2.0),
        ((swap(0, 1, 10.0, "a"), swap(1, 1, 30.0, "b"), Waits(1)), 4.0, 4.0),
    ],
)
def test_a_schedule_takes_what_a_pencil_finds(
    program: tuple[Action, ...], seconds: float, waits: float
) -> None:
    found = simulate(both(*program), Wires())
    assert found.seconds == pytest.approx(seconds)
    assert waited(found) == pytest.approx([waits] * 2)


def test_a_message_travels_when_both_have_begun_it() -> None:
    early: list[Action] = [swap(0, 1, 10.0), Waits(0)]
    late: list[Action] = [Computes(4.0), swap(0, 0, 10.0), Waits(0)]
    found = simulate({0: early, 1: late}, Wires())
    assert found.ranks[0].end == pytest.approx(5.0)
    assert waited(found) == pytest.approx([5.0, 1.0])


def test_ranks_that_share_a_wire_share_its_rate() -> None:
    programs: dict[int, Program] = {
        0: [Begins(0, 2, None, 10.0), Waits(0)],
        1: [Begins(0, 3, None, 30.0), Waits(0)],
        2: [Begins(0, None, 0, 10.0), Waits(0)],
        3: [Begins(0, None, 1, 30.0), Waits(0)],
    }
    assert simulate(programs, Wires()).seconds == pytest.approx(3.0)
    shared = simulate(programs, Wires(nodes={0: "node", 1: "node"}))
    # Half of the rate until 10 bytes of each are over, and then all of it for the other 20.
    assert [shared.ranks[rank].end for rank in programs] == pytest.approx([2.0, 4.0, 2.0, 4.0])
    assert shared.busy == {"node": pytest.approx(4.0)}


def test_a_collective_begins_with_the_last_and_ends_for_all() -> None:
    ranks = (0, 1, 2)
    programs: dict[int, Program] = {
        rank: [Computes(float(rank)), Joins(0, ranks, 10.0 * (rank + 1)), Waits(0)]
        for rank in ranks
    }
    found = simulate(programs, Wires())
    assert [times.end for times in found.ranks.values()] == pytest.approx([5.0] * 3)
    # Of ranks that are alike one is simulated for all.
    assert simulate({1: programs[1]}, Wires()).seconds == pytest.approx(3.0)


def test_exchanges_of_a_communicator_follow_each_other() -> None:
    """The second goes to another rank, but waits for the first, whose receiver is late."""
    programs: dict[int, Program] = {
        0: [Begins(0, 1, None, 10.0), Begins(1, 2, None, 10.0), Waits(1)],
        1: [Computes(4.0), Begins(0, None, 0, 0.0), Waits(0)],
        2: [Begins(0, None, 0, 0.0), Waits(0)],
    }
    assert simulate(programs, Wires()).ranks[2].end == pytest.approx(1.0)
    assert simulate(programs, Wires(in_order=True)).ranks[2].end == pytest.approx(6.0)


def test_a_latency_is_added_to_each_wait_but_not_to_the_wire() -> None:
    one = (swap(0, 1, 10.0), Waits(0), swap(1, 1, 10.0), Waits(1))
    assert simulate(both(*one), Wires(latency=0.5)).seconds == pytest.approx(3.0)
    two = (swap(0, 1, 10.0), swap(1, 1, 10.0), Waits(0), Waits(1))
    assert simulate(both(*two), Wires(latency=0.5)).seconds == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("pace", "seconds"),
    [
        (0.5, 4.0),  # one second's work in the two of the message, and then two more
        (0.0, 5.0),  # the processors carry it: two seconds, and then three
    ],
)
def test_what_travels_slows_down_what_is_computed(pace: float, seconds: float) -> None:
    program = both(swap(0, 1, 20.0), Computes(3.0), Waits(0))
    found = simulate(program, Wires(pace=pace))
    assert found.seconds == pytest.approx(seconds)
    assert found.ranks[0].computed == pytest.approx(seconds)


def test_an_accelerator_waits_for_its_host_unless_that_is_ahead() -> None:
    # The host begins one in 1 s: short ones wait for it, after a long one it is ahead.
    short, long = Computes(0.25, host_seconds=1.0), Computes(3.0, host_seconds=1.0)
    found = simulate({0: [short, short, long, short, short, short]}, Wires())
    assert found.seconds == pytest.approx(3.0 + 3.0 + 3 * 0.25)
    assert found.ranks[0].launching == pytest.approx(0.75 + 0.75 + 1.0)
    # A host that waited for the device has lost its lead.
    behind = simulate({0: [long, short, HostWaits(), short]}, Wires())
    assert behind.seconds == pytest.approx(1.0 + 3.0 + 0.25 + 1.0 + 0.25)


WORK = Defers((Computes(1.0),), is_shared=False)


@pytest.mark.parametrize(
    ("sees_arrivals", "seconds", "waits"),
    [
        # Four slices in the wait of 3.5 s, and the fifth at the end.
        (True, 4.0 + 1.0, 0.0),
        # One in the wait, and four at the end.
        (False, 3.5 + 4.0, 2.5),
    ],
)
def test_deferred_work_fills_waits(sees_arrivals: bool, seconds: float, waits: float) -> None:
    program = both(*[WORK] * 5, swap(0, 1, 35.0), Waits(0, is_filled=True), CatchesUp())
    found = simulate(program, Wires(), sees_arrivals=sees_arrivals)
    assert found.seconds == pytest.approx(seconds)
    assert waited(found) == pytest.approx([waits] * 2)


def test_a_wait_that_is_not_to_be_filled_is_not() -> None:
    found = simulate(both(WORK, swap(0, 1, 35.0), Waits(0), CatchesUp()), Wires())
    assert found.seconds == pytest.approx(4.5)


def test_a_layer_leaves_its_own_work_to_the_next() -> None:
    layer: list[Action] = [WORK, FinishesLayer()]
    # That of the first is done when the second ends, that of the second in the wait.
    program = both(*layer, *layer, swap(0, 1, 10.0), Waits(0, is_filled=True))
    found = simulate(program, Wires())
    assert found.seconds == pytest.approx(2.0)
    assert waited(found) == pytest.approx([0.0] * 2)


def test_what_others_wait_for_is_done_before_what_is_ones_own() -> None:
    shared = Defers((swap(1, 1, 10.0), TakesInLater((1,), (Waits(1),))), is_shared=True)
    own = Defers((Computes(2.0),), is_shared=False)
    waits: list[Action] = [swap(0, 1, 5.0), Waits(0, is_filled=True), CatchesUp(), TakesInAll()]
    # Begun in the wait, it is there after 1.5 s, before the own work is done.
    assert simulate(both(own, shared, *waits), Wires()).seconds == pytest.approx(2.0)


def test_sums_are_taken_in_when_they_are_there_and_at_the_end() -> None:
    taken_in = TakesInLater((0,), (Waits(0), Computes(1.0)))
    before: list[Action] = [swap(0, 1, 10.0), taken_in]
    filled: list[Action] = [WORK, WORK, swap(1, 1, 30.0, "other"), Waits(1, is_filled=True)]
    # The sums are there after 2 s: two slices, then what takes them in, in 4 s that are waited for.
    found = simulate(both(*before, *filled, CatchesUp(), TakesInAll()), Wires())
    assert found.seconds == pytest.approx(5.0)
    # Nobody asks for them before the end.
    assert simulate(both(*before, TakesInAll()), Wires()).seconds == pytest.approx(2.0)


def test_ranks_that_wait_for_what_is_never_sent_are_named() -> None:
    with pytest.raises(ValueError, match=r"rank 0 waits for Begins\(number=0"):
        simulate({0: [Begins(0, None, 1, 10.0), Waits(0)], 1: []}, Wires())


def test_one_slow_rank_holds_up_the_others() -> None:
    steps = both(*[each for n in range(8) for each in (Computes(1.0), swap(n, 1, 0.0), Waits(n))])
    assert simulate(steps, Wires()).seconds == pytest.approx(8.0)
    straggling = Variation(straggler_probability=1.0, straggler_factor=1.5)
    assert simulate(steps, Wires(), variation=straggling).seconds == pytest.approx(12.0)


Layers = st.lists(
    st.tuples(st.floats(0.0, 5.0), st.floats(0.0, 50.0), st.integers(0, 3), st.booleans()),
    max_size=12,
)


def pipelined(layers: list[tuple[float, float, int, bool]]) -> dict[int, Program]:
    """Each message is waited for some computations after it has begun; some work is deferred."""
    program: list[Action] = []
    for number, (seconds, num_bytes, distance, is_deferred) in enumerate(layers):
        work = Computes(seconds)
        program += [swap(number, 1, num_bytes)]
        program += [Defers((work,), is_shared=False) if is_deferred else work]
        if number >= distance:
            program.append(Waits(number - distance, is_filled=True))
    program += [CatchesUp(), *(Waits(number) for number in range(len(layers)))]
    return both(*program)


@given(Layers)
def test_a_schedule_lies_between_the_slower_part_and_the_sum(
    layers: list[tuple[float, float, int, bool]],
) -> None:
    computed = sum(seconds for seconds, *_ in layers)
    carried = sum(num_bytes for _, num_bytes, *_ in layers) / RATE
    found = simulate(pipelined(layers), Wires())
    assert max(computed, carried) - 1e-9 <= found.seconds <= computed + carried + 1e-9
    for times in found.ranks.values():
        assert times.computed == pytest.approx(computed)
        assert times.computed + times.waited == pytest.approx(times.end)


@given(Layers, st.floats(0.0, 1.0), st.integers(0, 100))
def test_a_rank_that_varies_computes_what_it_draws(
    layers: list[tuple[float, float, int, bool]], of_rank: float, seed: int
) -> None:
    found = simulate(pipelined(layers), Wires(), variation=Variation(of_rank=of_rank), seed=seed)
    slowest = max(times.computed for times in found.ranks.values())
    carried = sum(num_bytes for _, num_bytes, *_ in layers) / RATE
    assert max(slowest, carried) - 1e-9 <= found.seconds


@given(Layers, st.floats(1.0, 10.0))
def test_without_deferred_work_a_faster_wire_is_never_slower(
    layers: list[tuple[float, float, int, bool]], faster: float
) -> None:
    """With it, it can be: another slice may be begun just before what is waited for is there."""
    fixed = [(*layer[:3], False) for layer in layers]
    before = simulate(pipelined(fixed), Wires()).seconds
    assert simulate(pipelined(fixed), Wires(rate=faster * RATE)).seconds <= before + 1e-9


@given(Layers, st.floats(0.0, 3.0))
def test_replicas_that_are_simulated_take_what_one_takes_for_all(
    layers: list[tuple[float, float, int, bool]], num_bytes: float
) -> None:
    """Two instances in step, with a collective between them, and one alone."""
    alone: dict[int, Program] = {}
    for rank, program in pipelined(layers).items():
        alone[rank] = [*program, Joins(99, (rank, rank + 2), num_bytes), Waits(99)]
    moved = {
        rank + 2: [
            replace(each, to=each.to + 2, source=each.source + 2)  # type: ignore[operator]
            if isinstance(each, Begins)
            else each
            for each in program
        ]
        for rank, program in alone.items()
    }
    together = simulate(alone | moved, Wires()).seconds
    assert together == pytest.approx(simulate(alone, Wires()).seconds)
