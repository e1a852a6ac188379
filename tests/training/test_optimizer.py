from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from oracles.loss import adamw_step
from support.waves import wave_config
from weathermixer.config import Training
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.architecture import architecture_of
from weathermixer.model.cuts import build
from weathermixer.model.mixer import WeatherMixer
from weathermixer.training.optimizer import (
    build_optimizer,
    optimizer_tensors,
    set_step,
    total_bytes,
)
from weathermixer.training.schedule import learning_rate


def _model(prediction: str = "state") -> WeatherMixer:
    config = wave_config(Path("none"), model={"prediction": prediction})
    return build(
        architecture_of(config.data, config.model, (8, 16)),
        Mesh.describe(),
        seed=0,
        increment_scale=torch.ones(2),
        dtype=torch.float64,
    )


def _training(**values: object) -> Training:
    return Training.model_validate(
        {"steps": 100, "warmup_steps": 0, "weight_decay": 0.1, "learning_rate": 1e-2, **values}
    )


def test_two_steps_are_those_of_adamw_with_rates_and_decay_by_group() -> None:
    rates = {"blocks": 5e-3, "head": 3e-3}
    model, training = _model(), _training(edge_learning_rate=2e-3, learning_rates=rates)
    shares = {"encoder": 0.2, "decoder": 0.2, "head": 0.3, "blocks": 0.5}
    optimizer = build_optimizer(dict(model.named_parameters()), training)
    rng = np.random.default_rng(0)
    expected = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    averages = {name: (np.zeros_like(w), np.zeros_like(w)) for name, w in expected.items()}
    for step in range(2):
        set_step(optimizer, step, training)
        for name, parameter in model.named_parameters():
            grad = rng.normal(size=parameter.shape)
            parameter.grad = torch.from_numpy(grad)
            expected[name], averages[name] = adamw_step(
                expected[name],
                grad,
                averages=averages[name],
                step=step + 1,
                rate=learning_rate(step, training) * shares[name.split(".")[0]],
                betas=(0.9, 0.95),
                decay=0.1 if grad.ndim > 1 else 0.0,
            )
        optimizer.step()
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.detach(), expected[name], rtol=1e-12, atol=1e-14)


def test_adam_as_published_adds_the_decay_of_every_parameter_to_its_gradient() -> None:
    model, training = _model(), _training(optimizer="adam")
    optimizer = build_optimizer(dict(model.named_parameters()), training)
    set_step(optimizer, 0, training)
    before = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        nothing = np.zeros_like(before[name])
        expected, _ = adamw_step(
            before[name],
            0.1 * before[name],
            averages=(nothing, nothing),
            step=1,
            rate=1e-2,
            betas=(0.9, 0.95),
            decay=0.0,
        )
        np.testing.assert_allclose(parameter.detach(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("optimizer", ["adamw", "adam"])
def test_every_parameter_is_in_one_group(optimizer: str) -> None:
    model = _model()
    parameters = dict(model.named_parameters())
    groups = build_optimizer(parameters, _training(optimizer=optimizer)).param_groups
    held = [parameter for group in groups for parameter in group["params"]]
    assert len(held) == len(set(held)) == len(parameters)


def test_the_state_is_two_numbers_for_each_weight() -> None:
    model = _model()
    parameters = dict(model.named_parameters())
    tensors = optimizer_tensors(parameters, build_optimizer(parameters, _training()))
    assert set(tensors) == {
        (average, name) for average in ("exp_avg", "exp_avg_sq") for name in parameters
    }
    assert total_bytes(tensors.values()) == 2 * total_bytes(model.parameters())
