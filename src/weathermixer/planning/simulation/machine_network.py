"""The links of a machine as simulated exchanges take them: who shares what, and what it takes."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from weathermixer.planning.machine import Link
from weathermixer.planning.simulation.actions import Joins
from weathermixer.planning.simulation.flows import Route
from weathermixer.planning.step_time import PlannedExchange, StepTimer


@dataclass(frozen=True)
class MachineNetwork:
    """Ranks of consecutive numbers on nodes; those that share an adapter share its rate.

    A rank sends over one adapter, or its own port within the node, and receives at the same time
    over the other direction of it. What ranks wait for one another comes of their programs, and so
    not of a link's ``waiting_seconds``, which are what a formula lacks.
    """

    timer: StepTimer

    @property
    def in_order(self) -> bool:
        """Whether exchanges are given to a device, whose communicators do one after the other."""
        return self.timer.computing.launches_ahead

    def message(self, sender: int, receiver: int, num_bytes: float) -> Route:
        """The way of a message from a rank to another."""
        is_between = self._node(sender) != self._node(receiver)
        return self._route(sender, receiver, num_bytes, is_between=is_between)

    def collective(self, rank: int, exchange: Joins) -> Route:
        """The way of what a rank sends along a ring, which enters and leaves each node once.

        Where a node holds several ranks of the ring, their adapters share its bytes.
        """
        nodes = [self._node(other) for other in exchange.ranks]
        is_between = len(set(nodes)) > 1
        together = nodes.count(self._node(rank)) if is_between else 1
        return self._route(rank, rank, exchange.num_bytes, is_between=is_between, lanes=together)

    def _route(
        self, sender: int, receiver: int, num_bytes: float, *, is_between: bool, lanes: int = 1
    ) -> Route:
        link = self.timer.link(PlannedExchange(num_bytes, 1, is_between_nodes=is_between))
        seconds = num_bytes / link.messages.at(num_bytes) / lanes if num_bytes else 0.0
        pace = 0.0 if link.carried_by_processors else 1.0 / link.slowdown
        ports = (
            ("out", self._port(sender, link, is_between=is_between)),
            ("in", self._port(receiver, link, is_between=is_between)),
        )
        return Route(seconds, link.latency_seconds, ports, pace)

    def _node(self, rank: int) -> int:
        return rank // self.timer.machine.ranks_per_node

    def _port(self, rank: int, link: Link, *, is_between: bool) -> Hashable:
        if not is_between:
            return "rank", rank
        local = rank % self.timer.machine.ranks_per_node
        return "adapter", self._node(rank), int(local / max(1.0, link.ranks_sharing))
