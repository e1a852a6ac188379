"""A step as it goes on in time: what each rank computes and waits for, and what each link carries.

Ranks go through their programs. What a rank deferred is done in its waits, by the rules of
``jigsaw/backlog.py`` and ``jigsaw/in_flight.py``: until what it waits for is there, where it can
tell, and else once in each wait. So nothing is assumed of what hides behind what.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Generator, Hashable, Mapping
from dataclasses import dataclass, field

from weathermixer.jigsaw.backlog import MOST_TRAVELLING
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
from weathermixer.planning.simulation.flows import Clock
from weathermixer.planning.simulation.transport import Exchange, Network, Transport
from weathermixer.planning.simulation.variation import Variation


@dataclass
class RankTimes:
    """Seconds of one rank: until it ended, and those in which it computed and waited.

    It waits for exchanges; for its host, ``launching``.
    """

    end: float = 0.0
    computed: float = 0.0
    waited: float = 0.0
    launching: float = 0.0


@dataclass(frozen=True)
class Timeline:
    """What came of a simulation: times of each rank, and the seconds in which each link carried."""

    ranks: dict[int, RankTimes]
    busy: dict[Hashable, float]

    @property
    def seconds(self) -> float:
        """Until the last rank ended."""
        return max((times.end for times in self.ranks.values()), default=0.0)


def simulate(
    programs: Mapping[int, Program],
    network: Network,
    *,
    sees_arrivals: bool = True,
    variation: Variation | None = None,
    seed: int = 0,
) -> Timeline:
    """Run the programs of all ranks.

    ``sees_arrivals`` tells whether a rank knows when an exchange has ended before it waits for it.

    Raises ValueError, naming rank and exchange, where ranks wait for what is never sent.
    """
    generator = random.Random(seed)
    return _Simulation(programs, network, sees_arrivals, variation or Variation(), generator).run()


@dataclass(frozen=True)
class _Computing:
    """A rank's device is busy, for so many seconds at full pace."""

    seconds: float


@dataclass(frozen=True)
class _Launching:
    """A rank's device has nothing to do for so many seconds."""

    seconds: float


# What a rank asks for that goes on.
_Steps = Generator[_Computing | _Launching | Exchange, None, None]


@dataclass(eq=False)
class _Rank:
    number: int
    factor: float
    exchanges: dict[int, Exchange] = field(default_factory=dict)
    times: RankTimes = field(default_factory=RankTimes)
    host: float = 0.0
    # Of what it computes: seconds that are left, and since when it does so at which pace.
    remaining: float | None = None
    since: float = 0.0
    pace: float = 1.0
    version: int = 0
    waits_for: Exchange | None = None
    layers: int = 0
    shared: deque[tuple[int, Program]] = field(default_factory=deque)
    own: deque[tuple[int, Program]] = field(default_factory=deque)
    travelling: deque[TakesInLater] = field(default_factory=deque)


class _Simulation:
    def __init__(
        self,
        programs: Mapping[int, Program],
        network: Network,
        sees_arrivals: bool,
        variation: Variation,
        generator: random.Random,
    ) -> None:
        self._programs = programs
        self._sees_arrivals = sees_arrivals
        self._variation, self._generator = variation, generator
        self._clock = Clock()
        self._ranks = {
            number: _Rank(number, variation.rank_factor(generator)) for number in programs
        }
        self._transport = Transport(
            self._clock, network, self._ranks, ended=self._end_wait, paced=self._set_pace
        )
        self._steps: dict[int, _Steps] = {}

    def run(self) -> Timeline:
        for number, rank in self._ranks.items():
            self._steps[number] = self._perform(rank, self._programs[number])
        for rank in self._ranks.values():
            self._go_on(rank)
        self._clock.run()
        for rank in self._ranks.values():
            if rank.waits_for is not None:
                raise ValueError(
                    f"rank {rank.number} waits for {rank.waits_for.action}, which never ends: "
                    "the programs of the ranks do not fit together"
                )
        times = {number: rank.times for number, rank in self._ranks.items()}
        return Timeline(times, self._transport.busy)

    # What a rank does.

    def _go_on(self, rank: _Rank) -> None:
        """Let a rank act until something takes time."""
        wanted = next(self._steps[rank.number], None)
        rank.since = self._clock.now
        match wanted:
            case _Computing():
                rank.remaining = wanted.seconds
                self._schedule(rank)
            case _Launching():
                rank.times.launching += wanted.seconds
                self._clock.after(wanted.seconds, lambda: self._go_on(rank))
            case Exchange():
                rank.waits_for = wanted
            case None:
                rank.times.end = self._clock.now

    def _perform(self, rank: _Rank, program: Program) -> _Steps:
        for action in program:
            yield from self._act(rank, action)

    def _act(self, rank: _Rank, action: Action) -> _Steps:
        match action:
            case Computes():
                factor = rank.factor * self._variation.operation_factor(self._generator)
                rank.host += action.host_seconds
                if action.host_seconds and rank.host > self._clock.now:
                    yield _Launching(rank.host - self._clock.now)
                if action.seconds:
                    yield _Computing(action.seconds * factor)
            case Begins() | Joins():
                begun = self._transport.begin(rank.number, action)
                rank.exchanges[action.number] = begun
            case Waits():
                yield from self._wait(rank, rank.exchanges[action.number], action.is_filled)
            case Defers():
                (rank.shared if action.is_shared else rank.own).append((rank.layers, action.work))
            case TakesInLater():
                rank.travelling.append(action)
                yield from self._take_in(rank, MOST_TRAVELLING)
            case FinishesLayer():
                while any(queue and queue[0][0] < rank.layers for queue in (rank.shared, rank.own)):
                    yield from self._fill(rank)
                rank.layers += 1
            case CatchesUp():
                while rank.shared or rank.own:
                    yield from self._fill(rank)
                yield from self._take_in(rank, MOST_TRAVELLING)
            case TakesInAll():
                yield from self._take_in(rank, 0)
            case HostWaits():
                rank.host = self._clock.now

    def _wait(self, rank: _Rank, exchange: Exchange, is_filled: bool) -> _Steps:
        while is_filled and not self._is_seen(exchange) and (rank.shared or rank.own):
            yield from self._fill(rank)
            if not self._sees_arrivals:
                break
        if not exchange.has_ended:
            yield exchange

    def _is_seen(self, exchange: Exchange) -> bool:
        return self._sees_arrivals and exchange.has_ended

    def _fill(self, rank: _Rank) -> _Steps:
        yield from self._take_in(rank, MOST_TRAVELLING)
        deferred = rank.shared or rank.own
        if deferred:
            _, work = deferred.popleft()
            yield from self._perform(rank, work)

    def _take_in(self, rank: _Rank, at_most: int) -> _Steps:
        while rank.travelling:
            first = rank.travelling[0]
            is_there = all(self._is_seen(rank.exchanges[number]) for number in first.numbers)
            if len(rank.travelling) <= at_most and not is_there:
                return
            rank.travelling.popleft()
            yield from self._perform(rank, first.then)

    # How fast it computes.

    def _schedule(self, rank: _Rank) -> None:
        rank.version += 1
        version = rank.version

        def end() -> None:
            if rank.version == version:
                rank.times.computed += self._clock.now - rank.since
                rank.remaining = None
                self._go_on(rank)

        assert rank.remaining is not None
        if rank.pace:
            self._clock.after(max(0.0, rank.remaining) / rank.pace, end)

    def _set_pace(self, number: int, pace: float) -> None:
        rank = self._ranks[number]
        if pace == rank.pace:
            return
        if rank.remaining is not None:
            passed = self._clock.now - rank.since
            rank.remaining -= passed * rank.pace
            rank.times.computed += passed
            rank.since = self._clock.now
        rank.pace = pace
        if rank.remaining is not None:
            self._schedule(rank)

    def _end_wait(self, exchange: Exchange) -> None:
        rank = self._ranks[exchange.rank]
        if rank.waits_for is exchange:
            rank.times.waited += self._clock.now - rank.since
            rank.waits_for = None
            self._go_on(rank)
