from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.networks import gradient_of
from weathermixer.training.finite import Cause, find_cause, not_finite_error

TIMES = np.array(["2001-01-01T00", "2001-02-01T00", "2001-03-01T00"], dtype="datetime64[s]")
CHANNELS = ("temperature_850", "2m_temperature")


def _sentence(
    loss: float, states: torch.Tensor, forecast: list[torch.Tensor], model: Any = None, **other: Any
) -> str:
    return _told(loss, [_cause(loss, states, forecast, model)], **other)


def _cause(
    loss: float, states: torch.Tensor, forecast: list[torch.Tensor], model: Any = None
) -> Cause:
    return find_cause(
        loss,
        model,
        states,
        [state.abs().amax((-2, -1)) for state in forecast],
        channels=CHANNELS,
        initial_times=TIMES,
        step_hours=6.0,
    )


def _told(loss: float, causes: list[Cause], **other: Any) -> str:
    values = {
        "step": 8,
        "stop": 32,
        "checkpoint": Path("run/checkpoints/step-00000004"),
        **other,
    }
    return str(not_finite_error(loss, causes, **values))


@pytest.fixture
def states() -> torch.Tensor:
    return torch.zeros(3, 3, 2, 4, 5)


@pytest.fixture
def forecast() -> list[torch.Tensor]:
    return [torch.zeros(3, 2, 4, 5), torch.zeros(3, 2, 4, 5)]


def test_a_bad_sample_is_named_before_what_was_made_of_it(
    states: torch.Tensor, forecast: list[torch.Tensor]
) -> None:
    states[1, 2, 1, 0, 0] = math.inf
    forecast[0][0, 0, 0, 0] = math.nan
    said = _sentence(math.nan, states, forecast)
    assert "first in 2m_temperature as given for 12 h after 2001-02-01T00:00:00" in said
    assert "the loss of step 8" in said
    assert "run/checkpoints/step-00000004 is the last good checkpoint" in said
    assert all(str(time) in said for time in TIMES)


def test_otherwise_the_first_bad_forecast_is_named(
    states: torch.Tensor, forecast: list[torch.Tensor]
) -> None:
    forecast[0][2, 0, 3, 4] = math.nan
    forecast[1][:] = math.nan
    said = _sentence(math.nan, states, forecast)
    assert "first in temperature_850 as forecast for 6 h after 2001-03-01T00:00:00" in said


def test_a_square_that_overflows_is_told_from_a_value_that_does(
    states: torch.Tensor, forecast: list[torch.Tensor]
) -> None:
    forecast[1][0, 1, 2, 2] = -1e30
    said = _sentence(math.inf, states, forecast)
    assert "its square overflows, and 2m_temperature is largest" in said


def test_a_bad_gradient_is_named_by_its_parameter(
    states: torch.Tensor, forecast: list[torch.Tensor]
) -> None:
    last = torch.nn.Linear(2, 2)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), last)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    said = _sentence(1.0, states, forecast, model, checkpoint=None)
    assert "all parameters together" in said
    assert "there is no checkpoint" in said
    gradient_of(last.bias)[0] = math.nan
    said = _sentence(1.0, states, forecast, model)
    assert "the gradient of step 8 is NaN or infinite (first in that of 1.bias;" in said


def test_of_what_several_ranks_find_the_earliest_is_told(
    states: torch.Tensor, forecast: list[torch.Tensor]
) -> None:
    """A bad value spreads: ranks that hold none of the input see it in their forecasts."""
    spoiled, spread = states.clone(), [torch.full_like(state, math.nan) for state in forecast]
    spoiled[2, 1, 0, 3, 3] = math.nan
    origin, consequence = _cause(math.nan, spoiled, spread), _cause(math.nan, states, spread)
    for causes in ([origin, consequence], [consequence, origin, consequence]):
        said = _told(math.nan, causes)
        assert "first in temperature_850 as given for 6 h after 2001-03-01T00:00:00" in said


def test_of_what_overflows_on_several_ranks_the_largest_is_told(states: torch.Tensor) -> None:
    large, larger = (torch.zeros(3, 2, 4, 5) for _ in range(2))
    large[0, 0, 1, 1], larger[0, 1, 2, 2] = 1e25, -1e30
    causes = [_cause(math.inf, states, [forecast]) for forecast in (large, larger)]
    assert "2m_temperature is largest" in _told(math.inf, causes)
    # A rank that has a bad value explains more than one that sees large ones.
    bad = torch.full((3, 2, 4, 5), math.nan)
    causes.append(_cause(math.nan, states, [bad]))
    assert "first in temperature_850 as forecast for 6 h" in _told(math.inf, causes)
