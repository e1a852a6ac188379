"""Exchanges as they are matched and carried: between ranks that begin them at different times.

A round of messages travels when its sender and its receiver have both begun it, and messages of one
stream between the same two ranks follow each other. A collective goes on when all of its ranks have
begun it that are simulated, and ends on all of them together. Ranks that are not simulated do what
those do that are: a message to one of them stands for the one that comes.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from typing import Protocol

from weathermixer.planning.simulation.actions import Begins, Joins, Stream
from weathermixer.planning.simulation.flows import Clock, Flows, Route


class Network(Protocol):
    """What carries exchanges.

    ``in_order`` tells whether a rank's exchanges of one stream follow each other, as those of a
    communicator of NCCL do, and not only those between the same two ranks.
    """

    @property
    def in_order(self) -> bool:
        """Whether a rank's exchanges of one stream follow each other."""
        ...

    def message(self, sender: int, receiver: int, num_bytes: float) -> Route:
        """The way of a message from a rank to another."""
        ...

    def collective(self, rank: int, exchange: Joins) -> Route:
        """The way of what a rank sends in a collective."""
        ...


@dataclass(eq=False)
class Exchange:
    """A rank's part of an exchange: how many of its transfers are outstanding."""

    rank: int
    action: Begins | Joins
    outstanding: int

    @property
    def has_ended(self) -> bool:
        """Whether everything has been sent and received."""
        return not self.outstanding


_Connection = tuple[int, int, Stream]


class Transport:
    """Carries exchanges of ``ranks``; tells of each that ends, and at which pace ranks compute."""

    def __init__(
        self,
        clock: Clock,
        network: Network,
        ranks: Collection[int],
        *,
        ended: Callable[[Exchange], None],
        paced: Callable[[int, float], None],
    ) -> None:
        self._clock, self._network, self._ranks = clock, network, ranks
        self._ended, self._paced = ended, paced
        self._flows = Flows(clock)
        self._paces: dict[int, list[float]] = defaultdict(list)
        self._queues: dict[tuple[int, Stream], deque[Exchange]] = defaultdict(deque)
        # What one of two ranks has begun; and what is on its way between them, one at a time.
        self._sent: dict[_Connection, deque[Exchange]] = defaultdict(deque)
        self._expected: dict[_Connection, deque[Exchange]] = defaultdict(deque)
        self._matched: dict[_Connection, deque[tuple[Exchange, Exchange]]] = defaultdict(deque)
        self._joined: dict[Hashable, dict[int, deque[Exchange]]] = defaultdict(
            lambda: defaultdict(deque)
        )

    @property
    def busy(self) -> dict[Hashable, float]:
        """Seconds in which each link carried something."""
        return dict(self._flows.busy)

    def begin(self, rank: int, action: Begins | Joins) -> Exchange:
        """Begin a rank's part of an exchange."""
        outstanding = 1
        if isinstance(action, Begins):
            outstanding = (action.to is not None) + (action.source is not None)
        exchange = Exchange(rank, action, outstanding)
        if not self._network.in_order:
            self._start(exchange)
            return exchange
        queue = self._queues[rank, action.stream]
        queue.append(exchange)
        if len(queue) == 1:
            self._start(exchange)
        return exchange

    def _start(self, exchange: Exchange) -> None:
        action, number = exchange.action, exchange.rank
        if isinstance(action, Joins):
            self._join(exchange, action)
            return
        if action.to is not None and action.to not in self._ranks:
            # To another replica, from which the same comes at the same time.
            route = self._network.message(number, action.to, action.num_bytes)
            self._travel(route, (exchange, exchange), lambda: None)
            return
        if action.to is not None:
            key = (number, action.to, action.stream)
            self._sent[key].append(exchange)
            self._match(key)
        if action.source is not None:
            key = (action.source, number, action.stream)
            self._expected[key].append(exchange)
            self._match(key)

    def _match(self, key: _Connection) -> None:
        sent, expected = self._sent[key], self._expected[key]
        if sent and expected:
            connection = self._matched[key]
            connection.append((sent.popleft(), expected.popleft()))
            if len(connection) == 1:
                self._carry(key)

    def _carry(self, key: _Connection) -> None:
        """Let the first message of a connection travel, and those after it."""
        pair = self._matched[key][0]
        sender, receiver, _ = key
        route = self._network.message(sender, receiver, pair[0].action.num_bytes)

        def left() -> None:
            self._matched[key].popleft()
            if self._matched[key]:
                self._carry(key)

        self._travel(route, pair, left)

    def _join(self, exchange: Exchange, action: Joins) -> None:
        waiting = self._joined[action.ranks, action.stream]
        waiting[exchange.rank].append(exchange)
        members = [number for number in action.ranks if number in self._ranks]
        if not all(waiting[number] for number in members):
            return
        parts = [waiting[number].popleft() for number in members]
        underway = len(parts)

        def left() -> None:
            nonlocal underway
            underway -= 1
            if not underway:  # all come to the end together
                for part in parts:
                    self._end_transfer(part)

        for part in parts:
            assert isinstance(part.action, Joins)
            route = self._network.collective(part.rank, part.action)
            self._slow_down((part.rank,), route)

            def arrive(part: Exchange = part, route: Route = route) -> None:
                self._speed_up((part.rank,), route)
                self._clock.after(route.latency_seconds, left)

            self._flows.begin(route, arrive)

    def _travel(
        self, route: Route, pair: tuple[Exchange, Exchange], left: Callable[[], None]
    ) -> None:
        ranks = pair[0].rank, pair[1].rank
        self._slow_down(ranks, route)

        def arrive() -> None:
            for exchange in pair:
                self._end_transfer(exchange)

        def leave() -> None:
            self._speed_up(ranks, route)
            self._clock.after(route.latency_seconds, arrive)
            left()

        self._flows.begin(route, leave)

    def _slow_down(self, ranks: tuple[int, ...], route: Route) -> None:
        for rank in ranks:
            self._paces[rank].append(route.pace)
            self._paced(rank, min(self._paces[rank]))

    def _speed_up(self, ranks: tuple[int, ...], route: Route) -> None:
        for rank in ranks:
            self._paces[rank].remove(route.pace)
            self._paced(rank, min(self._paces[rank], default=1.0))

    def _end_transfer(self, exchange: Exchange) -> None:
        exchange.outstanding -= 1
        if exchange.outstanding:
            return
        if self._network.in_order:
            queue = self._queues[exchange.rank, exchange.action.stream]
            queue.popleft()
            if queue:
                self._start(queue[0])
        self._ended(exchange)
