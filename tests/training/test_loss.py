from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch

from oracles.loss import (
    PUBLISHED,
    PUBLISHED_LEVELS,
    area_loss,
    increment_loss,
    published_loss,
)
from weathermixer.config import Training
from weathermixer.data.channels import Channel
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.training.loss import (
    error_function,
    huber_thresholds,
    loss_weights,
    published_factor,
    recent_and_targets,
    rollout_loss,
    weighted_mse,
)

CHANNELS = (
    "geopotential_500", "specific_humidity_300", "temperature_50", "u_component_of_wind_1000",
    "v_component_of_wind_200", "mean_sea_level_pressure", "10m_u_component_of_wind",
    "10m_v_component_of_wind", "2m_temperature",
)  # fmt: skip
LATITUDE = np.array([88.0, 60.0, 20.0, -10.0, -45.0, -90.0])
RNG = np.random.default_rng(0)
NORMALISATION = Normalisation(
    channels=CHANNELS,
    mean=RNG.normal(size=9),
    std=RNG.uniform(0.5, 2.0, 9),
    step_std=RNG.uniform(0.05, 0.2, 9),
    static_channels=(),
    static=np.empty((0, 6, 4), np.float32),
    latitude=LATITUDE,
    longitude=np.arange(4.0) * 90.0,
)
PREDICTION, TARGET = RNG.normal(size=(2, 3, 9, 6, 4))


CHANNEL_WEIGHTS = {"temperature": 2.0, "geopotential": 9.0, "geopotential_500": 0.5}
BY_INDEX = {0: 0.5, 2: 2.0}
# What a threshold is measured in makes errors of either side of it common.
THRESHOLDS = {"increment": 12.0, "area": 1.5, "published": 2.5}


def _loss(prediction: torch.Tensor, target: torch.Tensor, training: Training) -> torch.Tensor:
    weights = torch.from_numpy(loss_weights(training, NORMALISATION))
    thresholds = torch.from_numpy(huber_thresholds(training, NORMALISATION))
    return error_function(training, thresholds)(prediction, target, weights)


@pytest.mark.parametrize("loss", ["increment", "area", "published"])
@pytest.mark.parametrize("error", ["squared", "absolute", "huber"])
def test_a_loss_is_the_weighted_mean_of_what_errors_cost(
    loss: Literal["increment", "area", "published"],
    error: Literal["squared", "absolute", "huber"],
) -> None:
    training = Training(
        loss=loss,
        error=error,
        huber_threshold=THRESHOLDS[loss],
        channel_weights=CHANNEL_WEIGHTS,
    )
    ours = _loss(torch.from_numpy(PREDICTION), torch.from_numpy(TARGET), training)
    options: Any = {"threshold": THRESHOLDS[loss], "weights": BY_INDEX}
    if loss == "published":
        expected = published_loss(PREDICTION, TARGET, list(CHANNELS), LATITUDE, error, **options)
    else:
        of_step = NORMALISATION.step_std / NORMALISATION.std
        units = of_step if loss == "increment" else np.ones(9)
        expected = area_loss(PREDICTION, TARGET, units, LATITUDE, error, **options)
    assert ours.item() == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("error", ["squared", "absolute", "huber"])
def test_the_gradient_of_a_loss_is_its_slope(
    error: Literal["squared", "absolute", "huber"],
) -> None:
    training = Training(loss="area", error=error, huber_threshold=1.5)
    prediction = torch.from_numpy(PREDICTION[:1]).requires_grad_()
    target = torch.from_numpy(TARGET[:1])
    assert torch.autograd.gradcheck(lambda p: _loss(p, target, training), (prediction,))


def test_a_huber_loss_that_no_error_exceeds_is_the_squared_one() -> None:
    prediction, target = torch.from_numpy(PREDICTION), torch.from_numpy(TARGET)
    huber = _loss(prediction, target, Training(error="huber", huber_threshold=1e3))
    assert huber.item() == _loss(prediction, target, Training()).item()


def test_every_published_factor_is_as_printed() -> None:
    for variable, factor in PUBLISHED.items():
        if variable in CHANNELS:
            assert published_factor(Channel(variable)) == factor
        else:
            for level, level_factor in PUBLISHED_LEVELS.items():
                ours = published_factor(Channel(variable, level))
                assert ours == pytest.approx(factor * level_factor, rel=1e-15)


def test_levels_without_a_published_factor_are_interpolated() -> None:
    assert published_factor(Channel("geopotential", 350)) == pytest.approx(3.0 * 0.85)
    assert published_factor(Channel("geopotential", 10)) == pytest.approx(3.0 * 0.3)
    assert published_factor(Channel("geopotential", 975)) == 3.0


def test_the_loss_is_taken_in_float32_even_of_bfloat16_states() -> None:
    prediction, target = torch.full((2, 1, 9, 64, 64), 1.0).unbind(0)
    weights = torch.full((9, 64, 1), 1.0)
    error = torch.tensor(2.0**-7)  # kept exactly by bfloat16 beside 1; its square is not
    ours = weighted_mse((prediction + error).bfloat16(), target.bfloat16(), weights)
    assert ours.dtype == torch.float32
    assert ours.item() == 2.0**-14


class _Doubling(torch.nn.Module):
    def forward(self, state: torch.Tensor, static: torch.Tensor) -> torch.Tensor:
        return 2.0 * state + static


def test_a_rollout_starts_each_step_from_the_one_before_and_averages() -> None:
    states = torch.from_numpy(RNG.normal(size=(2, 4, 9, 6, 4)))
    static = torch.full((1, 1, 1), 0.5, dtype=torch.float64)
    weights = torch.from_numpy(loss_weights(Training(), NORMALISATION))
    loss, forecast = rollout_loss(_Doubling(), *recent_and_targets(states, 1), static, weights)
    expected, state = [], states[:, 0].numpy()
    for step in range(1, 4):
        state = 2.0 * state + 0.5
        np.testing.assert_array_equal(forecast[step - 1], state)
        expected.append(
            increment_loss(
                state, states[:, step].numpy(), NORMALISATION.std, NORMALISATION.step_std, LATITUDE
            )
        )
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-13)
