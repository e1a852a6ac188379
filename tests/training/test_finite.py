from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from weathermixer.training.finite import not_finite

TIMES = np.array(["2001-01-01T00", "2001-02-01T00", "2001-03-01T00"], dtype="datetime64[s]")
CHANNELS = ("temperature_850", "2m_temperature")


def _sentence(
    loss: float, states: torch.Tensor, forecast: list[torch.Tensor], model: Any = None, **other: Any
) -> str:
    values: dict[str, Any] = {
        "step": 8,
        "channels": CHANNELS,
        "initial_times": TIMES,
        "step_hours": 6.0,
        "checkpoint": Path("run/checkpoints/step-00000004"),
        **other,
    }
    return str(not_finite(loss, model, states, forecast, **values))


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
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    said = _sentence(1.0, states, forecast, model, checkpoint=None)
    assert "all parameters together" in said
    assert "there is no checkpoint" in said
    model[1].bias.grad[0] = math.nan
    said = _sentence(1.0, states, forecast, model)
    assert "the gradient of step 8 is NaN or infinite (first in that of 1.bias;" in said
