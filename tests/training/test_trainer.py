from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from oracles.loss import increment_loss
from support.architectures import SMALL
from support.waves import LATITUDE, state, wave_config, write_waves
from weathermixer.config import Config
from weathermixer.data.feeding.read_ahead import Batch
from weathermixer.data.store.store import Store
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import LayoutError
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.cuts import build
from weathermixer.runs.run import Run
from weathermixer.training.loop import TrainingLoop
from weathermixer.training.loss import recent_and_targets, rollout_loss
from weathermixer.training.result import TrainResult
from weathermixer.training.trainer import train

QUIET = Console(quiet=True)


def _train(config: Config, out: Path, **options: Any) -> TrainResult:
    return train(config, out, console=QUIET, **options)


def _weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(Run.open(run).load_model().state_dict())


@pytest.fixture(scope="module")
def learned(waves: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    """A run long enough to learn the waves."""
    out = tmp_path_factory.mktemp("run") / "run"
    config = wave_config(
        waves,
        training={"steps": 150, "warmup_steps": 10, "learning_rate": 5e-3, "validate_every": 75},
        checkpoint={"every": 100},
        logging={"every": 10, "tensorboard": True},
    )
    return out, _train(config, out)


def test_training_learns_the_waves(learned: tuple[Path, TrainResult]) -> None:
    _, result = learned
    assert np.mean(result.loss[-10:]) < 0.05 * np.mean(result.loss[:10])
    assert max(result.validation[150].relative_rmse.values()) < 0.3


def test_the_result_is_the_promised_json(learned: tuple[Path, TrainResult]) -> None:
    out, result = learned
    said = json.loads(json.dumps(result.to_json()))
    assert said["layout"] == {"data": 1, "domain": 1, "tensor": 1}
    assert (said["world_size"], said["dtype"], said["start_step"]) == (1, "float32", 0)
    assert said["parameters"] == sum(weight.numel() for weight in _weights(out).values())
    for key in ("loss", "grad_norm", "seconds_per_step"):
        assert len(said[key]) == 150
    assert said["bytes_sent_per_step"] == [0]
    assert said["bytes_read_per_step"] == [2 * 2 * 2 * 8 * 16 * 4]
    assert said["parameter_bytes"] == [4 * said["parameters"]]
    assert said["optimizer_bytes"] == [8 * said["parameters"]]
    assert said["peak_memory_bytes"][0] > 1e7
    assert said["checkpoint"] == str(out / "checkpoints" / "step-00000150")
    assert set(said["validation"]) == {"75", "150"}


def test_the_run_holds_logs_events_and_the_newest_checkpoints(
    learned: tuple[Path, TrainResult],
) -> None:
    out, result = learned
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == sorted({*range(10, 151, 10), 75})
    assert lines[-1]["loss"] == result.loss[-1]
    assert lines[-1]["validation"]["loss"] == result.validation[150].loss
    assert lines[-1]["samples"] == 300
    assert len(list(out.glob("events.out.tfevents.*"))) == 1
    assert [path.name for path in sorted((out / "checkpoints").iterdir())] == [
        "step-00000100",
        "step-00000150",
    ]


def test_the_same_seed_gives_the_same_bits_and_another_does_not(
    waves: Path, tmp_path: Path
) -> None:
    def run(name: str, seed: int) -> tuple[list[float], list[float], dict[str, bytes]]:
        config = wave_config(
            waves,
            model={"dropout": 0.1},
            training={"seed": seed, "rollout": {0: 1, 5: 2}},
        )
        result = _train(config, tmp_path / name)
        files = {file.name: file.read_bytes() for file in result.checkpoint.iterdir()}
        return result.loss, result.grad_norm, files

    one = run("one", 3)
    assert run("two", 3) == one
    assert run("three", 4)[0] != one[0]


def test_the_first_loss_is_that_of_persistence(waves: Path, tmp_path: Path) -> None:
    """The increment network starts from nothing added, so its loss is known."""
    config = wave_config(waves, training={"dtype": "float64", "steps": 1, "warmup_steps": 0})
    with TrainingLoop.begin(config, tmp_path / "run") as loop:
        batch = loop.next_batch()
        step = loop.step(batch)
    normalisation = loop.run.normalisation
    states = np.stack([[state(index) for index in row] for row in batch.indices])
    states = states.astype(np.float64)
    normal = normalisation.normalise(states)
    expected = increment_loss(
        normal[:, 0], normal[:, 1], normalisation.std, normalisation.step_std, LATITUDE
    )
    assert step.loss == pytest.approx(expected, rel=1e-12)


def test_bfloat16_stays_close_to_float32_and_float64_closer(waves: Path, tmp_path: Path) -> None:
    losses = {
        dtype: np.array(
            _train(
                wave_config(waves, training={"dtype": dtype, "steps": 20}), tmp_path / dtype
            ).loss
        )
        for dtype in ("float64", "float32", "bfloat16")
    }
    np.testing.assert_allclose(losses["float32"], losses["float64"], rtol=2e-4)
    np.testing.assert_allclose(losses["bfloat16"], losses["float64"], rtol=0.05)
    assert losses["float64"][-1] < losses["float64"][0]


def test_the_published_recipe_trains(waves: Path, tmp_path: Path) -> None:
    values = wave_config(waves).model_dump(exclude_unset=True)
    values["model"] |= {"prediction": "state"}
    values["training"] |= {
        "loss": "published", "optimizer": "adam", "edge_learning_rate": 5e-3, "steps": 60,
        "learning_rate": 2e-2, "cycle_steps": 40,
    }  # fmt: skip
    result = _train(Config.model_validate(values), tmp_path / "run")
    assert np.mean(result.loss[-5:]) < 0.7 * np.mean(result.loss[:5])


COARSE = replace(SMALL, grid=(4, 6), patch=(2, 3))


@pytest.mark.parametrize("prediction", ["increment", "state"])
@pytest.mark.parametrize("rollout", [1, 3])
def test_operations_are_those_that_torch_counts(
    prediction: Literal["increment", "state"], rollout: int
) -> None:
    architecture = replace(COARSE, prediction=prediction)
    mesh = Mesh.describe()
    model = build(architecture, mesh, seed=0, increment_scale=torch.ones(5))
    with FlopCounterMode(display=False) as counted:
        states, static = torch.ones(3, rollout + 1, 5, 4, 6), torch.ones(2, 4, 6)
        parts = recent_and_targets(states, 1)
        rollout_loss(model, *parts, static, torch.ones(5, 4, 1))[0].backward()
    assert 2 * mesh.counter.multiply_adds == counted.get_total_flops()


@pytest.mark.parametrize("prediction", ["increment", "state"])
def test_gradients_of_a_rollout_are_its_finite_differences(
    prediction: Literal["increment", "state"],
) -> None:
    model = build(
        replace(COARSE, prediction=prediction),
        Mesh.describe(),
        seed=0,
        increment_scale=torch.linspace(0.2, 0.6, 5, dtype=torch.float64),
        dtype=torch.float64,
    )
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    for parameter in model.parameters():
        parameter.data += 0.1 * draw(*parameter.shape)
    states, static = draw(2, 4, 5, 4, 6), draw(2, 4, 6)
    weights = draw(5, 4, 1).square()

    def loss() -> torch.Tensor:
        return rollout_loss(model, *recent_and_targets(states, 1), static, weights)[0]

    loss().backward()
    for parameter in model.parameters():
        direction, size = draw(*parameter.shape), 1e-6
        assert parameter.grad is not None
        slope = float((parameter.grad * direction).sum())
        with torch.no_grad():
            parameter.add_(size * direction)
            above = loss().item()
            parameter.sub_(2 * size * direction)
            below = loss().item()
            parameter.add_(size * direction)
        assert slope == pytest.approx((above - below) / (2 * size), rel=1e-5, abs=1e-7)


def test_the_gradient_norm_is_reported_before_clipping(waves: Path, tmp_path: Path) -> None:
    loose = wave_config(waves, training={"steps": 1, "warmup_steps": 0, "clip_norm": 1e6})
    tight = wave_config(waves, training={"steps": 1, "warmup_steps": 0, "clip_norm": 1e-6})
    one, other = _train(loose, tmp_path / "a"), _train(tight, tmp_path / "b")
    assert one.grad_norm == other.grad_norm
    assert one.grad_norm[0] > 1e-3


def test_nan_stops_before_the_step_and_names_where_it_arose(
    waves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = wave_config(waves, training={"rollout": 2})
    _train(config, tmp_path / "whole")
    next_batch = TrainingLoop.next_batch

    def spoiled(loop: TrainingLoop) -> Batch:
        batch = next_batch(loop)
        if loop.state.step == 6:
            batch.states[1, 2, 1, 3, 4] = float("nan")
        return batch

    monkeypatch.setattr(TrainingLoop, "next_batch", spoiled)
    with pytest.raises(UserError) as caught:
        _train(config, tmp_path / "run")
    said = str(caught.value)
    assert "the loss of step 7 is NaN or infinite" in said
    assert "step-00000004 is the last good checkpoint" in said
    assert said.count("2001-01-") >= 2
    assert "before it changed the weights" in said
    # What was learned until then is as good as ever.
    monkeypatch.undo()
    _train(config, tmp_path / "run", resume=True)
    assert _same(_weights(tmp_path / "run"), _weights(tmp_path / "whole"))


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_that_diverges_says_so(waves: Path, tmp_path: Path) -> None:
    config = wave_config(
        waves,
        training={"learning_rate": 1e30, "clip_norm": 1e30, "warmup_steps": 0, "steps": 9},
    )
    with pytest.raises(UserError, match=r"NaN or infinite .*lower training\.learning_rate"):
        _train(config, tmp_path / "run")


def test_the_console_shows_loss_rate_speed_and_time_left(waves: Path, tmp_path: Path) -> None:
    said = io.StringIO()
    train(wave_config(waves), tmp_path / "run", console=Console(file=said, width=200))
    lines = said.getvalue().splitlines()
    assert lines[0].startswith("mesh 1x1x1 ") and "predicted" in lines[0]
    assert lines[1].startswith("step 1 of 12: loss ")
    assert any("rate 2.00e-03" in line or "samples/s" in line for line in lines)
    assert lines[-2].startswith("step 12: validation loss")
    assert lines[-1].startswith("a step took ") and "predicted" in lines[-1]
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, width=200)
    train(wave_config(waves), tmp_path / "other", console=console)
    assert "12/12" in terminal.getvalue()


@pytest.mark.parametrize(
    ("parallel", "said"),
    [
        (
            {"domain": 3, "tensor": 2},
            r"data \(1\) × domain \(3\) × tensor \(2\) = 6 ranks, but 1 was started",
        ),
        ({"data": 2}, r"parallel\.data \(2\) does not divide the number of ranks \(1\)"),
    ],
)
def test_more_ranks_than_were_started_are_refused(
    waves: Path, tmp_path: Path, parallel: dict[str, int], said: str
) -> None:
    with pytest.raises(LayoutError, match=said):
        _train(wave_config(waves, parallel=parallel), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_store_of_another_step_is_refused(tmp_path: Path) -> None:
    store = write_waves(tmp_path / "s.zarr", times=20, hours=3)
    with pytest.raises(UserError, match=r"data\.step_hours=3"):
        _train(wave_config(store), tmp_path / "run")


def test_a_validation_period_that_was_asked_for_must_hold_samples(
    waves: Path, tmp_path: Path
) -> None:
    config = wave_config(
        waves,
        data={"train": "2001-01-01/2001-01-05", "validation": "2001-01-06/2001-01-06T00"},
    )
    with pytest.raises(UserError, match=r"data\.validation .* holds 1 of the store's times"):
        _train(config, tmp_path / "run")


def test_a_store_too_short_to_validate_on_still_trains(tmp_path: Path) -> None:
    store = write_waves(tmp_path / "s.zarr", times=6)
    said = io.StringIO()
    result = train(wave_config(store), tmp_path / "run", console=Console(file=said, width=200))
    assert result.validation == {}
    assert "there will be no validation" in said.getvalue()


def test_a_damaged_state_ends_the_training_by_name(tmp_path: Path) -> None:
    path = write_waves(tmp_path / "s.zarr", times=20)
    file = next(file for file in (path / "state" / "c" / "7").rglob("*") if file.is_file())
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(UserError, match=str(Store.open(path).times[7])):
        _train(wave_config(path, training={"steps": 40}), tmp_path / "run")
