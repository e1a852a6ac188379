from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from weathermixer.cli import main
from weathermixer.config import Config
from weathermixer.errors import UserError
from weathermixer.launch.agree import disagreement, settings_of
from weathermixer.launch.place import Place, own_gpu, place_in, threads_per_rank
from weathermixer.launch.start import starts_ranks

SCRIPT = Path(__file__).parent / "support" / "ranked.py"
DEADLINE_SECONDS = 120
NOTHING: Mapping[str, str] = MappingProxyType({})


def begin(
    *words: str | Path, environment: Mapping[str, str] = NOTHING, **options: Any
) -> subprocess.Popen[str]:
    """The script in a process of its own, whose environment names no ranks but those given."""
    inherited = {name: text for name, text in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**inherited, **environment},
        **options,
    )


def run(*words: str | Path, environment: Mapping[str, str] = NOTHING) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    process = begin(*words, environment=environment)
    out, err = process.communicate(timeout=DEADLINE_SECONDS)
    return process.returncode, out, err


def wait_for_pids(folder: Path, ranks: int) -> list[int]:
    """The processes of the ranks, once all of them are at work."""
    end = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < end:
        pids = [file.read_text() for file in sorted(folder.glob("*.pid"))]
        if len(pids) == ranks and all(pids):
            return [int(pid) for pid in pids]
        time.sleep(0.05)
    raise TimeoutError("the ranks did not begin")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # One that has ended stays in the table until somebody asks for its status.
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(pids: list[int]) -> None:
    end = time.monotonic() + DEADLINE_SECONDS
    while any(map(is_alive, pids)):
        if time.monotonic() > end:
            raise TimeoutError("a rank outlived the others")
        time.sleep(0.05)


# --- starting


def test_each_rank_finds_its_place_in_the_environment(tmp_path: Path) -> None:
    assert run("work", "report_environment", tmp_path, "--nproc", "3") == (0, "", "")
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    for rank, environment in enumerate(found):
        place = place_in(environment)
        assert place == Place(rank, 3, rank, 3, found[0]["WEATHERMIXER_RENDEZVOUS"])
        assert place.rendezvous.startswith("file:///")
        assert environment["OMP_NUM_THREADS"] == str(threads_per_rank({}, 3))


def test_threads_are_those_that_the_user_chose(tmp_path: Path) -> None:
    chosen = {"OMP_NUM_THREADS": "3"}
    run("work", "report_environment", tmp_path, "--nproc", "2", environment=chosen)
    assert json.loads((tmp_path / "1.json").read_text())["OMP_NUM_THREADS"] == "3"


def test_one_rank_is_this_process(tmp_path: Path) -> None:
    run("work", "report_environment", tmp_path, "--nproc", "1")
    assert "RANK" not in json.loads((tmp_path / "0.json").read_text())


def test_only_the_first_rank_is_heard(tmp_path: Path) -> None:
    assert run("work", "print_much", tmp_path, "--nproc", "3") == (
        0,
        "result of rank 0\n",
        "words of rank 0\n",
    )


def test_ranks_meet_and_compute_with_the_threads_they_were_given(tmp_path: Path) -> None:
    status, out, _ = run(
        "work", "count", tmp_path, "--nproc", "2", environment={"OMP_NUM_THREADS": "1"}
    )
    assert (status, out) == (0, "2 ranks with 1 threads\n")


def test_train_starts_itself_on_each_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("data: {store: s.zarr}")
    started: list[Any] = []
    monkeypatch.setattr("weathermixer.cli.start_ranks", lambda *words, **_: started.append(words))
    main_status("train", config, "--out", "r", "--nproc=2", "--training.steps=300", "--json")
    words = ["train", str(config), "--training.steps=300", "--out", "r", "--json"]
    assert started == [([sys.executable, "-m", "weathermixer", *words], 2)]


def test_nproc_is_refused_where_ranks_were_started(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "here"}.items():
        monkeypatch.setenv(name, text)
    assert not starts_ranks(None)
    with pytest.raises(UserError, match="4 ranks were started by torchrun or srun"):
        starts_ranks(2)


# --- failing


def test_a_mistake_on_every_rank_is_told_once(tmp_path: Path) -> None:
    assert run("work", "all_mistaken", tmp_path, "--nproc", "3") == (
        2,
        "",
        "Error: the same thing is wrong on every rank: put it right\n",
    )


@pytest.mark.parametrize(
    ("what", "status", "sentence"),
    [
        ("find_a_mistake", 2, "Error: what only rank 1 can see is wrong: put it right"),
        (
            "have_an_error",
            1,
            "Error: ZeroDivisionError: this should not happen (an error of the program; "
            "--traceback shows where)",
        ),
        (
            "kill_itself",
            1,
            "Error: rank 2 was killed by SIGKILL, so the other ranks were stopped: begin again",
        ),
    ],
)
def test_the_first_cause_is_told_once_and_ends_all_ranks(
    what: str, status: int, sentence: str, tmp_path: Path
) -> None:
    assert run("work", what, tmp_path, "--nproc", "3") == (status, "", sentence + "\n")
    wait_until_gone(wait_for_pids(tmp_path, 3))


@pytest.mark.parametrize(
    ("what", "end"),
    [
        ("end_silently", "ended with status 3 and without a word"),
        ("crash", "was killed by SIGSEGV"),
    ],
)
def test_a_rank_that_ends_without_a_word_is_named(what: str, end: str, tmp_path: Path) -> None:
    status, _, err = run("work", what, tmp_path, "--nproc", "2")
    assert status == 1
    assert err == f"Error: rank 1 {end}, so the other ranks were stopped: begin again\n"


def test_a_failure_ends_ranks_that_wait_for_nobody(tmp_path: Path) -> None:
    process = begin("work", "wait", tmp_path, "--nproc", "3")
    pids = wait_for_pids(tmp_path, 3)
    os.kill(pids[1], signal.SIGKILL)
    _, err = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 1
    assert err.startswith("Error: rank 1 was killed by SIGKILL")
    wait_until_gone(pids)


def test_a_traceback_or_what_else_a_rank_wrote_is_shown_when_asked_for(tmp_path: Path) -> None:
    _, _, err = run("work", "all_mistaken", tmp_path, "--nproc", "2", "--traceback")
    assert err.count("Traceback (most recent call last)") == 1
    _, _, err = run("work", "end_silently", tmp_path, "--nproc", "2", "--traceback")
    assert err.startswith("the reason\n")


def test_ranks_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    # Nobody is left to remove the folder in which they met.
    elsewhere = {"TMPDIR": str(tmp_path)}
    process = begin("work", "exchange", tmp_path, "--nproc", "2", environment=elsewhere)
    pids = wait_for_pids(tmp_path, 2)
    process.kill()
    wait_until_gone(pids)
    process.communicate()


def test_a_rank_that_nobody_of_ours_started_names_the_neighbour_it_lost(tmp_path: Path) -> None:
    def environment(rank: int) -> dict[str, str]:
        rendezvous = (tmp_path / "rendezvous").as_uri()
        return {"RANK": str(rank), "WORLD_SIZE": "2", "WEATHERMIXER_RENDEZVOUS": rendezvous}

    ranks = [
        begin("work", "find_a_mistake", tmp_path, environment=environment(rank))
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=DEADLINE_SECONDS)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [1, 2]
    assert "Error: rank 0 lost its connection to rank 1" in said[0]
    assert "an error of the program" not in said[0]
    assert said[1].endswith("Error: what only rank 1 can see is wrong: put it right\n")


# --- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ranks_finish_what_they_do_when_asked_to_stop(
    number: signal.Signals, tmp_path: Path
) -> None:
    process = begin("work", "stop_when_asked", tmp_path, "--nproc", "2", start_new_session=True)
    wait_for_pids(tmp_path, 2)
    # As a terminal does, and some schedulers more than once.
    os.killpg(process.pid, number)
    time.sleep(0.1)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=DEADLINE_SECONDS)
    assert (process.returncode, out, err) == (0, f"stopped by {number.name}\n", "")
    assert [(tmp_path / f"{rank}.stopped").read_text() for rank in range(2)] == [number.name] * 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ranks_that_end_at_once_are_interrupted(number: signal.Signals, tmp_path: Path) -> None:
    process = begin("work", "exchange", tmp_path, "--nproc", "2")
    pids = wait_for_pids(tmp_path, 2)
    process.send_signal(number)
    _, err = process.communicate(timeout=DEADLINE_SECONDS)
    assert (process.returncode, err.strip()) == (1, "Interrupted.")
    wait_until_gone(pids)


# --- agreeing


def test_ranks_that_would_train_differently_are_told_where(tmp_path: Path) -> None:
    assert run("work", "disagree", tmp_path, "--nproc", "2") == (
        2,
        "",
        "Error: training.seed is 0 on rank 0 and 1 on rank 1: start every rank with the same "
        "configuration, data and software\n",
    )


def test_the_first_difference_names_the_key_the_ranks_and_two_values() -> None:
    same = {"a": "1", "b": "2"}
    assert disagreement([same, same]) is None
    said = disagreement([same, {"a": "1"}, {"a": "1", "b": "3"}, same])
    assert said is not None
    assert said.startswith("b is 2 on ranks 0, 3 and not set on rank 1:")


def test_settings_have_the_keys_of_the_command_line() -> None:
    settings = settings_of(Config.model_validate({"data": {"store": "s.zarr"}}))
    assert settings["data.store"] == "s.zarr"
    assert settings["parallel.data"] == "1"
    assert settings["model.patch"].startswith("[")


# --- the environments of torchrun and srun


def test_torchrun_says_where_a_rank_is() -> None:
    environment = {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "node1",
        "MASTER_PORT": "29500",
    }
    assert place_in(environment) == Place(5, 8, 1, 4, "env://")
    # torchrun within srun
    assert place_in({**environment, "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}).rank == 5


SRUN = {
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "6",
    "SLURM_NTASKS": "7",
    "SLURM_LOCALID": "2",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4,3",
    "SLURM_JOB_NODELIST": "gpu[017-018,042]",
}


def test_srun_says_where_a_rank_is() -> None:
    assert place_in(SRUN) == Place(6, 7, 2, 3, "tcp://gpu017:18456")
    named = {**SRUN, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29400"}
    assert place_in(named).rendezvous == "tcp://10.0.0.1:29400"
    few = {**SRUN, "SLURM_STEP_NUM_TASKS": "7", "SLURM_NTASKS": "14"}
    assert place_in(few).world_size == 7


def test_a_batch_script_is_not_one_of_its_tasks() -> None:
    script = {name: text for name, text in SRUN.items() if name != "SLURM_STEP_ID"}
    assert place_in({**script, "SLURM_PROCID": "0"}) == Place()


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "neither MASTER_ADDR nor WEATHERMIXER_RENDEZVOUS"),
        ({"RANK": "two", "WORLD_SIZE": "2"}, "RANK is 'two' in the environment"),
        ({"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "this is rank 2 of 2"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, "neither MASTER_ADDR nor SLURM_JOB_NODELIST"),
    ],
)
def test_an_environment_that_does_not_suffice_is_a_users_mistake(
    environment: dict[str, str], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        place_in(environment)


def test_an_environment_without_ranks_has_one() -> None:
    assert place_in({}) == Place(rank=0, world_size=1)
    assert place_in({"RANK": "0", "WORLD_SIZE": "1"}).world_size == 1


def test_cores_are_shared_out_unless_the_environment_says_otherwise() -> None:
    assert threads_per_rank({}, 1) >= 1
    assert threads_per_rank({}, 1_000_000) == 1
    assert threads_per_rank({"SLURM_CPUS_PER_TASK": "12"}, 4) == 12
    assert threads_per_rank({"OMP_NUM_THREADS": "3", "SLURM_CPUS_PER_TASK": "12"}, 4) == 3


def test_each_rank_of_a_machine_has_a_gpu_of_its_own() -> None:
    place = Place(rank=5, world_size=8, local_rank=1, local_world_size=4)
    assert own_gpu(place, 4, {}) == 1
    assert own_gpu(place, 1, {"SLURM_LOCALID": "1"}) == 0
    with pytest.raises(UserError, match="4 ranks were started on a machine with 1 GPU: start one"):
        own_gpu(place, 1, {})


def main_status(*words: str | Path) -> int:
    """The exit status of a command, run in this process."""
    try:
        main([str(word) for word in words])
    except SystemExit as end:
        return int(end.code or 0)
    return 0
