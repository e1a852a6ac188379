"""Processes that tests start, none of which outlives its test, nor does what they start."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

DEADLINE_SECONDS = 120
NOTHING: Mapping[str, str] = MappingProxyType({})

_MARK = "WEATHERMIXER_TEST_PROCESSES"
_OF_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "SLURM", "PMI", "OMPI_", "TORCHELASTIC")


class Processes:
    """Starts processes, and ends all of them and their descendants when closed."""

    def __init__(self) -> None:
        self._mark = uuid.uuid4().hex
        self._begun: list[subprocess.Popen[str]] = []

    def begin(
        self,
        *words: str | Path,
        environment: Mapping[str, str] = NOTHING,
        ignoring: Collection[signal.Signals] = (),
        **options: Any,
    ) -> subprocess.Popen[str]:
        """Start a Python process on ``words``.

        Its environment is the tests' own, less what names ranks, plus ``environment``. It ignores
        the signals ``ignoring`` alone, whatever the tests were started to ignore.
        """

        def set_signals() -> None:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN if number in ignoring else signal.SIG_DFL)

        inherited = {
            name: text for name, text in os.environ.items() if not name.startswith(_OF_LAUNCHERS)
        }
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
        process = subprocess.Popen(
            [sys.executable, *map(str, words)],
            env={**inherited, "OMP_NUM_THREADS": "1", **environment, _MARK: self._mark},
            preexec_fn=set_signals,
            **{**pipes, **options},
        )
        self._begun.append(process)
        return process

    def run(self, *words: str | Path, **options: Any) -> tuple[int, str, str]:
        """Exit status, standard output, and standard error without the lines on waits."""
        process = self.begin(*words, **options)
        out, err = process.communicate(timeout=DEADLINE_SECONDS)
        return process.returncode, out, without_waits(err)

    def close(self) -> None:
        """End all that is left, whatever it is doing."""
        for process in self._begun:
            process.kill()
        for pid in self._marked():
            os.kill(pid, signal.SIGKILL)
        for process in self._begun:
            process.communicate()
        self._begun.clear()

    def _marked(self) -> list[int]:
        """Processes that have this one's mark in their environment, where the system shows it."""
        mark = f"{_MARK}={self._mark}".encode()
        pids = []
        for environment in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in environment.read_bytes().split(b"\0"):
                    pids.append(int(environment.parent.name))
            except OSError:
                continue
        return pids


def without_waits(err: str) -> str:
    """Standard error without the lines on waits, of which a busy machine has more."""
    return "".join(
        line for line in err.splitlines(keepends=True) if not line.startswith("waiting for ")
    )


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def hand_started_rank(rank: int, world_size: int, port: int) -> dict[str, str]:
    """The environment of a rank as a launcher of no special kind sets it."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def wait_for_pids(folder: Path, ranks: int) -> list[int]:
    """The processes of the ranks, once all of them are at work."""
    end = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < end:
        pids = [file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.pid"))]
        if len(pids) == ranks and all(pids):
            return [int(pid) for pid in pids]
        time.sleep(0.05)
    raise TimeoutError("the ranks did not begin")


def is_alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # One that has ended stays in the table until somebody asks for its status.
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text("utf-8").rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(pids: list[int]) -> None:
    """Return when none of some processes is left."""
    end = time.monotonic() + DEADLINE_SECONDS
    while any(map(is_alive, pids)):
        if time.monotonic() > end:
            raise TimeoutError("a rank outlived the others")
        time.sleep(0.05)
