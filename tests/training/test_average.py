"""The moving average of the weights: its formula, where it is kept, and what uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from support.forecast_runs import write_run
from support.meshed import stored
from support.waves import wave_config
from weathermixer.config import Config
from weathermixer.errors import UserError
from weathermixer.forecast.forecast import forecast
from weathermixer.runs import checkpoint
from weathermixer.runs.run import Run, Weights
from weathermixer.training.average import WeightAverage
from weathermixer.training.loop import TrainingLoop
from weathermixer.training.notices import Notices

INIT = "2001-01-03T06"


def config_of(waves: Path, **training: Any) -> Config:
    return wave_config(
        waves,
        training={"dtype": "float64", "warmup_steps": 0, "learning_rate": 0.01, **training},
        checkpoint={"keep": 3},
    )


@settings(max_examples=20, deadline=None)
@given(decay=st.floats(0.0, 0.9999), steps=st.integers(1, 12), seed=st.integers(0, 99))
def test_it_is_the_bias_corrected_sum_over_all_steps(decay: float, steps: int, seed: int) -> None:
    weights = np.random.default_rng(seed).normal(size=(steps + 1, 3, 2))
    parameter = nn.Parameter(torch.from_numpy(weights[0].copy()))
    average = WeightAverage({"weight": parameter}, decay)
    for later in weights[1:]:
        parameter.data.copy_(torch.from_numpy(later))
        average.update()
    powers = np.array([decay ** (steps - number) for number in range(1, steps + 1)])
    expected = np.tensordot(powers / powers.sum(), weights[1:], 1)
    np.testing.assert_allclose(average.tensors["weight"], expected, rtol=1e-11, atol=1e-14)
    assert average.steps == steps


@pytest.fixture(scope="module")
def averaged(waves: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps without an average, and two more with one."""
    out = tmp_path_factory.mktemp("averaged") / "run"
    with TrainingLoop.begin(config_of(waves, steps=3), out) as loop:
        for _ in loop:
            pass
        loop.save()
    said: list[str] = []
    config = config_of(waves, steps=5, average_decay=0.6)
    with TrainingLoop.begin(config, out, resume=True, notices=Notices(said.append)) as loop:
        for _ in loop:
            loop.save()
    sentence = "has no average of the weights: it begins with them here"
    assert sum(sentence in text for text in said) == 1
    return out


def test_in_a_run_that_had_none_it_begins_with_the_weights(averaged: Path) -> None:
    steps = [stored(path) for path in checkpoint.checkpoints(Run.open(averaged).checkpoints)]
    assert [int(tensors["progress.step"]) for tensors in steps] == [3, 4, 5]
    assert int(steps[-1]["averaging.steps"]) == 3
    names = [name.removeprefix("average.") for name in steps[-1] if name.startswith("average.")]
    assert [f"model.{name}" for name in names] == [n for n in steps[0] if n.startswith("model.")]
    for name in names:
        first, second, third = (tensors[f"model.{name}"] for tensors in steps)
        expected = (0.36 * first + 0.6 * second + third) / 1.96
        torch.testing.assert_close(steps[-1][f"average.{name}"], expected, rtol=1e-13, atol=1e-16)


def test_a_validation_is_of_the_average_and_leaves_the_weights_alone(
    averaged: Path, waves: Path
) -> None:
    config = config_of(waves, steps=5, average_decay=0.6)
    with TrainingLoop.begin(config, averaged, resume=True) as loop:
        before = {name: each.clone() for name, each in loop.state.model.state_dict().items()}
        scores = loop.validate()
        for name, tensor in loop.state.model.state_dict().items():
            assert torch.equal(tensor, before[name]), name
        assert loop.state.average is not None
        for name, average in loop.state.average.tensors.items():
            loop.state.model.get_parameter(name).data.copy_(average)
        loop.state.average = None
        assert loop.validate() == scores


def test_a_forecast_is_of_the_average_unless_the_last_weights_are_asked_for(
    averaged: Path, waves: Path, tmp_path: Path
) -> None:
    forecasts = {}
    chosen: dict[str, Weights | None] = {"default": None, "average": "average", "last": "last"}
    for name, weights in chosen.items():
        forecast(averaged, waves, INIT, 2, tmp_path / f"{name}.zarr", weights=weights)
        forecasts[name] = xr.open_zarr(tmp_path / f"{name}.zarr").load()
    assert forecasts["default"].identical(forecasts["average"])
    assert [each.attrs["weights"] for each in forecasts.values()] == ["average", "average", "last"]
    assert not forecasts["average"].equals(forecasts["last"])
    run = Run.open(averaged)
    tensors = stored(run.require_checkpoint())
    for name, parameter in run.load_model(weights="average").named_parameters():
        assert torch.equal(parameter, tensors[f"average.{name}"])


def test_an_average_that_was_not_kept_is_refused(waves: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", waves, scale=0.05)
    with pytest.raises(UserError, match="has no average of the weights: take the last ones"):
        forecast(run, waves, INIT, 1, tmp_path / "f.zarr", weights="average")
    assert not (tmp_path / "f.zarr.partial").exists()


def test_a_run_that_begins_from_another_takes_its_average(
    waves: Path, averaged: Path, tmp_path: Path
) -> None:
    tensors = stored(Run.open(averaged).require_checkpoint())
    with TrainingLoop.begin(config_of(waves), tmp_path / "run", source=averaged) as loop:
        for name, parameter in loop.state.model.named_parameters():
            assert torch.equal(parameter, tensors[f"average.{name}"])
            assert not torch.equal(parameter, tensors[f"model.{name}"])
