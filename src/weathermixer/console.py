"""What commands say to a person: progress, waits and errors, on standard error.

Standard output is left to results, so that it can be piped. Nothing takes longer than a few seconds
without a word on what it does or waits for.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Self

from weathermixer.credentials import without_credentials

Progress = Callable[[int, int], None]
"""A function that shows progress; it takes how many of how many are done."""

_SECONDS_BETWEEN_LINES = 15.0
_SECONDS_TO_A_WORD = 5.0  # of silence, after which a wait is explained
_SECONDS_BETWEEN_WORDS = 60.0  # on the same wait


class _Speech:
    """What this process has said, and whether it speaks at all."""

    muted = False
    waits: dict[str, float] = {}  # noqa: RUF012 - when each kind of wait was last spoken of


def say(sentence: str) -> None:
    """Print one line to the user, on standard error, where that can still be written."""
    if not _Speech.muted:
        with suppress(
            OSError, ValueError
        ):  # the terminal is gone, or the disk under a file is full
            print(without_credentials(sentence), file=sys.stderr, flush=True)


@contextmanager
def muted() -> Iterator[None]:
    """While entered, this process says nothing: another one speaks for it."""
    before, _Speech.muted = _Speech.muted, True
    try:
        yield
    finally:
        _Speech.muted = before


@contextmanager
def waiting_for(what: str | Callable[[], str]) -> Iterator[None]:
    """Say what is waited for, should the block take long: after seconds, then once a minute.

    ``what`` continues the sentence "waiting for ..."; a function gives what it is by then. Many
    waits for the same thing, one after the other, are spoken of no more often than a single one.
    """
    text = (lambda: what) if isinstance(what, str) else what
    with _Reminder(lambda seconds: f"waiting for {text()}, {seconds:.0f} s so far", text):
        yield


@contextmanager
def progress(what: str) -> Iterator[Progress]:
    """Show progress, by a bar with the time left on a terminal, an occasional line elsewhere.

    Yields a function that takes how many of how many are done.
    """
    if _Speech.muted:
        yield lambda done, total: None
    elif sys.stderr.isatty():
        with _bar(what) as update:
            yield update
    else:
        with _lines(what) as update:
            yield update


class _Reminder:
    """While entered, a thread that speaks when nothing has been heard for a while."""

    def __init__(
        self, sentence: Callable[[float], str], kind: Callable[[], str] | None = None
    ) -> None:
        self._sentence, self._kind = sentence, kind
        self._began = self._heard = time.monotonic()
        self._patience = _SECONDS_TO_A_WORD
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *details: object) -> None:
        self._ended.set()

    def hear(self) -> None:
        """Take note that something was said, so that the user knows where things stand."""
        self._heard, self._patience = time.monotonic(), _SECONDS_BETWEEN_WORDS

    def _watch(self) -> None:
        while not self._ended.wait(max(0.05, self._heard + self._patience - time.monotonic())):
            now = time.monotonic()
            if now < self._heard + self._patience:
                continue
            kind = self._kind() if self._kind else None
            if kind is not None:
                if now < _Speech.waits.get(kind, -_SECONDS_BETWEEN_WORDS) + _SECONDS_BETWEEN_WORDS:
                    self._heard = now
                    continue
                _Speech.waits[kind] = now
            say(self._sentence(now - self._began))
            self.hear()


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


@contextmanager
def _lines(what: str) -> Iterator[Progress]:
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
        reminder.hear()

    with _Reminder(lambda seconds: f"{what}: {seconds:.0f} s so far") as reminder:
        yield update


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
