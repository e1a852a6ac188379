"""What a rank does in a training step under some parallel scheme, and how long that takes.

A scheme knows sizes and who exchanges with whom; it knows no seconds. Those follow from the same
description on any machine, so that schemes are compared by the same constants.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from weathermixer.config import Lengths
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout, LayoutError
from weathermixer.model.architecture import Architecture
from weathermixer.planning.machine import Machine
from weathermixer.planning.step_kind import StepKind
from weathermixer.planning.step_time import Phase, PlannedExchange, StepTime, StepTimer


@dataclass(frozen=True)
class StepDescription:
    """What the rank that takes longest does in a step.

    Passes and update come one after the other. ``gradients`` travel beside the whole backward
    pass, ``last_gradients`` when it has ended; ``accumulating`` are the backward passes before it,
    of later applications in a rollout, in which gradients are only added up. ``bytes_read`` are
    those of the step's samples, as they are in memory; ``memory_bytes`` is what the rank holds at
    its peak: weights, gradients, optimizer, samples, and activations.
    """

    forward: tuple[Phase, ...]
    backward: tuple[Phase, ...]
    update: tuple[Phase, ...]
    accumulating: tuple[Phase, ...] = ()
    gradients: tuple[PlannedExchange, ...] = ()
    last_gradients: tuple[PlannedExchange, ...] = ()
    bytes_read: float = 0.0
    memory_bytes: float = 0.0

    @property
    def phases(self) -> tuple[Phase, ...]:
        """All phases, in order."""
        return self.forward + self.accumulating + self.backward + self.update

    @property
    def exchanges(self) -> tuple[PlannedExchange, ...]:
        """Every exchange of the step."""
        own = [exchange for phase in self.phases for exchange in phase.exchanges]
        return (*own, *self.gradients, *self.last_gradients)

    @property
    def operations(self) -> int:
        """Operations of the matrix products, two for a multiply-add."""
        return sum(product.operations for phase in self.phases for product in phase.products)

    @property
    def bytes_sent(self) -> float:
        """Bytes that the rank sends."""
        return sum(exchange.num_bytes for exchange in self.exchanges)

    @property
    def messages(self) -> float:
        """Messages to a peer: one for each call, since rings have one neighbour."""
        return self.calls

    @property
    def calls(self) -> float:
        """Exchanges as they are handed to the backend."""
        return sum(exchange.calls for exchange in self.exchanges)

    def seconds(self, timer: StepTimer, *, loads: bool = True) -> StepTime:
        """The seconds of the step, with its samples read meanwhile where it ``loads`` any.

        Raises UserError where the machine lacks what the step needs.
        """
        before, backward, update = (
            sum((timer.phase(phase) for phase in phases), StepTime())
            for phases in (self.forward + self.accumulating, self.backward, self.update)
        )
        waited, beside, slowed = 0.0, {False: 0.0, True: 0.0}, 0.0
        for exchange in self.gradients:
            link, seconds = timer.link(exchange), timer.exchange(exchange)
            if link.carried_by_processors:
                waited += seconds
                continue
            beside[exchange.is_between_nodes] += seconds
            # What is hidden slows down what hides it.
            hidden = min(beside[exchange.is_between_nodes], backward.total)
            slowed = max(slowed, hidden * (1.0 - 1.0 / link.slowdown))
        exposed = waited + max(max(beside.values()) - backward.total, slowed)
        exposed += sum(map(timer.exchange, self.last_gradients))
        total = before + backward + update + StepTime(exchange_exposed=exposed)
        if not loads:
            return total
        return total + StepTime(read_exposed=max(0.0, timer.reading(self.bytes_read) - total.total))


Describe = Callable[[Architecture, Layout, StepKind, Machine], StepDescription]


@dataclass(frozen=True)
class Scheme:
    """A parallel scheme: its name, what it is in a line, and how a step is described under it.

    ``describe(architecture, layout, kind, machine)`` raises LayoutError where the scheme has no
    such mesh, and UserError where it is not described for such a step.
    """

    name: str
    meaning: str
    describe: Describe


def require_mesh(condition: bool, what: str) -> None:
    """Raise LayoutError where a scheme has no such mesh, for the reason ``what``."""
    if not condition:
        raise LayoutError(what)


def require_whole_passes(kind: StepKind) -> None:
    """Raise UserError where samples pass otherwise than all at once, as computed, step by step.

    And where a pool of replicas makes the members of a sample together, or where small scales are
    compared apart.
    """
    has_latent = any(each.latent > 1 for each in (Lengths(1, kind.latent), *kind.farthest))
    is_parted = len(kind.passing) > 1 or kind.recompute == "stages"
    is_own = kind.narrows_exchange or kind.pool > 1 or kind.small_scales
    if has_latent or is_parted or is_own:
        raise UserError(
            "only the scheme jigsaw is planned with training.latent_rollout, training.micro_batch, "
            "training.recompute=stages, training.instance_members, training.small_scales or "
            "parallel.exchange_dtype: leave these out to plan with another --scheme"
        )


def require_plain_step(scheme: str, kind: StepKind) -> None:
    """Raise UserError where a step has a rollout, or a setting that a plain step does not have."""
    require_whole_passes(kind)
    saves = kind.recompute != "none" or kind.shards_optimizer or kind.gradient_bytes
    if kind.longest_rollout > 1 or saves or kind.keeps_average:
        raise UserError(
            f"the scheme {scheme} has training.rollout 1 alone, and neither training.recompute, "
            "training.average_decay, parallel.shard_optimizer nor parallel.gradient_dtype: leave "
            "these out, or plan with another --scheme"
        )


def ring(
    num_bytes: float, ranks: int, *, ranks_of_node: int, calls: float = 1.0, is_beside: bool = False
) -> tuple[PlannedExchange, ...]:
    """``num_bytes`` that a rank sends in all, round a ring that enters each node once.

    Of the ``ranks_of_node`` ranks of the ring on a node, all but one send to a neighbour there.
    As backends make several rings at once, each rank sends its share of what leaves the node.

    >>> [(each.num_bytes, each.is_between_nodes) for each in ring(80.0, 8, ranks_of_node=4)]
    [(60.0, False), (20.0, True)]
    """
    if ranks == 1 or not num_bytes:
        return ()
    local = max(1, min(ranks, ranks_of_node))
    leaving = num_bytes / local if ranks > local else 0.0
    return tuple(
        PlannedExchange(part, calls, is_between, is_beside)
        for part, is_between in ((num_bytes - leaving, False), (leaving, True))
        if part
    )
