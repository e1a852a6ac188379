"""Records that grow with the steps of a training, on disk instead of in memory."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from weathermixer.training.tail import write_at

_HELD = 1024


class Spool:
    """Records in the order in which they were appended, of which memory holds the newest alone.

    Each is anything that JSON holds, and comes back as JSON has it. The others are in a file
    without a name, in the folder for temporary files, that goes with the process. Where the disk
    takes no more of them, they stay in memory.
    """

    def __init__(self) -> None:
        self._held: list[str] = []
        self._file: IO[bytes] | None = None
        self._size = 0

    def append(self, record: Any) -> None:
        """Append a record."""
        self._held.append(json.dumps(record))
        if len(self._held) % _HELD == 0:
            self._put_away()

    def __iter__(self) -> Iterator[Any]:
        if self._file is not None:
            self._file.seek(0)
            yield from map(json.loads, self._file)
        yield from map(json.loads, self._held)

    def _put_away(self) -> None:
        content = "".join(f"{line}\n" for line in self._held).encode()
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as this is
            write_at(self._file.fileno(), self._size, content)
        except OSError:
            if self._file is not None:
                self._file.truncate(self._size)
            return  # another thousand records later there may be room
        self._size += len(content)
        self._held.clear()
