"""A model applied to its own output, again and again. Knows tensors; nothing of units or files."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], Tensor]
"""A model: from a state and static fields to the state one step later."""


def rollout(step: Step, state: Tensor, static: Tensor, num_steps: int) -> Iterator[Tensor]:
    """The states after 1, 2, ... ``num_steps`` steps, each handed out before the next is made.

    ``state (batch, channel, latitude, longitude)`` and ``static (static, latitude, longitude)`` are
    normalised. Each state is the input of the next step exactly as the model returned it: nothing
    is rounded on the way, and no more than two states are alive at a time.
    """
    for _ in range(num_steps):
        # As a decorator it would keep the first state to the end.
        with torch.no_grad():
            state = step(state, static)
        yield state
