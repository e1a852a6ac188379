"""The end of a file that grows: replaced as a whole, or left as it was."""

from __future__ import annotations

import os
from pathlib import Path


def replace_tail(path: Path, start: int, content: bytes) -> None:
    """Replace all that follows the first ``start`` bytes of a file by ``content``.

    The file is made where there is none, and opened anew each time, so that one whose folder was
    removed is noticed. Raises OSError, with the file as it was, where the disk is full or may not
    be written.
    """
    with path.open("r+b" if path.exists() else "x+b", buffering=0) as file:
        file.seek(start)
        former = file.read()
        try:
            write_at(file.fileno(), start, content)
        except OSError:
            # These bytes have their place on the disk already.
            write_at(file.fileno(), start, former)
            raise


def write_at(descriptor: int, start: int, content: bytes) -> None:
    """Let an open file end with ``content``, from byte ``start`` on; OSError where it cannot."""
    written = 0
    while written < len(content):  # a disk that fills up takes a part, and refuses the rest
        written += os.pwrite(descriptor, content[written:], start + written)
    os.ftruncate(descriptor, start + len(content))
