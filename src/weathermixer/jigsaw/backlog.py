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

import torch
from torch import Tensor

from weathermixer.jigsaw.exchange import ReduceScatter

# Sums that may be on their way at once: those of the weights of a layer or two.
_MOST_TRAVELLING = 16


@dataclass(frozen=True)
class _Travelling:
    """Rows of a gradient, ``own``, that others add to, in ``out``; ``then`` something goes on."""

    sums: ReduceScatter
    own: Tensor
    out: Tensor
    then: Callable[[], None] | None


# What is to be done, each with the number of the layer that deferred it.
_Deferred = deque[tuple[int, Callable[[], None]]]


class Backlog:
    """What is to be done, in its order, and what was sent for it and is on its way."""

    def __init__(self) -> None:
        self._shared: _Deferred = deque()
        self._own: _Deferred = deque()
        self._layers = 0
        self._travelling: deque[_Travelling] = deque()

    def defer(self, work: Callable[[], None], *, is_shared: bool) -> None:
        """Let a little work fill a wait; ``is_shared`` where other ranks wait for a part of it."""
        (self._shared if is_shared else self._own).append((self._layers, work))

    def fill(self) -> bool:
        """Do a little of what was deferred; False where nothing was."""
        self._arrive(_MOST_TRAVELLING)
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
        self._travelling.append(_Travelling(sums, own, out, then))
        self._arrive(_MOST_TRAVELLING)

    def catch_up(self) -> None:
        """Do everything that was deferred."""
        while self.fill():
            pass

    def finish(self) -> None:
        """Do everything, and wait for everything."""
        self.catch_up()
        self._arrive(0)

    def _arrive(self, at_most: int) -> None:
        """Take in what is there, in order; wait for it where more than so much is not."""
        while self._travelling:
            first = self._travelling[0]
            if len(self._travelling) <= at_most and not first.sums.has_ended:
                return
            self._travelling.popleft()
            if first.own is not first.out:
                with torch.no_grad():
                    first.sums.finish(first.own, out=first.out)
            if first.then is not None:
                first.then()


BACKLOG = Backlog()
