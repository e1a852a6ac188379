"""What a machine can do, as far as the time of a step depends on it; read from a versioned file.

All numbers are in SI units, bytes and operations, where a multiply-add is two operations. Whatever
holds numbers says where they come from, in ``source``. Files are read and written in
``machine_files.py``; how numbers become seconds stands in ``step_time.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from weathermixer.config.kinds import refusal
from weathermixer.errors import UserError

VERSION: Literal[1] = 1
"""The version of the format of machine files; files of another one are refused."""

ProductType = Literal["float64", "float32", "tf32", "bfloat16"]
Work = Literal[
    "copy",
    "transpose",
    "activation",
    "activation_backward",
    "norm",
    "norm_backward",
    "optimizer",
    "row_sum",
    "convolution_tap",
]
"""Kinds of work on single elements that cost different amounts of time per element.

``transpose`` is a copy into another order, as that of patches. Two are of implementations whose
kernels use a device badly: ``row_sum`` counts the rows that are summed over for few columns,
``convolution_tap`` the elements on one side of a convolution's matrix product times the taps of its
kernel.
"""

Positive = Annotated[float, Field(gt=0.0, le=1e30)]
_Seconds = Annotated[float, Field(ge=0.0, le=10.0)]
_Source = Annotated[str, Field(min_length=1)]


class MachinePart(BaseModel):
    """A part of a machine's description: frozen, and closed to keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Rates(MachinePart):
    """What is reached at several sizes, ascending; between them the logarithms lie on lines."""

    sizes: tuple[Positive, ...] = Field(min_length=1)
    rates: tuple[Positive, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if len(self.sizes) != len(self.rates):
            raise refusal(
                f"lists {len(self.sizes)} sizes and {len(self.rates)} rates",
                "give one rate for each size",
            )
        if any(after <= before for before, after in zip(self.sizes, self.sizes[1:], strict=False)):
            raise refusal("lists sizes that do not ascend", "put them in order, each once")
        return self

    def at(self, size: float) -> float:
        """The rate at a size: in proportion to it below the smallest, the last above the largest.

        >>> rates = Rates(sizes=(10.0, 1000.0), rates=(1.0, 100.0))
        >>> [rates.at(size) for size in (5.0, 100.0, 5000.0)]
        [0.5, 10.0, 100.0]
        """
        if size <= self.sizes[0]:
            return self.rates[0] * size / self.sizes[0]
        for number in range(1, len(self.sizes)):
            if size <= self.sizes[number]:
                low, high = self.sizes[number - 1 : number + 1]
                share = math.log(size / low) / math.log(high / low)
                before, after = self.rates[number - 1 : number + 1]
                return before * (after / before) ** share
        return self.rates[-1]


class ProductRates(Rates):
    """Operations per second of matrix products in one arithmetic.

    ``sizes`` are harmonic means of a product's three dimensions: a product of ``(m, k)`` and
    ``(k, n)`` of that mean has the operations per byte of a product of cubes of that size. ``peak``
    is the most that the device can do, or the largest rate that was measured.
    """

    peak: Positive
    source: _Source

    @model_validator(mode="after")
    def _stays_below_the_peak(self) -> Self:
        highest = max(self.rates)
        if highest > self.peak:
            raise refusal(
                f"reaches a rate of {highest:.4g} operations per second above its peak of "
                f"{self.peak:.4g}",
                "correct one of the two",
            )
        return self


class Link(MachinePart):
    """A way that exchanges take, within a node or between nodes.

    ``messages`` holds bytes per second in one direction by the bytes of a message, for a rank that
    has the link to itself; ``ranks_sharing`` of them share it where all of a node exchange.
    ``latency_seconds`` is what a call takes however little it carries. Where
    ``carried_by_processors``, those that compute also carry the bytes, so that nothing is hidden;
    elsewhere computing takes ``slowdown`` times as long while something travels. In each call,
    ranks wait ``waiting_seconds`` for one another besides.
    """

    latency_seconds: _Seconds
    messages: Rates
    ranks_sharing: Positive = 1.0
    carried_by_processors: bool = False
    slowdown: Annotated[float, Field(ge=1.0, le=10.0)] = 1.0
    waiting_seconds: _Seconds = 0.0
    source: _Source


class Computing(MachinePart):
    """What a rank computes with while a number of ranks compute on its node.

    ``ranks`` and ``threads`` (of each rank) tell apart what was measured on processors that ranks
    share; where ranks have a device each, they are unset. ``work`` holds the bytes per second of
    kinds of elementwise work, by the bytes that a kernel reads and writes, where they were measured
    apart from the memory's; ``seconds_per_element`` what those take whose arithmetic takes longer.
    ``within_node`` is how so many ranks exchange, where that differs from the machine's own link.
    ``launch_seconds`` is the host's time for a kernel, which an accelerator's own work hides where
    ``launches_ahead``.
    """

    ranks: Annotated[int, Field(gt=0)] | None = None
    threads: Annotated[int, Field(gt=0)] | None = None
    products: dict[ProductType, ProductRates] = Field(min_length=1)
    memory_bytes_per_second: Positive
    work: dict[Work, Rates] = Field(default_factory=dict)
    seconds_per_element: dict[Work, _Seconds] = Field(default_factory=dict)
    launch_seconds: _Seconds
    launches_ahead: bool
    within_node: Link | None = None
    source: _Source

    def product_rates(self, dtype: ProductType) -> ProductRates:
        """Rates of products in an arithmetic; TF32, where there is none, is float32.

        Raises UserError where the machine says nothing of it.
        """
        for name in (dtype, "float32") if dtype == "tf32" else (dtype,):
            if name in self.products:
                return self.products[name]
        raise UserError(
            f"the machine file has no rates of products in {dtype}: add them, or choose a "
            f"training.dtype among {', '.join(self.products)}"
        )


class Storage(MachinePart):
    """Bytes per second that can be read, by one rank alone and by all ranks of a node together."""

    rank_bytes_per_second: Positive
    node_bytes_per_second: Positive
    source: _Source

    @model_validator(mode="after")
    def _is_shared_by_ranks(self) -> Self:
        if self.node_bytes_per_second < self.rank_bytes_per_second:
            raise refusal(
                f"lets a node read {self.node_bytes_per_second:.4g} bytes per second, less than "
                f"one of its ranks ({self.rank_bytes_per_second:.4g})",
                "correct one of the two",
            )
        return self


class Power(MachinePart):
    """Watts of a rank with its share of its node: while it computes, and while it waits."""

    computing_watts: Positive
    waiting_watts: Positive
    source: _Source


class Machine(MachinePart):
    """Nodes that are all alike, each with a number of ranks.

    ``memory_bytes`` is what a rank can hold: a device's memory, or its share of the node's.
    ``spread`` is how far measurements of the same thing lay apart, relative to their median, where
    the numbers were measured.
    """

    version: Literal[1] = VERSION
    name: str = Field(min_length=1)
    source: _Source
    ranks_per_node: Annotated[int, Field(gt=0, le=10_000)]
    memory_bytes: Positive
    computing: tuple[Computing, ...] = Field(min_length=1)
    within_node: Link
    between_nodes: Link | None = None
    storage: Storage
    power: Power | None = None
    spread: Annotated[float, Field(ge=0.0)] | None = None

    def computing_of(self, *, ranks: int, threads: int | None = None) -> Computing:
        """What a rank computes with where ``ranks`` in all run, of so many threads each.

        Of what was measured it is what comes nearest: the same threads in all, then the same
        number of ranks on the node.
        """
        local = min(ranks, self.ranks_per_node)

        def distance(candidate: Computing) -> tuple[float, float]:
            measured_ranks = candidate.ranks or local
            measured_threads = candidate.threads or threads or 1
            wanted = threads or measured_threads
            return (
                abs(math.log(measured_ranks / local)) + abs(math.log(measured_threads / wanted)),
                -measured_threads,
            )

        return min(self.computing, key=distance)

    def memory_of(self, *, ranks: int) -> float:
        """Bytes that each of ``ranks`` in all can hold: processors share their node's memory."""
        if all(computing.ranks is None for computing in self.computing):
            return self.memory_bytes
        return self.memory_bytes * self.ranks_per_node / min(ranks, self.ranks_per_node)

    def link(self, *, is_between_nodes: bool) -> Link:
        """The link that an exchange takes; UserError where there is none between nodes."""
        if not is_between_nodes:
            return self.within_node
        if self.between_nodes is None:
            raise UserError(
                f"the machine {self.name} has one node of {self.ranks_per_node} ranks, and its "
                "file no between_nodes: add that link, or plan for fewer ranks"
            )
        return self.between_nodes


def harmonic_mean(sizes: Sequence[int]) -> float:
    """The harmonic mean of a product's dimensions, by which its rate is looked up.

    >>> harmonic_mean([2, 2, 2]), harmonic_mean([1, 1, 4])
    (2.0, 1.3333333333333333)
    """
    return len(sizes) / sum(1.0 / size for size in sizes)
