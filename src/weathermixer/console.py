"""What commands say to a person: progress of long work, on standard error, and errors.

Standard output is left to results, so that it can be piped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Progress = Callable[[int, int], None]

_SECONDS_BETWEEN_LINES = 15.0


def say(sentence: str) -> None:
    """Print one line to the user, on standard error, where that can still be written."""
    with suppress(OSError, ValueError):  # the terminal is gone, or the disk under a file is full
        print(sentence, file=sys.stderr, flush=True)


@contextmanager
def progress(what: str) -> Iterator[Progress]:
    """A progress bar with the time left on a terminal, an occasional line elsewhere.

    Yields a function that takes how many of how many are done.
    """
    if sys.stderr.isatty():
        with _bar(what) as update:
            yield update
    else:
        yield _lines(what)


@contextmanager
def _bar(what: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(what: str) -> Progress:
    start = time.monotonic()
    said = start - _SECONDS_BETWEEN_LINES

    def update(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if done < total and now - said < _SECONDS_BETWEEN_LINES:
            return
        said = now
        elapsed = now - start
        left = f", about {elapsed / done * (total - done):.0f} s left" if 0 < done < total else ""
        say(f"{what}: {done} of {total}, {elapsed:.0f} s{left}")

    return update


def size_text(size: float) -> str:
    """A number of bytes as people read it.

    >>> size_text(12_345_678)
    '12.3 MB'
    """
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
