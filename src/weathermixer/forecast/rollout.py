"""A model applied to its own output, again and again. Knows tensors; nothing of units or files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

Step = Callable[..., Tensor]
"""A model: from a state, and what is given beside it, to the state one step later."""


def rollout(
    step: Step, recent: Sequence[Tensor], given: Iterable[Sequence[Tensor]]
) -> Iterator[Tensor]:
    """The states after 1, 2, ... steps, each handed out before the next is made.

    ``recent`` are the states ``(batch, channel, latitude, longitude)`` that the model is given, the
    newest first. They are normalised, and so is what is ``given`` for each step: the static fields
    ``(static, latitude, longitude)``, then the forcings ``(batch, forcing, latitude, longitude)``
    where there are any. Each state is the input of the next step exactly as the model returned it:
    nothing is rounded on the way, and one state more than the model is given is alive at a time.
    """
    for fields in given:
        # As a decorator it would keep the first state to the end.
        with torch.no_grad():
            recent = [step(*recent, *fields), *recent[:-1]]
        yield recent[0]
