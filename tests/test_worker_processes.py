"""Tasks run once each, in any number of processes, and fail as one."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from weathermixer.errors import UserError
from weathermixer.worker_processes import Tick, for_each


def leave_mark(folder: Path, task: int, tick: Tick) -> None:
    with (folder / str(task)).open("x") as file:
        file.write("done")
    tick()


def fail_at_three(folder: Path, task: int, tick: Tick) -> None:
    if task == 3:
        raise UserError("the third is wrong: leave it out")
    leave_mark(folder, task, tick)


@pytest.mark.parametrize("processes", [1, 2])
def test_every_task_runs_once_and_is_reported(tmp_path: Path, processes: int) -> None:
    reports: list[tuple[int, int]] = []
    for_each(
        partial(leave_mark, tmp_path),
        range(7),
        processes=processes,
        ticks=7,
        progress=lambda done, total: reports.append((done, total)),
    )
    assert sorted(int(file.name) for file in tmp_path.iterdir()) == list(range(7))
    assert reports[-1] == (7, 7)


@pytest.mark.parametrize("processes", [1, 2])
def test_error_of_a_task_reaches_the_caller_and_ends_the_others(
    tmp_path: Path, processes: int
) -> None:
    with pytest.raises(UserError, match="the third is wrong: leave it out"):
        for_each(partial(fail_at_three, tmp_path), range(2000), processes=processes, ticks=2000)
    assert len(list(tmp_path.iterdir())) < 1999


def test_no_tasks_are_no_work(tmp_path: Path) -> None:
    for_each(partial(leave_mark, tmp_path), [], processes=4, ticks=0)
    assert not list(tmp_path.iterdir())
