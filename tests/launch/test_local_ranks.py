"""Ranks that the command line starts on this machine, how they fail and how they are ended."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from support.processes import (
    DEADLINE_SECONDS,
    Processes,
    wait_for_pids,
    wait_until_gone,
    without_waits,
)
from support.ranked import RANKED
from support.selection import exhaustive
from weathermixer.cli import main, run_commands
from weathermixer.errors import STOPPED_EARLY, UserError
from weathermixer.interpreter import program
from weathermixer.launch.environment import rank_info, threads_per_rank
from weathermixer.launch.start import should_start_ranks


def begin(processes: Processes, *words: str | Path, **options: Any) -> subprocess.Popen[str]:
    """The script of ``support.ranked`` in a process of its own."""
    return processes.begin(RANKED, "work", *words, **options)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status, standard output, and standard error without what it says of waits."""
    out, err = process.communicate(timeout=DEADLINE_SECONDS)
    return process.returncode, out, without_waits(err)


def run(processes: Processes, *words: str | Path, **options: Any) -> tuple[int, str, str]:
    """Status, output and words of a process that is begun here and runs to its end."""
    return finish(begin(processes, *words, **options))


# --- starting


def test_each_rank_finds_its_place_in_the_environment(processes: Processes, tmp_path: Path) -> None:
    any_threads = {"OMP_NUM_THREADS": ""}
    words = ("report_environment", tmp_path, "--nproc", "3")
    assert run(processes, *words, environment=any_threads) == (0, "", "")
    for rank in range(3):
        environment = json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8"))
        info = rank_info(environment)
        assert (info.rank, info.world_size, info.local_rank, info.local_world_size) == (
            rank, 3, rank, 3,
        )  # fmt: skip
        assert isinstance(info.meeting, Path)
        assert environment["OMP_NUM_THREADS"] == str(threads_per_rank({}, 3))


def test_threads_are_those_that_the_user_chose(processes: Processes, tmp_path: Path) -> None:
    chosen = {"OMP_NUM_THREADS": "3"}
    run(processes, "report_environment", tmp_path, "--nproc", "2", environment=chosen)
    assert json.loads((tmp_path / "1.json").read_text(encoding="utf-8"))["OMP_NUM_THREADS"] == "3"


def test_one_rank_is_this_process(processes: Processes, tmp_path: Path) -> None:
    run(processes, "report_environment", tmp_path, "--nproc", "1")
    assert "RANK" not in json.loads((tmp_path / "0.json").read_text(encoding="utf-8"))


def test_only_the_first_rank_is_heard(processes: Processes, tmp_path: Path) -> None:
    assert run(processes, "print_much", tmp_path, "--nproc", "3") == (
        0,
        "result of rank 0\n",
        "words of rank 0\n",
    )


def test_ranks_meet_and_compute_with_the_threads_they_were_given(
    processes: Processes, tmp_path: Path
) -> None:
    status, out, _ = run(
        processes, "count", tmp_path, "--nproc", "2", environment={"OMP_NUM_THREADS": "1"}
    )
    assert (status, out) == (0, "2 ranks with 1 threads\n")


def test_ranks_get_the_words_that_the_user_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("data: {store: s.zarr}", encoding="utf-8")
    started: list[Any] = []
    monkeypatch.setattr(run_commands, "start_ranks", lambda *words, **_: started.append(words))
    words = ["train", str(config), "--training.steps=300", "--out", "r", "--json"]
    main_status(*words[:2], "--nproc", "2", *words[2:])
    main_status(*words[:3], "--nproc=2", *words[3:], "--traceback")
    assert started == [(program(*words), 2)] * 2


def test_nproc_is_refused_where_ranks_were_started(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "here"}.items():
        monkeypatch.setenv(name, text)
    assert not should_start_ranks(None)
    with pytest.raises(UserError, match="4 ranks were started by torchrun or srun"):
        should_start_ranks(2)


# --- failing


def test_a_mistake_on_every_rank_is_told_once(processes: Processes, tmp_path: Path) -> None:
    assert run(processes, "all_mistaken", tmp_path, "--nproc", "3") == (
        2,
        "",
        "Error: the same thing is wrong on every rank: put it right\n",
    )


@pytest.mark.parametrize(
    ("what", "status", "sentence"),
    [
        ("find_a_mistake", 2, "Error: what only rank 1 can see is wrong: put it right"),
        (
            "kill_itself",
            1,
            "Error: rank 2 was killed by SIGKILL (last heard in exchange N of step 1), so the "
            "other ranks were stopped: begin again",
        ),
        *exhaustive(
            (
                "have_an_error",
                1,
                "Error: ZeroDivisionError: this should not happen (an error of the program; "
                "--traceback shows where)",
            )
        ),
    ],
)
def test_the_first_cause_is_told_once_and_ends_all_ranks(
    what: str, status: int, sentence: str, processes: Processes, tmp_path: Path
) -> None:
    ended, out, err = run(processes, what, tmp_path, "--nproc", "3")
    said = re.sub(r"exchange \d+", "exchange N", err)
    assert (ended, out, said) == (status, "", sentence + "\n")
    wait_until_gone(wait_for_pids(tmp_path, 3))


@pytest.mark.parametrize(
    ("what", "end"),
    [
        ("end_silently", "ended with status 3 and without a word"),
        *exhaustive(("crash", "was killed by SIGSEGV")),
    ],
)
def test_a_rank_that_ends_without_a_word_is_named(
    what: str, end: str, processes: Processes, tmp_path: Path
) -> None:
    status, _, err = run(processes, what, tmp_path, "--nproc", "2")
    assert status == 1
    assert err == f"Error: rank 1 {end}, so the other ranks were stopped: begin again\n"


def test_a_failure_ends_ranks_that_wait_for_nobody(processes: Processes, tmp_path: Path) -> None:
    process = begin(processes, "wait", tmp_path, "--nproc", "3")
    pids = wait_for_pids(tmp_path, 3)
    os.kill(pids[1], signal.SIGKILL)
    status, _, err = finish(process)
    assert status == 1
    assert err.startswith("Error: rank 1 was killed by SIGKILL")
    wait_until_gone(pids)


def test_a_traceback_or_what_else_a_rank_wrote_is_shown_when_asked_for(
    processes: Processes, tmp_path: Path
) -> None:
    _, _, err = run(processes, "all_mistaken", tmp_path, "--nproc", "2", "--traceback")
    assert err.count("Traceback (most recent call last)") == 1
    _, _, err = run(processes, "end_silently", tmp_path, "--nproc", "2", "--traceback")
    assert err.startswith("the reason\n")


def test_ranks_end_with_the_process_that_started_them(processes: Processes, tmp_path: Path) -> None:
    # Nobody is left to remove the folder in which they met.
    elsewhere = {"TMPDIR": str(tmp_path)}
    process = begin(processes, "exchange", tmp_path, "--nproc", "2", environment=elsewhere)
    pids = wait_for_pids(tmp_path, 2)
    process.kill()
    wait_until_gone(pids)
    process.communicate()


# --- signals


@pytest.mark.parametrize("number", [signal.SIGUSR1, *exhaustive(signal.SIGTERM, signal.SIGINT)])
def test_ranks_finish_what_they_do_when_asked_to_stop(
    number: signal.Signals, processes: Processes, tmp_path: Path
) -> None:
    process = begin(processes, "stop_when_asked", tmp_path, "--nproc", "2", start_new_session=True)
    wait_for_pids(tmp_path, 2)
    # As a terminal does, and some schedulers more than once.
    os.killpg(process.pid, number)
    time.sleep(0.1)
    os.killpg(process.pid, number)
    status, out, err = finish(process)
    assert (status, out, err) == (STOPPED_EARLY, f"stopped by {number.name}\n", "")
    assert [(tmp_path / f"{rank}.stopped").read_text(encoding="utf-8") for rank in range(2)] == [
        number.name
    ] * 2


@pytest.mark.exhaustive
@pytest.mark.parametrize("number", [signal.SIGINT, *exhaustive(signal.SIGTERM)])
def test_ranks_that_end_at_once_are_interrupted(
    number: signal.Signals, processes: Processes, tmp_path: Path
) -> None:
    process = begin(processes, "exchange", tmp_path, "--nproc", "2")
    pids = wait_for_pids(tmp_path, 2)
    process.send_signal(number)
    status, _, err = finish(process)
    assert (status, err.strip()) == (1, "Interrupted.")
    wait_until_gone(pids)


@pytest.mark.exhaustive
@pytest.mark.parametrize("number", [signal.SIGINT, *exhaustive(signal.SIGTERM)])
@pytest.mark.parametrize("what", ["exchange", *exhaustive("stop_when_asked")])
def test_who_was_started_to_ignore_a_signal_ignores_it_with_all_ranks(
    what: str, number: signal.Signals, processes: Processes, tmp_path: Path
) -> None:
    process = begin(processes, what, tmp_path, "--nproc", "2", ignoring=[number])
    pids = wait_for_pids(tmp_path, 2)
    for pid in (process.pid, *pids):
        os.kill(pid, number)
    other = ({signal.SIGTERM, signal.SIGINT} - {number}).pop()
    assert [ignored(pid, number) for pid in (process.pid, *pids)] == [True] * 3
    assert [ignored(pid, other) for pid in (process.pid, *pids)] == [False] * 3
    # Alive, both heed the other signal.
    process.send_signal(other)
    status, out, err = finish(process)
    if what == "exchange":
        assert (status, err.strip()) == (1, "Interrupted.")
    else:
        assert (status, out) == (STOPPED_EARLY, f"stopped by {other.name}\n")
    wait_until_gone(pids)


def ignored(pid: int, number: signal.Signals) -> bool:
    """Whether a process ignores a signal, as the system says."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    mask = int(status.partition("SigIgn:")[2].split()[0], 16)
    return bool(mask >> (number - 1) & 1)


def main_status(*words: str | Path) -> int:
    """The exit status of a command, run in this process."""
    try:
        main([str(word) for word in words])
    except SystemExit as end:
        return int(end.code or 0)
    return 0
