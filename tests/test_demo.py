from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weathermixer import demo
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
        demo.run_demo(tmp_path, days=60, steps=20, seed=0)
    assert (tmp_path / "run" / "checkpoints").exists()
    demo.run_demo(tmp_path, days=60, steps=20, seed=0)
    assert len(written) == 1
    said = capfd.readouterr()  # training runs in processes of its own
    assert "persistence" in said.out
    assert "all 20 steps were taken before" in said.err
    assert (tmp_path / "scores" / "scores.csv").exists()
    assert list((tmp_path / "scores").glob("*.png"))
    assert (tmp_path / "report.html").exists()
