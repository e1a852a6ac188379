"""A training under a real SLURM, where there is one with two nodes to spare."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from support.processes import DEADLINE_SECONDS
from support.waves import wave_config, write_waves
from weathermixer.cli import main
from weathermixer.runs.run import Run

pytestmark = pytest.mark.exhaustive


def ask(*words: str) -> str:
    """What a program of SLURM answers; nothing where it fails."""
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


@pytest.fixture
def slurm() -> Iterator[None]:
    """A cluster with two idle nodes, on which no job of these tests is left."""
    if shutil.which("sbatch") is None:
        pytest.skip("there is no SLURM on this machine: sbatch is not found")
    idle = ask("sinfo", "--noheader", "--states=idle", "--format=%D").split()
    if sum(map(int, idle)) < 2:
        pytest.skip("SLURM has no two idle nodes for this test")
    before = set(ask("squeue", "--me", "--noheader", "--format=%i").split())
    yield
    for job in set(ask("squeue", "--me", "--noheader", "--format=%i").split()) - before:
        ask("scancel", job)


def until(condition: Callable[[], bool], log: Path) -> None:
    """Return when a condition holds; fails with what the job wrote where it never does."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < end, log.read_text("utf-8") if log.exists() else "no log"
        time.sleep(0.2)


def test_a_job_saves_and_is_queued_again_and_ends_with_the_last_step(
    slurm: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    settings = wave_config(
        write_waves(tmp_path / "waves.zarr", times=30),
        training={"steps": 1_000_000, "dtype": "float32", "validate_every": 1_000_000},
        checkpoint={"every": 1_000_000},
    )
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_unset=True)), "utf-8")
    out = tmp_path / "run"
    words = ["submit", str(config), "--out", str(out), "--nodes=2", "--time=00:20:00", "--go"]
    log = out / "job" / "log.txt"

    main(words)
    job = capsys.readouterr().out.strip()
    until(lambda: (out / "log.jsonl").exists() and log.exists(), log)
    ask("scancel", "--signal=USR1", "--batch", job)
    until(lambda: ask("squeue", "--noheader", f"--job={job}", "--format=%T") == "PENDING", log)
    newest = Run(out).require_checkpoint()
    said = log.read_text("utf-8")
    assert f"goes back into the queue, to continue from {newest.name}" in said
    assert said.count("stopped by SIGUSR1 after step ") == 1
    assert "Restarts=1" in ask("scontrol", "show", "job", job)
    ask("scancel", job)
    until(lambda: not ask("squeue", "--noheader", f"--job={job}", "--states=PENDING"), log)

    last = int(newest.name[5:]) + 2
    main([*words, "--resume", f"--training.steps={last}"])
    until(lambda: "the last step is taken" in log.read_text("utf-8"), log)
    assert int(Run(out).require_checkpoint().name[5:]) == last
