"""The result of a training is read back as it was written, and left in the run's folder."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from rich.console import Console

from support.waves import wave_config
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Layout
from weathermixer.runs.run import Run
from weathermixer.training.history import StepReport
from weathermixer.training.loop import TrainingLoop
from weathermixer.training.result import TrainResult
from weathermixer.training.trainer import train
from weathermixer.training.validation import Validation

RESULT = TrainResult(
    layout=Layout(data=2, domain=1, tensor=3),
    dtype="float32",
    parameters=12,
    start_step=4,
    loss=[0.1, 1e-30],
    grad_norm=[1.0 / 3.0, 2.0],
    seconds_per_step=[0.5, 0.25],
    bytes_sent_per_step=[1, 2, 3, 4, 5, 6],
    bytes_read_per_step=[7] * 6,
    flops_per_step=[2**60] * 6,
    exchanges_per_step=[12] * 6,
    waited_for_data=[0.125] * 6,
    waited_for_ranks=[0.5, 0.25, None, None, None, None],
    peak_memory_bytes=[9] * 6,
    parameter_bytes=[10] * 6,
    optimizer_bytes=[11] * 6,
    saving_seconds=[0.5] * 6,
    samples_seen=40,
    checkpoint=Path("run") / "checkpoints" / "step-00000006",
    validation={6: Validation(0.125, {"2m_temperature": 0.1})},
    stopped_by="SIGTERM",
)


def test_a_result_is_read_back_equal() -> None:
    said = json.loads(json.dumps(RESULT.to_json()))
    assert TrainResult.from_json(said) == RESULT
    assert said["mesh"] == said["layout"] == {"data": 2, "domain": 1, "tensor": 3}
    assert said["world_size"] == 6


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    path = tmp_path / "training.json"
    for text in ("", "[]", "{}", '{"layout": 3}', json.dumps(RESULT.to_json())[:100]):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=r"training\.json cannot be read"):
            TrainResult.load(path)


def test_the_run_keeps_the_result_of_its_latest_training(
    waves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, console = tmp_path / "run", Console(quiet=True)
    step = TrainingLoop.step

    def asked_to_stop(loop: TrainingLoop) -> StepReport:
        if loop.state.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(loop)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "step", asked_to_stop)
        stopped = train(wave_config(waves), out, console=console)
    kept = TrainResult.load(Run.open(out).training_result)
    assert kept == stopped
    assert (kept.stopped_by, len(kept.loss)) == ("SIGTERM", 3)
    finished = train(wave_config(waves), out, resume=True, console=console)
    kept = TrainResult.load(Run.open(out).training_result)
    assert kept == finished
    assert (kept.stopped_by, kept.start_step, len(kept.loss)) == (None, 3, 9)
