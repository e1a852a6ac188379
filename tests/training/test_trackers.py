"""What services that keep the numbers of runs are told, through their libraries where installed."""

from __future__ import annotations

import json
import sys
import threading
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support.waves import wave_config
from weathermixer.config import Config
from weathermixer.training import trackers
from weathermixer.training.notices import Notices
from weathermixer.training.trackers import Trackers


def config_of(**logging: Any) -> Config:
    return wave_config(Path("waves.zarr"), logging=logging)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines that run tests may take long to load a library."""
    monkeypatch.setattr(trackers, "_SECONDS_TO_END", 300.0)


def track(config: Config, run: Path, records: Mapping[int, float], said: list[str]) -> None:
    """A training that logs some losses by their steps, and ends."""
    run.mkdir(exist_ok=True)
    services = Trackers(config, run, Notices(said.append))
    for step, loss in records.items():
        services.write(step, {"loss": loss, "validation/loss": 2 * loss})
    services.close()


def test_mlflow_has_the_numbers_of_a_run_that_was_continued_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed: extra tracking")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    said: list[str] = []
    config = config_of(mlflow=str(tmp_path / "mlruns"))
    track(config, tmp_path / "run", {10: 0.5, 20: 0.25}, said)
    track(config, tmp_path / "run", {30: 0.125}, said)
    assert said == []
    client = MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("weathermixer")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    history = client.get_metric_history(run.info.run_id, "validation/loss")
    assert [(each.step, each.value) for each in history] == [(10, 1.0), (20, 0.5), (30, 0.25)]
    assert run.data.params["training.steps"] == "12"
    assert run.data.params["data.store"] == "waves.zarr"


def test_wandb_keeps_a_run_that_was_continued_under_one_name_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed: extra tracking")
    monkeypatch.setenv("WANDB_MODE", "offline")
    said: list[str] = []
    config = config_of(wandb="weather")
    for records in ({10: 0.5}, {20: 0.25}):
        track(config, tmp_path / "run", records, said)
    assert said == []
    name = json.loads((tmp_path / "run" / "trackers.json").read_text())["wandb"]
    files = [*(tmp_path / "run" / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb")]
    assert files
    content = b"".join(file.read_bytes() for file in files)
    assert b"validation/loss" in content and b"training.steps" in content


class _Service:
    """Stands for a service's library: what it is told, and how it fails."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error, self.told = error, list[dict[str, Any]]()
        self.begun: dict[str, Any] = {}
        self.is_slow = threading.Event()
        self.goes_on = threading.Event()

    def module(self) -> Any:
        module: Any = types.ModuleType("wandb")
        module.init, module.Settings = self._init, dict
        return module

    def _init(self, **options: Any) -> _Service:
        self.begun = options
        return self

    def define_metric(self, *_: Any, **__: Any) -> None:
        pass

    def log(self, record: dict[str, Any]) -> None:
        if self.error is not None:
            raise self.error
        self.is_slow.set()
        self.goes_on.wait(20.0)
        self.told.append(record)

    def finish(self) -> None:
        pass


def test_a_service_is_told_each_step_and_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, said = _Service(), list[str]()
    service.goes_on.set()
    monkeypatch.setitem(sys.modules, "wandb", service.module())
    track(config_of(wandb="weather"), tmp_path / "run", {3: 0.5}, said)
    first = service.begun
    assert service.told == [{"step": 3, "loss": 0.5, "validation/loss": 1.0}]
    assert (first["project"], first["resume"], first["name"]) == ("weather", "allow", "run")
    assert first["config"]["training.steps"] == "12"
    track(config_of(wandb="weather"), tmp_path / "run", {4: 0.5}, said)
    assert service.begun["id"] == first["id"]
    assert said == []


@pytest.mark.parametrize(
    "error", [OSError(5, "away"), RuntimeError("no https://me:pw@h"), SystemExit(1)]
)
def test_a_service_that_fails_is_said_once(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, said = _Service(error), list[str]()
    monkeypatch.setitem(sys.modules, "wandb", service.module())
    track(config_of(wandb="weather"), tmp_path / "run", dict.fromkeys(range(5), 0.5), said)
    (sentence,) = said
    assert sentence.startswith("Weights & Biases gets no more of this training (")
    assert "log.jsonl has all numbers" in sentence
    assert "pw@" not in sentence


def test_a_service_that_is_slow_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "_MOST_WAITING", 3)
    service, said = _Service(), list[str]()
    monkeypatch.setitem(sys.modules, "wandb", service.module())
    services = Trackers(config_of(wandb="weather"), tmp_path, Notices(said.append))
    services.write(0, {"loss": 1.0})
    assert service.is_slow.wait(20.0)
    for step in range(1, 10):
        services.write(step, {"loss": 1.0})
    (sentence,) = said
    assert "it is too slow, and records are left out" in sentence
    service.goes_on.set()
    services.close()
    assert [record["step"] for record in service.told] == [0, 1, 2, 3]


def test_a_library_that_is_missing_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    said: list[str] = []
    track(config_of(mlflow=str(tmp_path)), tmp_path / "run", {1: 0.5}, said)
    (sentence,) = said
    assert "pip install 'weathermixer[tracking]'" in sentence


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="holds a password") as error:
        config_of(mlflow="https://me:s3cret@host")
    assert "MLFLOW_TRACKING_PASSWORD" in str(error.value)
