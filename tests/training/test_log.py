"""What a training records and shows, and that a disk or terminal in trouble is said and no more."""

from __future__ import annotations

import errno
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from support.disk import full_disk
from weathermixer.training.log import RunLog
from weathermixer.training.notices import Notices
from weathermixer.training.progress import ProgressLine, notices_on

ABOUT = {"layout": {"data": 1, "domain": 2, "tensor": 1}}


def open_log(
    path: Path,
    say: Callable[[str], None] = pytest.fail,
    *,
    tensorboard: bool = False,
    start_step: int = 0,
) -> RunLog:
    """A log of a training on two ranks; what it says fails the test, unless it is listened to."""
    return RunLog(
        path,
        tensorboard=tensorboard,
        start_step=start_step,
        about=ABOUT,
        notices=Notices(say),
    )


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_continued_log_drops_what_will_be_written_again(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = open_log(path)
    for step in (1, 2, 3, 4):
        log.write(step, {"loss": step / 2})
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 5, "lo')  # torn by a kill
    open_log(path, start_step=2).write(3, {"loss": 9.0})
    assert records(path) == [
        {"step": 1, "loss": 0.5, **ABOUT},
        {"step": 2, "loss": 1.0},
        {"step": 3, "loss": 9.0, **ABOUT},
    ]


def test_a_validation_joins_the_record_of_its_step_also_when_it_comes_after_a_restart(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log.jsonl"
    log = open_log(path)
    log.write(1, {"loss": 1.0})
    log.write(2, {"loss": 0.5})
    assert log.lacks_validation(2)
    log.write(2, {"validation": {"loss": 0.75}})
    assert not log.lacks_validation(2)
    log.write(3, {"loss": 0.25})
    continued = open_log(path, start_step=3)
    assert continued.lacks_validation(3)
    continued.write(3, {"validation": {"loss": 0.5}})
    assert records(path) == [
        {"step": 1, "loss": 1.0, **ABOUT},
        {"step": 2, "loss": 0.5, "validation": {"loss": 0.75}},
        {"step": 3, "loss": 0.25, "validation": {"loss": 0.5}},
    ]


def test_tensorboard_gets_the_same_numbers_and_none_of_steps_that_are_taken_again(
    tmp_path: Path,
) -> None:
    log = open_log(tmp_path / "log.jsonl", tensorboard=True)
    log.write(10, {"loss": 0.5, "validation": {"relative_rmse": {"2m_temperature": 0.25}}})
    log.write(20, {"loss": 0.25})
    open_log(tmp_path / "log.jsonl", tensorboard=True, start_step=10).write(20, {"loss": 0.125})
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (10, 0.5),
        (20, 0.125),
    ]
    tag = "validation/relative_rmse/2m_temperature"
    assert [(event.step, event.value) for event in events.Scalars(tag)] == [(10, 0.25)]


def test_a_full_disk_is_said_once_and_leaves_whole_records(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    said: list[str] = []
    log = open_log(path, said.append, tensorboard=True)
    log.write(1, {"loss": 1.0})
    with full_disk(after_bytes=100):
        for step in range(2, 6):
            log.write(step, {"loss": 1.0})
    log.write(6, {"loss": 0.5})  # some space was freed
    assert [record["step"] for record in records(path)] == [1, 2, 6]
    assert [sentence.partition(" cannot be written")[0] for sentence in said] == [
        "TensorBoard's events",
        f"the log {path}",
    ]
    assert all("File too large" in sentence for sentence in said)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 6]


def test_a_folder_that_is_removed_is_said_once_and_costs_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    said: list[str] = []
    log = open_log(folder / "log.jsonl", said.append, tensorboard=True)
    log.write(1, {"loss": 1.0})
    shutil.rmtree(folder)
    for step in (2, 3):
        log.write(step, {"loss": 1.0})
    assert len(said) == 2
    assert all("No such file or directory" in sentence for sentence in said)
    folder.mkdir()
    log.write(4, {"loss": 0.5})
    assert [record["step"] for record in records(folder / "log.jsonl")] == [4]


def test_a_log_that_cannot_be_read_is_said_and_not_an_error(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").mkdir()
    said: list[str] = []
    log = open_log(tmp_path / "log.jsonl", said.append, start_step=4)
    assert log.lacks_validation(4)
    log.write(5, {"loss": 1.0})
    assert len(said) == 1
    assert "log.jsonl cannot be written (Is a directory)" in said[0]


class _BrokenTerminal(io.StringIO):
    """A terminal that is gone."""

    def __init__(self, number: int, *, is_terminal: bool) -> None:
        super().__init__()
        self._number, self._is_terminal = number, is_terminal

    def isatty(self) -> bool:
        return self._is_terminal

    def write(self, text: str) -> int:
        raise OSError(self._number, "gone")

    def flush(self) -> None:
        raise OSError(self._number, "gone")


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_terminal_that_is_gone_stops_nothing(number: int, is_terminal: bool) -> None:
    console = Console(
        file=_BrokenTerminal(number, is_terminal=is_terminal), force_terminal=is_terminal
    )
    notices = notices_on(console)
    with ProgressLine(console, notices, start_step=0, steps=2) as line:
        for step in (1, 2):
            line.update(step, 0.5, 1e-3, 42.0)
            notices.say_once("kind", "something could not be shown")


def test_lines_without_a_terminal_are_few_and_end_with_the_last_step() -> None:
    said = io.StringIO()
    console = Console(file=said, width=200)
    with ProgressLine(console, notices_on(console), start_step=100, steps=200) as line:
        for step in range(101, 201):
            line.update(step, 0.123456, 1e-3, 42.0)
    lines = said.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("step 101 of 200: loss 0.1235, rate 1.00e-03, 42 samples/s, ")
    assert lines[1].startswith("step 200 of 200: ") and lines[1].endswith("0 s left")
