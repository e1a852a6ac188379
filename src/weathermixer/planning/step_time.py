"""The seconds of a step, from a description of what a rank does in it and from a machine.

A description is a sequence of phases, whatever the parallel scheme: each holds what is computed,
and what is exchanged before it or beside it. Who builds phases knows a scheme and nothing of
seconds; what turns them into seconds knows a machine and nothing of schemes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from weathermixer.planning.machine import (
    Computing,
    Link,
    Machine,
    ProductType,
    Work,
    harmonic_mean,
)

_ELEMENT_BYTES: dict[ProductType, int] = {"float64": 8, "float32": 4, "tf32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class MatrixProduct:
    """``count`` products of ``(m, k)`` and ``(k, n)`` in an arithmetic."""

    m: int
    n: int
    k: int
    dtype: ProductType
    count: int = 1

    @property
    def operations(self) -> int:
        """Operations in all: two for a multiply-add."""
        return 2 * self.m * self.n * self.k * self.count

    @property
    def num_bytes(self) -> int:
        """Bytes of all operands and results, each of which goes through memory once at least."""
        elements = self.m * self.k + self.k * self.n + self.m * self.n
        return elements * _ELEMENT_BYTES[self.dtype] * self.count


@dataclass(frozen=True)
class ElementWork:
    """Work on single elements: how many, the bytes that it reads and writes, and its kernels."""

    kind: Work
    elements: int
    num_bytes: int
    kernels: int = 1


@dataclass(frozen=True)
class PlannedExchange:
    """What a rank sends, in so many calls, over a link within its node or between nodes.

    ``is_beside`` tells that it may travel while the phase computes; otherwise it is waited for.
    ``ranks_sharing`` is the number of ranks of a node that send over one link at the same time,
    where it is not the machine's own; less than one where an exchange goes over several links.
    """

    num_bytes: float
    calls: float
    is_between_nodes: bool = False
    is_beside: bool = False
    ranks_sharing: float | None = None


@dataclass(frozen=True)
class Phase:
    """A part of a step that has to end before the next begins, such as a layer's forward pass."""

    name: str
    products: tuple[MatrixProduct, ...] = ()
    elementwise: tuple[ElementWork, ...] = ()
    exchanges: tuple[PlannedExchange, ...] = ()

    @property
    def kernels(self) -> int:
        """Kernels that the host begins."""
        products = sum(product.count for product in self.products)
        return products + sum(work.kernels for work in self.elementwise)

    @property
    def num_bytes(self) -> int:
        """Bytes that products and elementwise work read from memory and write to it."""
        products = sum(product.num_bytes for product in self.products)
        return products + sum(work.num_bytes for work in self.elementwise)


@dataclass(frozen=True)
class StepTime:
    """The seconds of a step in parts that add up to it.

    ``compute`` is what products and elementwise work take, ``exchange_exposed`` what nothing hides
    of the exchanges, ``read_exposed`` what reading takes longer than the rest, ``overhead`` what
    the host takes to begin kernels where nothing hides it.
    """

    compute: float = 0.0
    exchange_exposed: float = 0.0
    read_exposed: float = 0.0
    overhead: float = 0.0

    @property
    def total(self) -> float:
        """Seconds of the whole step."""
        return self.compute + self.exchange_exposed + self.read_exposed + self.overhead

    def __add__(self, other: StepTime) -> StepTime:
        return StepTime(
            self.compute + other.compute,
            self.exchange_exposed + other.exchange_exposed,
            self.read_exposed + other.read_exposed,
            self.overhead + other.overhead,
        )


@dataclass(frozen=True)
class StepTimer:
    """Turns phases into seconds on a machine where so many ranks run in all.

    ``threads`` are those of each rank, where ranks compute on processors. ``amplification`` is how
    many bytes come from storage for each that is read, since chunks come whole.
    """

    machine: Machine
    ranks: int
    threads: int | None = None
    amplification: float = 1.0
    computing: Computing = field(init=False)

    def __post_init__(self) -> None:
        computing = self.machine.computing_of(ranks=self.ranks, threads=self.threads)
        object.__setattr__(self, "computing", computing)

    def step(self, phases: Sequence[Phase], *, bytes_read: float = 0.0) -> StepTime:
        """The seconds of a step of these phases, while ``bytes_read`` are read for the next.

        Raises UserError where the machine lacks a link or an arithmetic that is needed.
        """
        total = sum((self.phase(phase) for phase in phases), StepTime())
        exposed = max(0.0, self.reading(bytes_read) - total.total)
        return total + StepTime(read_exposed=exposed)

    def phase(self, phase: Phase) -> StepTime:
        """The seconds of one phase.

        What travels beside the computing of a phase is hidden as far as that takes as long; each
        link carries what is its own at the same time as the others.
        """
        compute = sum(map(self.product, phase.products)) + sum(
            map(self.element_work, phase.elementwise)
        )
        overhead = phase.kernels * self.computing.launch_seconds
        if self.computing.launches_ahead:
            # The host runs ahead of the device, unless the kernels are shorter than their launches.
            overhead = max(0.0, overhead - compute)
        waited, beside, slowdown = 0.0, {False: 0.0, True: 0.0}, 1.0
        for exchange in phase.exchanges:
            link = self.link(exchange)
            seconds = self.exchange(exchange)
            waited += exchange.calls * link.waiting_seconds
            if exchange.is_beside and not link.carried_by_processors:
                beside[exchange.is_between_nodes] += seconds
                slowdown = max(slowdown, link.slowdown)
            else:
                waited += seconds
        longest = max(beside.values())
        # Either it takes longer than all computing, or it only slows down what goes on beside it.
        exposed = waited + max(longest - compute - overhead, longest * (1.0 - 1.0 / slowdown))
        return StepTime(compute, exposed, 0.0, overhead)

    def product(self, product: MatrixProduct) -> float:
        """Seconds of matrix products, which take at least as long as their operands' bytes."""
        if not product.operations:
            return 0.0
        m, n, k = product.m, product.n, product.k
        rate = self.computing.product_rates(product.dtype).at(harmonic_mean((m, n, k)))
        least = product.num_bytes / self.computing.memory_bytes_per_second
        return max(product.operations / rate, least)

    def element_work(self, work: ElementWork) -> float:
        """Seconds of elementwise work: of its bytes, or of its arithmetic where that is longer."""
        rate = self.computing.memory_bytes_per_second
        if work.kind in self.computing.work and work.num_bytes:
            rate = self.computing.work[work.kind].at(work.num_bytes / max(work.kernels, 1))
        by_arithmetic = work.elements * self.computing.seconds_per_element.get(work.kind, 0.0)
        return max(work.num_bytes / rate, by_arithmetic)

    def link(self, exchange: PlannedExchange) -> Link:
        """The link that an exchange takes; UserError where the machine has none between nodes."""
        if self.computing.within_node and not exchange.is_between_nodes:
            return self.computing.within_node
        return self.machine.link(is_between_nodes=exchange.is_between_nodes)

    def exchange(self, exchange: PlannedExchange) -> float:
        """Seconds that an exchange takes alone."""
        link = self.link(exchange)
        seconds = exchange.calls * link.latency_seconds
        if exchange.num_bytes:
            rate = link.messages.at(exchange.num_bytes / max(exchange.calls, 1.0))
            sharing = exchange.ranks_sharing or max(1.0, link.ranks_sharing)
            seconds += exchange.num_bytes * sharing / rate
        return seconds

    def reading(self, num_bytes: float) -> float:
        """Seconds in which a rank reads so many bytes while all ranks of its node do."""
        storage = self.machine.storage
        share = storage.node_bytes_per_second / min(self.ranks, self.machine.ranks_per_node)
        return self.amplification * num_bytes / min(storage.rank_bytes_per_second, share)

    def peak_fraction(self, operations: float, seconds: float, dtype: ProductType) -> float:
        """Operations per second over the peak of this rank in an arithmetic."""
        return operations / seconds / self.computing.product_rates(dtype).peak
