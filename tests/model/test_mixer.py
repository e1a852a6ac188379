from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from oracles.mixer import next_state
from weathermixer.config import Config
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout
from weathermixer.model.mixer import (
    Architecture,
    WeatherMixer,
    architecture_of,
    build,
    count_parameters,
    forward_multiply_adds,
)

Prediction = Literal["increment", "state"]

SMALL = Architecture(
    prognostic=5,
    static=2,
    grid=(6, 8),
    patch=(3, 2),
    channels=7,
    blocks=2,
    token_hidden=5,
    channel_hidden=9,
    dropout=0.0,
    prediction="increment",
)
SCALE = torch.linspace(0.1, 0.5, SMALL.prognostic, dtype=torch.float64)


def randomised(architecture: Architecture, seed: int = 0) -> WeatherMixer:
    """A float64 network in which every parameter matters, biases and gains too."""
    model = build(architecture, Layout(), seed=seed, increment_scale=SCALE, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += 0.3 * noise
    return model


def sample(architecture: Architecture, batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    draw = {"generator": generator, "dtype": torch.float64}
    state = torch.randn(batch, architecture.prognostic, *architecture.grid, **draw)
    return state, torch.randn(architecture.static, *architecture.grid, **draw)


@pytest.mark.parametrize("prediction", ["increment", "state"])
@pytest.mark.parametrize("applications", [1, 3])
@pytest.mark.parametrize("patch", [(3, 2), (1, 8), (6, 1)])
def test_the_network_equals_its_description(
    prediction: Prediction, applications: int, patch: tuple[int, int]
) -> None:
    architecture = replace(SMALL, prediction=prediction, patch=patch)
    model = randomised(architecture)
    state, static = sample(architecture)
    result = model(state, static, applications=applications)
    weights = {name: value.detach().numpy() for name, value in model.named_parameters()}
    for one, expected in zip(state, result, strict=True):
        oracle = next_state(
            one.numpy(),
            static.numpy(),
            weights,
            patch=patch,
            blocks=architecture.blocks,
            increment_scale=SCALE.numpy() if prediction == "increment" else None,
            applications=applications,
        )
        error = np.abs(expected.detach().numpy() - oracle).max()
        assert error <= 1e-12 * np.abs(oracle).max()


@pytest.mark.parametrize("prediction", ["increment", "state"])
def test_gradients_equal_finite_differences(prediction: Prediction) -> None:
    model = randomised(replace(SMALL, prediction=prediction))
    state, static = sample(SMALL, batch=1)
    target = torch.zeros_like(state)

    def loss() -> Tensor:
        return (model(state, static) - target).square().mean()

    loss().backward()
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        assert parameter.grad is not None, name
        slope = (parameter.grad * direction).sum()
        step = 1e-5
        with torch.no_grad():
            parameter += step * direction
            above = loss()
            parameter -= 2 * step * direction
            below = loss()
            parameter += step * direction
        torch.testing.assert_close((above - below) / (2 * step), slope, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("channels", "token_hidden", "millions"), [(4320, 0.5, 1062.4), (10352, 1.0, 2565)]
)
def test_published_sizes_have_the_published_numbers_of_parameters(
    channels: int, token_hidden: float, millions: float
) -> None:
    config = Config.model_validate(
        {
            "preset": "published",
            "data": {"store": "none"},
            "model": {"channels": channels, "token_hidden": token_hidden},
        }
    )
    count = count_parameters(architecture_of(config, (720, 1440)))
    assert count / 1e6 == pytest.approx(millions, rel=2e-4)


def test_initial_weights_depend_on_seed_and_name_alone() -> None:
    one, same, other = (
        build(SMALL, Layout(), seed=seed, increment_scale=SCALE) for seed in (3, 3, 4)
    )
    wider = build(replace(SMALL, blocks=3), Layout(), seed=3, increment_scale=SCALE)
    theirs = dict(same.named_parameters())
    wider_parameters = dict(wider.named_parameters())
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter, theirs[name])
        assert torch.equal(parameter, wider_parameters[name])
    assert not torch.equal(one.encoder.weight, other.encoder.weight)


def test_an_untrained_increment_network_is_persistence() -> None:
    model = build(SMALL, Layout(), seed=0, increment_scale=SCALE)
    state, static = sample(SMALL)
    assert torch.equal(model(state.float(), static.float()), state.float())


def test_bfloat16_changes_a_step_by_no_more_than_its_rounding() -> None:
    exact = build(SMALL, Layout(), seed=0, increment_scale=SCALE)
    rounded = build(SMALL, Layout(), seed=0, increment_scale=SCALE, arithmetic=torch.bfloat16)
    for model in (exact, rounded):
        with torch.no_grad():
            model.decoder.linear.weight.copy_(
                torch.linspace(-0.3, 0.3, model.decoder.linear.weight.numel()).view_as(
                    model.decoder.linear.weight
                )
            )
    state, static = (field.float() for field in sample(SMALL))
    increment = exact(state, static) - state
    error = rounded(state, static) - state - increment
    assert rounded(state, static).dtype is torch.float32
    assert error.norm() <= 8 * 2.0**-8 * increment.norm()
    assert error.norm() > 0


def test_dropout_repeats_for_the_same_step_and_rests_in_evaluation() -> None:
    model = randomised(replace(SMALL, dropout=0.3))
    state, static = sample(SMALL)

    def at(step: int) -> Tensor:
        model.set_dropout_key(0, step)
        return model(state, static)

    assert torch.equal(at(5), at(5))
    assert not torch.equal(at(5), at(6))
    model.eval()
    assert torch.equal(at(5), at(6))


@pytest.mark.parametrize("prediction", ["increment", "state"])
def test_multiply_adds_are_those_that_torch_counts(prediction: Prediction) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    architecture = replace(SMALL, prediction=prediction)
    model = randomised(architecture)
    state, static = sample(architecture, batch=3)
    with FlopCounterMode(display=False) as counter:
        model(state, static)
    assert counter.get_total_flops() == 2 * forward_multiply_adds(architecture, batch=3)


def test_a_patch_that_does_not_divide_the_grid_is_refused_with_the_arithmetic() -> None:
    config = Config.model_validate({"data": {"store": "none"}, "model": {"patch": [5, 4]}})
    with pytest.raises(UserError, match=r"5×4 does not divide .* 32×64 .* 32 points of latitude"):
        architecture_of(config, (32, 64))
