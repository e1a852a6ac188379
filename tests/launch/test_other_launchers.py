"""Ranks that torchrun or somebody else started, which meet and fail as one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.processes import (
    DEADLINE_SECONDS,
    Processes,
    free_port,
    hand_started_rank,
    wait_for_pids,
    wait_until_gone,
    without_waits,
)
from support.ranked import RANKED
from support.selection import exhaustive
from weathermixer.errors import UserError
from weathermixer.launch.coordinator import Coordinator
from weathermixer.launch.environment import MeetingAddress, RankInfo
from weathermixer.launch.failures import LastWords, RanksMissing
from weathermixer.launch.meeting import meet
from weathermixer.launch.participant import Participant

UNKNOWN_KEY = "model.ptach: there is no such key"


def begin_by_hand(
    processes: Processes, *words: Sequence[str | Path]
) -> list[subprocess.Popen[str]]:
    """One rank for each list of words, which meet at an address of this machine."""
    port = free_port()
    return [
        processes.begin(*own, environment=hand_started_rank(rank, len(words), port))
        for rank, own in enumerate(words)
    ]


def ends(ranks: Sequence[subprocess.Popen[str]]) -> tuple[list[int], list[str]]:
    """Exit status and standard error of each rank."""
    said = [rank.communicate(timeout=DEADLINE_SECONDS)[1] for rank in ranks]
    return [rank.returncode for rank in ranks], [without_waits(text) for text in said]


@pytest.fixture
def configs(tmp_path: Path) -> tuple[Path, Path]:
    """A configuration with a mistake, and one without."""
    wrong, right = tmp_path / "wrong.yaml", tmp_path / "right.yaml"
    wrong.write_text("{model: {ptach: [4, 4]}, data: {store: s.zarr}}", encoding="utf-8")
    right.write_text("data: {store: s.zarr}", encoding="utf-8")
    return wrong, right


def train(config: Path) -> list[str | Path]:
    return ["-m", "weathermixer", "train", config, "--out", config.parent / "run"]


# --- a mistake is told once


@pytest.mark.exhaustive
def test_a_mistake_of_all_ranks_is_told_by_one(
    processes: Processes, configs: tuple[Path, Path]
) -> None:
    wrong, _ = configs
    statuses, said = ends(begin_by_hand(processes, train(wrong), train(wrong), train(wrong)))
    assert statuses == [2, 2, 2]
    assert said[1:] == ["", ""]
    assert said[0].startswith(f"Error: {UNKNOWN_KEY}")
    assert "rank" not in said[0]


def test_a_mistake_of_the_command_line_is_told_by_one(processes: Processes, tmp_path: Path) -> None:
    words = ["-m", "weathermixer", "train", "c.yaml", "--out"]
    statuses, said = ends(begin_by_hand(processes, words, words))
    assert statuses == [2, 2]
    assert said[1] == ""
    assert said[0].splitlines()[-1] == "Error: Option '--out' requires an argument."


def test_a_mistake_of_one_rank_alone_is_told_once_with_its_rank(
    processes: Processes, configs: tuple[Path, Path]
) -> None:
    wrong, right = configs
    statuses, said = ends(begin_by_hand(processes, train(right), train(wrong)))
    assert statuses == [2, 2]
    assert said[1] == ""
    assert said[0].startswith(f"Error: {UNKNOWN_KEY}")
    assert said[0].count("Error") == 1
    assert "(rank 1 on " in said[0]


@pytest.mark.parametrize(
    ("what", "rank", "status", "sentence"),
    [
        *exhaustive(
            ("find_a_mistake", 1, 2, "what only rank 1 can see is wrong: put it right"),
            ("have_an_error", 1, 1, "ZeroDivisionError: this should not happen"),
        ),
        ("kill_itself", 2, 1, "rank 2 on {host} ended without a word"),
    ],
)  # fmt: skip
def test_a_failure_at_work_is_told_once_and_names_the_rank(
    what: str, rank: int, status: int, sentence: str, processes: Processes, tmp_path: Path
) -> None:
    words: list[str | Path] = [RANKED, "work", what, tmp_path]
    statuses, said = ends(begin_by_hand(processes, words, words, words))
    killed = {2: -signal.SIGKILL} if what == "kill_itself" else {}
    assert statuses == [killed.get(rank, status) for rank in range(3)]
    assert said[1:] == ["", ""]
    host = os.uname().nodename
    assert said[0].startswith("Error: " + sentence.format(host=host))
    assert f"rank {rank} on {host}" in said[0]
    assert len(said[0].splitlines()) == 1


def test_the_end_of_the_first_rank_is_told_by_another_and_ends_all(
    processes: Processes, tmp_path: Path
) -> None:
    words: list[str | Path] = [RANKED, "work", "exchange", tmp_path]
    ranks = begin_by_hand(processes, words, words, words)
    pids = wait_for_pids(tmp_path, 3)
    ranks[0].kill()
    statuses, said = ends(ranks)
    assert statuses == [-signal.SIGKILL, 1, 1]
    assert said[1].startswith("Error: rank 0 on 127.0.0.1 ended without a word")
    assert said[2] == ""
    wait_until_gone(pids)


def test_ranks_that_nobody_disturbs_end_in_order(processes: Processes, tmp_path: Path) -> None:
    words: list[str | Path] = [RANKED, "work", "count", tmp_path]
    ranks = begin_by_hand(processes, words, words)
    out = ranks[0].communicate(timeout=DEADLINE_SECONDS)[0]
    assert out == "2 ranks with 1 threads\n"
    assert ends(ranks[1:]) == ([0], [""])


def test_ranks_of_an_unknown_launcher_are_refused_by_one(
    processes: Processes, configs: tuple[Path, Path]
) -> None:
    _, right = configs
    ranks = [
        processes.begin(
            *train(right),
            environment={"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    statuses, said = ends(ranks)
    assert statuses == [2, 2]
    assert said[0].startswith("Error: 2 ranks were started by a launcher that WeatherMixer does")
    assert said[1] == ""


# --- torchrun itself, whose own words cannot be kept away


TORCHRUN = shutil.which("torchrun", path=str(Path(sys.executable).parent))


@pytest.mark.exhaustive
@pytest.mark.skipif(TORCHRUN is None, reason="torchrun is installed beside no Python but PyTorch's")
@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        *exhaustive(
            ("all_mistaken", "Error: the same thing is wrong on every rank: put it right\n")
        ),
        ("find_a_mistake", "Error: what only rank 1 can see is wrong: put it right (rank 1 on "),
        ("kill_itself", "Error: rank 2 on "),
    ],
)
def test_under_torchrun_a_failure_is_told_once(
    what: str, sentence: str, processes: Processes, tmp_path: Path
) -> None:
    assert TORCHRUN is not None
    words: list[str | Path] = [TORCHRUN, "--nproc-per-node", "3", RANKED, "work", what, tmp_path]
    status, _, err = processes.run(*words)
    assert status == 1
    assert err.count(sentence) == 1
    assert sum(line.startswith("Error: ") for line in err.splitlines()) == 1


# --- meeting


def info(rank: int, world_size: int, port: int) -> RankInfo:
    address = MeetingAddress("127.0.0.1", port)
    return RankInfo(rank, world_size, rank, world_size, meeting=address, host=f"host{rank}")


def test_who_did_not_come_is_named_when_time_is_up(capfd: pytest.CaptureFixture[str]) -> None:
    coordinator = Coordinator(info(0, 4, 1234), remedy="", seconds_to_meet=3.0)
    other = Participant(info(2, 4, 1234), "127.0.0.1", coordinator.port, remedy="")
    with pytest.raises(RanksMissing) as refusal:
        coordinator.wait_for_all()
    said = str(refusal.value)
    assert said.startswith("only 2 of 4 ranks came to 127.0.0.1:1234 within 0.05 minutes")
    assert "ranks 1, 3 did not" in said
    capfd.readouterr()
    other._reporting = True  # so that this process outlives it
    coordinator.report(words(f"Error: {said}"), show_traceback=False)
    assert capfd.readouterr().err == f"Error: {said}\n"


def test_a_rank_that_is_there_already_is_refused() -> None:
    coordinator = Coordinator(info(0, 3, 1234), remedy="")
    Participant(info(2, 3, 1234), "127.0.0.1", coordinator.port, remedy="")
    again = Participant(info(2, 3, 1234), "127.0.0.1", coordinator.port, remedy="")
    with pytest.raises(UserError, match=r"rank 2 of 3 came to 127\.0\.0\.1:1234, where 3"):
        again.wait_for_all()


def test_a_port_that_is_taken_is_named() -> None:
    coordinator = Coordinator(info(0, 2, 1), remedy="")
    taken = info(0, 2, coordinator.port)
    assert isinstance(taken.meeting, MeetingAddress)
    with pytest.raises(UserError, match=f"cannot listen at port {coordinator.port}"):
        meet(taken, taken.meeting, remedy="")


def test_a_first_rank_that_does_not_come_is_named() -> None:
    port = free_port()
    late = info(1, 2, port)
    assert isinstance(late.meeting, MeetingAddress)
    with pytest.raises(
        RanksMissing, match=f"rank 1 on host1 did not find rank 0 at 127.0.0.1:{port}"
    ):
        meet(late, late.meeting, remedy="", seconds=0.5)


def test_a_lone_rank_says_soon_for_whom_it_waits(
    processes: Processes, configs: tuple[Path, Path]
) -> None:
    environment = hand_started_rank(0, 4, free_port())
    process = processes.begin(*train(configs[1]), environment=environment)
    assert process.stderr is not None
    for line in process.stderr:
        if "3 of 4 ranks (ranks 1 to 3) to come to 127.0.0.1:" in line:
            assert "for 5 minutes at most" in line
            break
    else:
        pytest.fail("it ended without a word on the others")


# --- which failure caused the others


def words(sentence: str, *, status: int = 1, lost: bool = False, at: float = 0.0) -> LastWords:
    return LastWords(sentence, status, lost, False, "", at)


def test_a_rank_that_only_lost_another_is_not_the_cause(capfd: pytest.CaptureFixture[str]) -> None:
    coordinator = Coordinator(info(0, 2, 1234), remedy="begin again")
    other = Participant(info(1, 2, 1234), "127.0.0.1", coordinator.port, remedy="")
    coordinator.wait_for_all()
    other._reporting = True  # so that this process outlives it
    other._connection.send(
        {"failed": vars(words("Error: too hot", status=2, at=2.0)), "show_traceback": False}
    )
    status = coordinator.report(words("Error: lost rank 1", lost=True), show_traceback=False)
    assert status == 2
    assert capfd.readouterr().err == "Error: too hot (rank 1 on host1)\n"
