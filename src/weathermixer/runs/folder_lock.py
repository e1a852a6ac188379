"""A folder that one process at a time may write into, on one machine or on several."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from datetime import datetime
from pathlib import Path
from typing import Self

from weathermixer.console import say
from weathermixer.errors import UserError

_FILE = ".lock"
_UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


class FolderLock:
    """While entered, keeps every other process from entering the same folder to write into it.

    The lock is the system's (``flock``) on a file in the folder, so it goes with the process that
    holds it, however that ends. Network file systems pass it to other machines, NFS among them;
    where one is mounted with locks of its own machine alone, it holds on that machine. ``purpose``
    names what the folder is kept for. Nothing stops a process that only reads.

    Entering makes the folder where there is none, and leaving removes it if nothing was written.
    Raises UserError, naming the holder, where another process is in, and where the folder cannot
    be written.
    """

    def __init__(self, folder: Path, purpose: str) -> None:
        self._folder, self._file, self._purpose = folder, folder / _FILE, purpose
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *details: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Enter the folder, as ``with`` does; raises UserError as the class says."""
        assert self._descriptor is None, "a lock is held once"
        try:
            while self._descriptor is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._descriptor = self._locked_file()
            os.truncate(self._descriptor, 0)
            os.write(self._descriptor, json.dumps(_own_record()).encode())
        except OSError as error:
            raise UserError(
                f"{self._folder} cannot be written ({error.strerror or error}): choose another "
                "place, free some space, or make the folder writable"
            ) from error

    def release(self) -> None:
        """Leave the folder, if this process has entered it, and remove it if it is empty."""
        if self._descriptor is None:
            return
        self._file.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None
        # The one who finds the folder not empty is glad of what is in it.
        try:
            self._folder.rmdir()
        except OSError:
            return

    def _locked_file(self) -> int | None:
        """The locked file; None where it was removed by its last holder in the meantime."""
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _holder(self._file)
            os.close(descriptor)
            raise UserError(
                f"{self._folder} is in use by another {self._purpose}{holder}: wait until it ends, "
                "stop it, or choose another --out"
            ) from error
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                os.close(descriptor)
                raise
            say(
                f"the file system of {self._folder} does not lock files ({error.strerror}), so "
                f"nothing keeps a second {self._purpose} out of the folder: see that there is none"
            )
            return descriptor
        try:
            if os.path.samestat(os.fstat(descriptor), self._file.stat()):
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)
        return None


def _own_record() -> dict[str, object]:
    now = datetime.now().astimezone().isoformat(" ", "seconds")
    return {"process": os.getpid(), "host": socket.gethostname(), "since": now}


def _holder(file: Path) -> str:
    """Who holds a lock, as a sentence goes on; nothing where that is not written yet."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        return f", process {record['process']} on {record['host']}, since {record['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
