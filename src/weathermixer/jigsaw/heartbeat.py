"""Whether all ranks are alive and get on: each says so every second, and the first rank listens.

A rank that was stopped, or whose machine or link is gone, leaves the others waiting in an exchange
that no error ends. So does a program that is not the same on all ranks. Here a thread of each rank
beats at a place that all can reach; who misses a rank, or sees all of them wait for each other,
ends the job with a sentence that says where it stood.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from weathermixer.jigsaw.activity import ACTIVITY, Beat

SECONDS_BETWEEN_BEATS = 1.0
# After so long without a beat a rank is given up: a thread beats whatever the rank computes.
PATIENCE_SECONDS = 20.0
_SECONDS_TO_REACH = 10.0
_SLOWEST_LINK = 5e6  # bytes per second: what arrives more slowly is taken for lost


class Board(Protocol):
    """A place where ranks leave notes for each other."""

    def write(self, key: str, text: str) -> None:
        """Leave a note in the place of the last one; OSError or RuntimeError where it cannot be."""

    def read(self, keys: Sequence[str]) -> list[str | None]:
        """The notes under some keys, None where there is none yet; raises as ``write`` does."""


class FolderBoard:
    """Notes as files in a folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, key: str, text: str) -> None:
        """Leave a note in the place of the last one."""
        partial = self._folder / f"{key}.{os.getpid()}"
        partial.write_text(text, encoding="utf-8")
        partial.replace(self._folder / key)

    def read(self, keys: Sequence[str]) -> list[str | None]:
        """The notes under some keys."""
        files = [self._folder / key for key in keys]
        return [file.read_text(encoding="utf-8") if file.exists() else None for file in files]


class StoreBoard:
    """Notes in a store of ``torch.distributed``, over a connection of its own."""

    def __init__(self, store: Any) -> None:
        self._store = store.clone()
        self._store.set_timeout(timedelta(seconds=_SECONDS_TO_REACH))
        self._known: set[str] = set()

    def write(self, key: str, text: str) -> None:
        """Leave a note in the place of the last one."""
        self._store.set(key, text)

    def read(self, keys: Sequence[str]) -> list[str | None]:
        """The notes under some keys."""
        self._known |= {key for key in keys if key in self._known or self._store.check([key])}
        there = [key for key in keys if key in self._known]
        notes = dict(zip(there, self._store.multi_get(there), strict=True)) if there else {}
        return [notes[key].decode() if key in notes else None for key in keys]


class Heartbeat:
    """Beats for this rank and watches over the others, until it is stopped.

    ``on_end`` is called, in a thread of its own, with the sentence that says why the job cannot go
    on, and is expected to end the process.
    """

    def __init__(
        self,
        board: Board,
        rank: int,
        world_size: int,
        on_end: Callable[[str], None],
        *,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._board, self._rank, self._world_size = board, rank, world_size
        self._on_end, self._patience = on_end, patience
        self._host, self._count = socket.gethostname(), 0
        self._stopped = threading.Event()
        watched = range(1, world_size) if rank == 0 else range(1)
        now = time.monotonic()
        self._heard = {other: _Heard(now) for other in watched}
        self._thread = threading.Thread(target=self._run, daemon=True, name="heartbeat")
        self._thread.start()

    def stop(self) -> None:
        """Beat and watch no more."""
        self._stopped.set()
        self._thread.join(_SECONDS_TO_REACH)

    def _run(self) -> None:
        last = reached = time.monotonic()
        while not self._stopped.wait(SECONDS_BETWEEN_BEATS):
            now = time.monotonic()
            if now - last > self._patience / 2:
                # This process itself stood still, as on a laptop that slept.
                self._heard = {rank: _Heard(now) for rank in self._heard}
            last = now
            try:
                verdict = self._beat()
                reached = time.monotonic()
            except (OSError, RuntimeError) as error:
                verdict = None
                if self._stopped.is_set():
                    return
                if time.monotonic() - reached > self._patience:
                    reason = " ".join(str(error).split())[:200]
                    verdict = (
                        f"rank {self._rank} on {self._host} has not reached the others for "
                        f"{time.monotonic() - reached:.0f} s ({reason}); it was "
                        f"{ACTIVITY.now().place()}"
                    )
            if verdict is not None:
                self._on_end(verdict)
                return

    def _beat(self) -> str | None:
        """Leave a beat, listen to the others, and say why the job has to end, where it has."""
        self._count += 1
        beat = ACTIVITY.now()
        note = {"count": self._count, "host": self._host, "beat": asdict(beat)}
        self._board.write(f"beat-{self._rank}", json.dumps(note))
        ranks = list(self._heard)
        notes = self._board.read(["verdict", *(f"beat-{rank}" for rank in ranks)])
        if notes[0] is not None:
            return notes[0]
        now = time.monotonic()
        for rank, text in zip(ranks, notes[1:], strict=True):
            self._heard[rank].note(text, now)
        verdict = self._missing(now) or (self._deadlock(beat, now) if self._rank == 0 else None)
        if verdict is not None:
            self._board.write("verdict", verdict)
        return verdict

    def _missing(self, now: float) -> str | None:
        for rank, heard in self._heard.items():
            if heard.beat is not None and now - heard.time > self._patience:
                return (
                    f"rank {rank} on {heard.host} has not answered for {now - heard.time:.0f} s: "
                    f"it was stopped, or its machine or link is gone; it was {heard.beat.place()}"
                )
        return None

    def _deadlock(self, own: Beat, now: float) -> str | None:
        """Why nothing can go on: every rank waits, and has begun nothing for long."""
        beats = {0: own, **{rank: heard.beat for rank, heard in self._heard.items()}}
        known = {rank: beat for rank, beat in beats.items() if beat is not None}
        if len(known) < self._world_size:
            return None
        if any(
            beat.waited_s < self._patience + beat.num_bytes / _SLOWEST_LINK
            for beat in known.values()
        ):
            return None
        places = {
            f"{beat.place()}, waiting for {beat.waits_for}": rank
            for rank, beat in reversed(known.items())
        }
        said = "; ".join(f"rank {rank} {place}" for place, rank in list(places.items())[::-1][:4])
        return (
            f"all ranks have waited for each other for {self._patience:.0f} s: their programs "
            f"differ, or a link is gone; {said}"
        )


@dataclass
class _Heard:
    """What was last heard of a rank, and when."""

    time: float
    count: int = 0
    host: str = ""
    beat: Beat | None = None

    def note(self, text: str | None, now: float) -> None:
        """Take in a note that the rank left; the same one again says nothing new."""
        if text is None:
            return
        note = json.loads(text)
        if note["count"] != self.count:
            self.time, self.count, self.host = now, note["count"], note["host"]
            self.beat = Beat(**note["beat"])


def exit_with(sentence: str) -> None:
    """Say on standard error why the job ends, and end this process at once."""
    sys.stderr.write(f"Error: {sentence}\n")
    sys.stderr.flush()
    os._exit(1)
