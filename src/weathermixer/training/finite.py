"""Stopping at the first NaN or infinity, and saying where it arose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weathermixer.training.divergence import Diverged

_NAMED_SAMPLES = 4


class Cause(NamedTuple):
    """Where a rank sees the first NaN or infinity; what explains better, or came earlier, is less.

    ``certainty`` is 0 where the bad value itself is known, 1 where only its consequence is;
    ``order`` is the place in which it came, ``text`` the explanation, and ``samples`` names the
    batch's.
    """

    certainty: int
    order: float
    text: str
    samples: str


def find_cause(
    loss: float,
    model: nn.Module,
    states: Tensor,
    magnitudes: Sequence[Tensor],
    *,
    channels: Sequence[str],
    initial_times: NDArray[np.datetime64],
    step_hours: float,
    input_times: int = 1,
) -> Cause:
    """Explain, as far as this rank can, a loss, or else a gradient, that is NaN or infinite.

    Looks for the first bad value in its part of the samples' states ``(batch, time, channel,
    latitude, longitude)``, of which the last of ``input_times`` is the initial one, then in the
    forecast states, of which it is given the largest ``magnitudes (batch, channel)``, then in the
    gradients of ``model``. The states are ``step_hours`` apart.
    """
    named = ", ".join(str(time) for time in initial_times[:_NAMED_SAMPLES])
    more = ", ..." if len(initial_times) > _NAMED_SAMPLES else ""
    cause = (
        _bad_parameter(model)
        if math.isfinite(loss)
        else _bad_channel(states, magnitudes, channels, initial_times, input_times, step_hours)
    )
    return Cause(*cause, samples=named + more)


def not_finite_error(
    loss: float,
    causes: Sequence[Cause],
    *,
    step: int,
    stop: int,
    checkpoint: Path | None,
) -> Diverged:
    """The error that ends a training before optimizer step ``step`` (counted from 1) is taken.

    ``stop`` is the sample after the last one of the step.
    """
    what = "gradient" if math.isfinite(loss) else "loss"
    cause = min(causes)
    kept = f"{checkpoint} is the last good checkpoint" if checkpoint else "there is no checkpoint"
    return Diverged(
        f"the {what} of step {step} is NaN or infinite ({cause.text}; samples from "
        f"{cause.samples})",
        f"and training stopped before it changed the weights: {kept}; lower "
        "training.learning_rate or look at these samples",
        step=step,
        stop=stop,
    )


def _bad_channel(
    states: Tensor,
    magnitudes: Sequence[Tensor],
    channels: Sequence[str],
    initial_times: NDArray[np.datetime64],
    input_times: int,
    step_hours: float,
) -> tuple[int, float, str]:
    given = [(torch.isfinite(state).all(-1).all(-1), "given for") for state in states.unbind(1)]
    made = [(torch.isfinite(largest), "forecast for") for largest in magnitudes]
    first = 1 - input_times
    for leads, group in (
        (range(first, first + len(given)), given),
        (range(1, len(made) + 1), made),
    ):
        for lead, (is_finite, how) in zip(leads, group, strict=True):
            if not is_finite.all():
                sample, channel = (~is_finite).nonzero()[0].tolist()
                return (
                    0,
                    lead if group is given else len(given) + lead,
                    f"first in {channels[channel]} as {how} {abs(lead) * step_hours:g} h "
                    f"{'before' if lead < 0 else 'after'} {initial_times[sample]}",
                )
    worst = torch.stack([largest.amax(0) for largest in magnitudes]).amax(0)
    largest = int(worst.argmax())
    return (1, -float(worst[largest]), f"its square overflows, and {channels[largest]} is largest")


def _bad_parameter(model: nn.Module) -> tuple[int, float, str]:
    for order, (name, parameter) in enumerate(model.named_parameters()):
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return 0, order, f"first in that of {name}"
    return 1, 0.0, "first in that of all parameters together, whose norm overflows"
