from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from weathermixer import demo
from weathermixer.config import read_config
from weathermixer.config.lengths import longest_at
from weathermixer.data.feeding.periods import periods
from weathermixer.data.making.synthetic import write_synthetic
from weathermixer.data.store.store import Store


def test_forecasts_start_where_training_never_was_and_end_with_the_truth() -> None:
    times = np.datetime64("2001-01-01", "s") + np.arange(2000) * np.timedelta64(6, "h")
    train, _, test = periods(times)
    assert test is not None
    inits = demo.initial_times(times, test)
    assert len(inits) == demo.NUM_FORECASTS
    assert inits.min() > train[1]
    assert inits.max() + demo.FORECAST_STEPS * np.timedelta64(6, "h") <= times[-1]


def test_the_example_has_the_recipe() -> None:
    example = read_config(Path(__file__).parents[1] / "examples" / "planet.yaml")
    config = demo.demo_config(Path("planet.zarr"), steps=demo.STEPS, seed=0)
    for section in ("model", "data", "parallel", "training"):
        assert getattr(example, section) == getattr(config, section), section


@pytest.mark.parametrize("replicas", [1, 2])
def test_an_ensemble_has_as_many_states_in_a_step_and_longer_rollouts(replicas: int) -> None:
    config = demo.demo_config(Path("p.zarr"), steps=demo.STEPS, seed=0, replicas=replicas)
    ensemble = demo.ensemble_config(config)
    given, then = config.training, ensemble.training
    assert replicas * given.instance_batch == demo.SAMPLES_PER_STEP
    assert then.instance_batch * then.members == given.instance_batch
    assert longest_at(then.rollout, then.steps) == 2 * longest_at(given.rollout, given.steps)
    assert config.parallel == ensemble.parallel and ensemble.model.local_noise


@pytest.mark.exhaustive
def test_the_demonstration_continues_where_it_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Waves stand in for the planet, whose spin-up takes a minute and more."""
    written: list[Path] = []

    def waves(out: Path, *, days: int, grid: Any, seed: int, progress: Any) -> Store:
        written.append(out)
        return write_synthetic(out, times=4 * days, grid=grid, seed=seed, progress=progress)

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("weathermixer.data.making.planet.write_planet", waves)
    monkeypatch.setattr(demo, "FORECAST_STEPS", 4)
    monkeypatch.setattr(demo, "GRID", (8, 16))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("weathermixer.forecast.forecast.forecast", interrupted)
        patch.setattr(demo, "faster_arithmetic", lambda: "float32")
        demo.run_demo(tmp_path, days=60, steps=20, seed=0)
    assert (tmp_path / "run" / "checkpoints").exists()
    # A measurement may come out otherwise the next time.
    monkeypatch.setattr(demo, "faster_arithmetic", lambda: "bfloat16")
    demo.run_demo(tmp_path, days=60, steps=20, seed=0)
    assert len(written) == 1
    said = capfd.readouterr()  # training runs in processes of its own
    assert "persistence" in said.out
    assert "all 20 steps were taken before" in said.err
    assert (tmp_path / "scores" / "scores.csv").exists()
    assert list((tmp_path / "scores").glob("*.png"))
    assert (tmp_path / "report.html").exists()
    assert "made again on 2 ranks, differs by at most" in said.err
    assert read_config(tmp_path / "run" / "config.yaml").training.dtype == "float32"
    assert (tmp_path / "ensemble-scores" / "scores.json").exists()
    assert (tmp_path / "ensemble.html").exists()


def test_the_largest_difference_of_two_forecasts_is_found(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(2, 3, 4, 8))
    dimensions = ("time", "prediction_timedelta", "latitude", "longitude")
    coordinates = {"time": [0, 1], "prediction_timedelta": [6, 12, 18]}
    one = xr.Dataset({"t": (dimensions, values)}, coordinates)
    changed = values.copy()
    changed[1, 0, 2, 5] += 0.5
    changed[1, 2, 0, 0] -= 0.25
    other = xr.Dataset({"t": (dimensions, changed)}, coordinates).isel(time=[1])
    one.to_zarr(tmp_path / "one", consolidated=False)
    other.to_zarr(tmp_path / "other", consolidated=False)
    first, last = demo.largest_differences(tmp_path / "one", tmp_path / "other")
    assert first == pytest.approx(0.5 / values[1, 0].std())
    assert last == pytest.approx(0.25 / values[1, 2].std())
