from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from support.disk import full_disk
from weathermixer.errors import UserError
from weathermixer.training.log import ProgressLine, RunLog


def test_a_continued_log_drops_what_will_be_written_again(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with RunLog(path, tensorboard=False, start_step=0) as log:
        for step in (1, 2, 3, 4):
            log.write(step, {"loss": step / 2})
    path.write_text(path.read_text() + '{"step": 5, "lo')  # torn by a kill
    with RunLog(path, tensorboard=False, start_step=2) as log:
        log.write(3, {"loss": 9.0})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 1.0},
        {"step": 3, "loss": 9.0},
    ]


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with RunLog(tmp_path / "log.jsonl", tensorboard=True, start_step=0) as log:
        log.write(10, {"loss": 0.5, "validation": {"relative_rmse": {"2m_temperature": 0.25}}})
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(10, 0.5)]
    tag = "validation/relative_rmse/2m_temperature"
    assert [(event.step, event.value) for event in events.Scalars(tag)] == [(10, 0.25)]


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with (
        full_disk(after_bytes=50),
        pytest.raises(UserError, match=r"log\.jsonl cannot be written .File too large"),
        RunLog(tmp_path / "log.jsonl", tensorboard=False, start_step=0) as log,
    ):
        for step in range(1, 9):
            log.write(step, {"loss": 1.0})


def test_lines_without_a_terminal_are_few_and_end_with_the_last_step() -> None:
    said = io.StringIO()
    with ProgressLine(Console(file=said, width=200), start_step=100, steps=200) as line:
        for step in range(101, 201):
            line.update(step, 0.123456, 1e-3, 42.0)
    lines = said.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("step 101 of 200: loss 0.1235, rate 1.00e-03, 42 samples/s, ")
    assert lines[1].startswith("step 200 of 200: ") and lines[1].endswith("0 s left")
