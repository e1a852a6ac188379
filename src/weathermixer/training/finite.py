"""Stopping at the first NaN or infinity, and saying where it arose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weathermixer.errors import UserError

_NAMED_SAMPLES = 4


def not_finite(
    loss: float,
    model: nn.Module,
    states: Tensor,
    forecast: Sequence[Tensor],
    *,
    step: int,
    channels: Sequence[str],
    initial_times: NDArray[np.datetime64],
    step_hours: float,
    checkpoint: Path | None,
) -> UserError:
    """The error that ends a training before optimizer step ``step`` (counted from 1) is taken.

    Looks for the first bad value in the samples' states ``(batch, rollout + 1, channel, latitude,
    longitude)``, then in the forecast states, then in the gradients of ``model``.
    """
    what = "gradient" if math.isfinite(loss) else "loss"
    if math.isfinite(loss):
        cause = f"first in that of {_bad_parameter(model)}"
    else:
        cause = _bad_channel(states, forecast, channels, initial_times, step_hours)
    named = ", ".join(str(time) for time in initial_times[:_NAMED_SAMPLES])
    more = ", ..." if len(initial_times) > _NAMED_SAMPLES else ""
    kept = f"{checkpoint} is the last good checkpoint" if checkpoint else "there is no checkpoint"
    return UserError(
        f"the {what} of step {step} is NaN or infinite ({cause}; samples from {named}{more}) and "
        f"training stopped before it changed the weights: {kept}; lower training.learning_rate or "
        "look at these samples"
    )


def _bad_channel(
    states: Tensor,
    forecast: Sequence[Tensor],
    channels: Sequence[str],
    initial_times: NDArray[np.datetime64],
    step_hours: float,
) -> str:
    given = [(state, "given for") for state in states.unbind(1)]
    made = [(state, "forecast for") for state in forecast]
    for leads, group in ((range(len(given)), given), (range(1, len(made) + 1), made)):
        for lead, (state, how) in zip(leads, group, strict=True):
            bad = ~torch.isfinite(state).all(-1).all(-1)
            if bad.any():
                sample, channel = bad.nonzero()[0].tolist()
                return (
                    f"first in {channels[channel]} as {how} {lead * step_hours:g} h after "
                    f"{initial_times[sample]}"
                )
    worst = torch.stack([state.abs().amax((0, 2, 3)) for state in forecast]).amax(0)
    return f"its square overflows, and {channels[int(worst.argmax())]} is largest"


def _bad_parameter(model: nn.Module) -> str:
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return name
    return "all parameters together, whose norm overflows"
