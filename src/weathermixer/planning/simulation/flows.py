"""Bytes on their way over links that they share, in simulated time.

What travels over a link at the same time gets an equal share of it. A message that crosses several,
such as the adapters of two nodes, goes at the least of its shares.
"""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field


class Clock:
    """Simulated seconds, and what is to happen later."""

    def __init__(self) -> None:
        self.now = 0.0
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    def after(self, seconds: float, happen: Callable[[], None]) -> None:
        """Let something happen later; of what is at the same time, the first said comes first."""
        heapq.heappush(self._events, (self.now + seconds, next(self._order), happen))

    def run(self) -> None:
        """Let everything happen, until there is nothing more."""
        while self._events:
            self.now, _, happen = heapq.heappop(self._events)
            happen()


@dataclass(frozen=True)
class Route:
    """How a message travels: over which links, for how many seconds if it has them for itself.

    It is there ``latency_seconds`` after. Meanwhile the ranks that send and receive it compute at
    ``pace``: 1.0 where they do not notice, 0.0 where their processors carry it.
    """

    seconds: float
    latency_seconds: float
    links: tuple[Hashable, ...] = ()
    pace: float = 1.0


@dataclass(eq=False)
class _Flow:
    links: tuple[Hashable, ...]
    remaining: float  # seconds that it would take alone
    end: Callable[[], None]
    since: float
    rate: float = 0.0
    version: int = 0


@dataclass
class Flows:
    """Everything that is on its way. ``busy`` counts the seconds in which a link carried."""

    clock: Clock
    busy: dict[Hashable, float] = field(default_factory=lambda: defaultdict(float))
    _on: dict[Hashable, list[_Flow]] = field(default_factory=lambda: defaultdict(list))
    _busy_since: dict[Hashable, float] = field(default_factory=dict)

    def begin(self, route: Route, end: Callable[[], None]) -> None:
        """Let something travel; ``end`` is called when its last byte has left."""
        flow = _Flow(route.links, route.seconds, end, self.clock.now)
        for link in flow.links:
            if not self._on[link]:
                self._busy_since[link] = self.clock.now
            self._on[link].append(flow)
        self._share(flow)

    def _share(self, changed: _Flow) -> None:
        """Give everything on the links of a flow its share."""
        concerned = {id(flow): flow for link in changed.links for flow in self._on[link]}
        if not changed.links:
            concerned[id(changed)] = changed
        for flow in concerned.values():
            rate = min((1.0 / len(self._on[link]) for link in flow.links), default=1.0)
            if rate == flow.rate:
                continue
            flow.remaining -= (self.clock.now - flow.since) * flow.rate
            flow.since, flow.rate = self.clock.now, rate
            flow.version += 1
            self._schedule(flow, flow.version)

    def _schedule(self, flow: _Flow, version: int) -> None:
        def arrive() -> None:
            if flow.version == version:
                self._end(flow)

        self.clock.after(max(0.0, flow.remaining) / flow.rate, arrive)

    def _end(self, flow: _Flow) -> None:
        for link in flow.links:
            self._on[link].remove(flow)
            if not self._on[link]:
                self.busy[link] += self.clock.now - self._busy_since.pop(link)
        if flow.links:
            self._share(flow)
        flow.end()
