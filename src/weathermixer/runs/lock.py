"""A run's folder in the hands of a single training.

The system gives a lock back when its process ends, however it ends, so none is ever left over.
"""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

from weathermixer.errors import UserError

_NAME = "training.lock"


class RunLock:
    """The right to write into the run ``path``, once it is taken and until it is released."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def take(self) -> None:
        """Take the lock, unless it is held already; UserError where another training has it."""
        if self._file is not None:
            return
        try:
            file = (self._path / _NAME).open("ab")
        except OSError:
            return  # a folder that cannot be written is for ``Run.create`` to refuse
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise UserError(
                f"another training is writing into the run {self._path}: wait until it has ended, "
                "or choose another --out"
            ) from error
        except OSError:
            pass  # some shared file systems have no locks
        self._file = file

    def release(self) -> None:
        """Give the lock back, if it is held."""
        if self._file is not None:
            self._file.close()
            self._file = None
