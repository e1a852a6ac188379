"""Sums and gathers of *lines* between replicas: each owns one of a tensor ``(replicas, n)``.

This is where it is decided how they travel: as one collective, or in rounds (exchange.py). Either
way a rank sends what a ring would.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from weathermixer.jigsaw.collectives import Collective
from weathermixer.jigsaw.exchange import Gather, ReduceScatter
from weathermixer.jigsaw.mesh import Axis

# Backends whose collectives are one launch, and add up within a machine before anything leaves it;
# and the one that stands for them. gloo's reduce-scatter is an all-reduce of which most is thrown
# away, twice the bytes, and its all-gather copies everything once more; its rounds do neither.
COLLECTIVE_BACKENDS = {"nccl", "fake"}


class LineSum:
    """The sum over an axis of ``lines (ranks, n)``, of which each rank gets its own line ``(n,)``.

    They travel in ``dtype``, and are summed in the type that they are given in. ``sent`` is what
    travels: the lines themselves where they are of the type, which belong to the sum until it ends.
    One rank takes the sum of a line, so its order is nobody else's concern.
    """

    def __init__(self, axis: Axis, lines: Tensor, dtype: torch.dtype) -> None:
        """Begin."""
        self.sent = lines.to(dtype)
        self._finish = self._begin(axis, lines)

    def wait(self) -> Tensor:
        """This rank's line of the sum."""
        return self._finish()

    def _begin(self, axis: Axis, lines: Tensor) -> Callable[[], Tensor]:
        sent, size = self.sent, lines.shape[1:]
        if dist.get_backend(axis.group) not in COLLECTIVE_BACKENDS:
            rounds = ReduceScatter(axis)
            for place in axis.peers()[:-1]:
                rounds.send(sent[place], size)
            return lambda: rounds.finish(lines[axis.index])
        if sent is lines:
            own = sent.new_empty(size)
            return _begin(axis, dist.reduce_scatter_single, sent, own, "reduce-scatter").wait
        received = torch.empty_like(sent)
        exchange = _begin(axis, dist.all_to_all_single, sent, received, "all-to-all")
        return lambda: exchange.wait().sum(0, dtype=lines.dtype)


class LineGather:
    """The lines of all ranks of an axis on their way into ``lines (ranks, n)``."""

    def __init__(self, axis: Axis, line: Tensor, lines: Tensor) -> None:
        """Begin to send this rank's ``line (n,)``, which may be its own among ``lines``."""
        self._lines = lines
        self._exchange: Gather | Collective
        if dist.get_backend(axis.group) in COLLECTIVE_BACKENDS:
            self._exchange = _begin(axis, dist.all_gather_single, line, lines, "all-gather")
        else:
            shapes = [tuple(line.shape)] * axis.size
            self._exchange = Gather(axis, line, shapes, into=list(lines))

    def wait(self) -> Tensor:
        """The lines of all ranks."""
        self._exchange.wait()
        return self._lines


def _begin(
    axis: Axis, collective: Callable[..., dist.Work], given: Tensor, result: Tensor, kind: str
) -> Collective:
    """Begin a collective in which each rank sends one line to each other rank."""
    others = axis.size - 1
    return Collective(
        axis,
        lambda **options: collective(result.flatten(), given.flatten(), **options),
        given,
        result,
        kind=kind,
        sent=others * given.shape[-1],
        messages=others,
    )
