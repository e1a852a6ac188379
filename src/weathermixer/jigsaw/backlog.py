"""Work that nobody waits for, done while something else is waited for.

Gradients of weights are of this kind: only the end of the backward pass needs them. What other
ranks wait for parts of is done first, since it then has to travel. How much is done in which
wait differs between ranks, but each does it in the order in which it was deferred, and so sends
what it makes in the order in which the others expect it. There is one backlog, whatever passes
there are within each other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from weathermixer.jigsaw.exchange import ReduceScatter

Place = Literal["layer", "work", "sums"]
"""What a backlog has come to the end of: a layer, all deferred work, or all sums on their way."""

# Sums that may be on their way at once: those of the weights of a layer or two.
MOST_TRAVELLING = 16


class Witness:
    """Is told what a backlog puts off, and may wrap it; this one takes no notice."""

    def deferred(self, work: Callable[[], None], *, is_shared: bool) -> Callable[[], None]:
        """Return what is to be done in place of the work that was deferred."""
        return work

    def sent(self, sums: ReduceScatter, take_in: Callable[[], None]) -> Callable[[], None]:
        """Return what is to be done in place of ``take_in`` when the sums are there."""
        return take_in

    def reached(self, place: Place) -> None:
        """Hear that a layer has ended, that all work is to be done, or all sums waited for."""


@dataclass(frozen=True)
class _Travelling:
    """Sums that are on their way, and what takes them in."""

    sums: ReduceScatter
    take_in: Callable[[], None]


# What is to be done, each with the number of the layer that deferred it.
_Deferred = deque[tuple[int, Callable[[], None]]]


class Backlog:
    """What is to be done, in its order, and what was sent for it and is on its way."""

    def __init__(self) -> None:
        self.witness = Witness()
        self._shared: _Deferred = deque()
        self._own: _Deferred = deque()
        self._layers = 0
        self._travelling: deque[_Travelling] = deque()

    def defer(self, work: Callable[[], None], *, is_shared: bool) -> None:
        """Let a little work fill a wait; ``is_shared`` where other ranks wait for a part of it."""
        work = self.witness.deferred(work, is_shared=is_shared)
        (self._shared if is_shared else self._own).append((self._layers, work))

    def fill(self) -> bool:
        """Do a little of what was deferred; False where nothing was."""
        self._arrive(MOST_TRAVELLING)
        deferred = self._shared or self._own
        if not deferred:
            return False
        _, work = deferred.popleft()
        with torch.no_grad():
            work()
        return True

    def finish_layer(self) -> None:
        """Do what the layers before this one deferred, since it needs their activations.

        What this one deferred is left for the waits of the next.
        """
        self.witness.reached("layer")
        while any(
            waiting and waiting[0][0] < self._layers for waiting in (self._shared, self._own)
        ):
            self.fill()
        self._layers += 1

    def travel(
        self, sums: ReduceScatter, own: Tensor, out: Tensor, then: Callable[[], None] | None
    ) -> None:
        """Add what others send to ``own``, in ``out``, when it is there; ``then`` go on.

        Where ``own`` is ``out``, there is nothing to add.
        """

        def take_in() -> None:
            if own is not out:
                with torch.no_grad():
                    sums.finish(own, out=out)
            if then is not None:
                then()

        self._travelling.append(_Travelling(sums, self.witness.sent(sums, take_in)))
        self._arrive(MOST_TRAVELLING)

    def catch_up(self) -> None:
        """Do everything that was deferred."""
        self.witness.reached("work")
        while self.fill():
            pass

    def finish(self) -> None:
        """Do everything, and wait for everything."""
        self.catch_up()
        self.witness.reached("sums")
        self._arrive(0)

    def _arrive(self, at_most: int) -> None:
        """Take in what is there, in order; wait for it where more than so much is not."""
        while self._travelling:
            first = self._travelling[0]
            if len(self._travelling) <= at_most and not first.sums.has_ended:
                return
            self._travelling.popleft()
            first.take_in()


BACKLOG = Backlog()
