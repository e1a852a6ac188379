"""A rank that is stopped, and says nothing of it, ends the whole job."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

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

RANKS = 3
TORCHRUN = shutil.which("torchrun", path=str(Path(sys.executable).parent))
STARTS: dict[str, list[str | Path]] = {
    "nproc": [RANKED, "work", "exchange", "FOLDER", "--nproc", str(RANKS)],
    "torchrun": [
        TORCHRUN or "torchrun", "--nproc-per-node", str(RANKS), RANKED, "work", "exchange", "FOLDER"
    ],
}  # fmt: skip
# In which every rank has beaten.
SECONDS_TO_BEAT = 3.0


@pytest.mark.parametrize(
    ("start", "stopped"),
    exhaustive(("nproc", 1), ("nproc", 0), ("torchrun", 1), ("torchrun", 0)),
)
def test_a_rank_that_is_stopped_is_named_and_ends_all(
    start: str, stopped: int, processes: Processes, tmp_path: Path
) -> None:
    if start == "torchrun" and TORCHRUN is None:
        pytest.skip("torchrun is installed beside no Python but PyTorch's")
    words = [tmp_path if word == "FOLDER" else word for word in STARTS[start]]
    process = processes.begin(*words)
    pids = wait_for_pids(tmp_path, RANKS)
    time.sleep(SECONDS_TO_BEAT)
    os.kill(pids[stopped], signal.SIGSTOP)
    _, err = process.communicate(timeout=DEADLINE_SECONDS)
    said = without_waits(err)
    assert process.returncode == 1, said
    (sentence,) = [line for line in said.splitlines() if line.startswith("Error: ")]
    host = os.uname().nodename
    assert sentence.startswith(f"Error: rank {stopped} on {host} has not answered for "), said
    assert "it was in exchange " in sentence
    assert sentence.endswith("so the job was ended: begin again")
    if start == "nproc":  # torchrun has words of its own
        assert said == sentence + "\n"
    wait_until_gone(pids)
