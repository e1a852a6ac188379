"""Folders that one process at a time writes into."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from support.processes import Processes
from weathermixer.errors import UserError
from weathermixer.runs.folder_lock import FolderLock

HOLDING = """
import socket, sys, time
from pathlib import Path
socket.gethostname = lambda: "node17"
from weathermixer.runs.folder_lock import FolderLock
with FolderLock(Path(sys.argv[1]), "training"):
    print("held", flush=True)
    time.sleep(600)
"""


def hold(processes: Processes, folder: Path) -> int:
    """Another process that holds a folder."""
    process = processes.begin("-c", HOLDING, folder)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process.pid


def test_a_second_process_is_refused_with_the_name_of_the_first(
    processes: Processes, tmp_path: Path
) -> None:
    pid = hold(processes, tmp_path)
    with pytest.raises(UserError) as refusal, FolderLock(tmp_path, "training"):
        pass
    said = str(refusal.value)
    who = f"by another training, process {pid} on node17, since 2"
    assert said.startswith(f"{tmp_path} is in use {who}")
    assert said.endswith("choose another --out")


def test_the_lock_goes_with_a_process_that_is_killed(processes: Processes, tmp_path: Path) -> None:
    pid = hold(processes, tmp_path)
    os.kill(pid, signal.SIGKILL)
    processes.close()
    with FolderLock(tmp_path, "training"):
        assert (tmp_path / ".lock").exists()


def test_a_folder_that_stays_empty_leaves_nothing_behind(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "new" / "run", "training"):
        pass
    assert not (tmp_path / "new" / "run").exists()


def test_what_was_written_stays_without_the_lock(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "run", "training"):
        (tmp_path / "run" / "weights").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["weights"]


def test_many_who_come_and_go_are_never_in_together(tmp_path: Path) -> None:
    inside, most, entries = 0, 0, 0
    guard = threading.Lock()

    def come_and_go() -> None:
        nonlocal inside, most, entries
        for _ in range(200):
            try:
                with FolderLock(tmp_path / "run", "training"):
                    with guard:
                        inside += 1
                        entries += 1
                        most = max(most, inside)
                    with guard:
                        inside -= 1
            except UserError:
                continue

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert entries > 4


def test_a_file_system_without_locks_is_said_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with FolderLock(tmp_path, "training"):
        pass
    assert "does not lock files (No locks available)" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_a_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="cannot be written"),
        FolderLock(tmp_path / "file", "training"),
    ):
        pass
