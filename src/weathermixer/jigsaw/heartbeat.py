"""Whether all ranks are alive and get on: each says so every second, and the first rank listens.

A rank that was stopped, or whose machine or link is gone, leaves the others waiting in an exchange
that no error ends. So does a program that is not the same on all ranks. Here a thread of each rank
beats at a place that all can reach; who misses a rank, or sees all of them wait for each other,
ends the job with a sentence that says where it stood.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, Protocol

from weathermixer.jigsaw.activity import ACTIVITY, Beat, RankNews

SECONDS_BETWEEN_BEATS = 1.0
# After so long without a beat a rank is given up: a thread beats whatever the rank computes.
PATIENCE_SECONDS = 15.0
_SECONDS_TO_SPEAK = 5.0
_SECONDS_TO_REACH = 10.0
_SLOWEST_LINK = 5e6  # bytes per second: what arrives more slowly is taken for lost


def beat_key(rank: int) -> str:
    """The key of a rank's newest beat on the board; in words under ``place``, in its JSON."""
    return f"beat-{rank}"


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

    ``on_end`` is called, in a thread of its own on each rank, where the job cannot go on, and is
    expected to end the process.
    """

    def __init__(
        self,
        board: Board,
        rank: int,
        world_size: int,
        on_end: Callable[[Ending], None],
        *,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._board, self._rank, self._world_size = board, rank, world_size
        self._on_end, self._patience = on_end, patience
        self._process, self._count = _Process.own(), 0
        self._stopped = threading.Event()
        watched = range(1, world_size) if rank == 0 else range(1)
        now = time.monotonic()
        self._heard = {other: _Heard(now) for other in watched}
        self._reached = now
        self._ending = threading.Lock()
        if rank == 0:
            ACTIVITY.all_ranks = self.news
        self._threads = [
            threading.Thread(target=work, daemon=True, name="heartbeat")
            for work in (self._run, self._watch_the_board)
        ]
        for thread in self._threads:
            thread.start()

    def news(self) -> dict[int, RankNews]:
        """What this rank was last told of itself and of those that it listens to."""
        news = {self._rank: RankNews(self._process.host, ACTIVITY.now())}
        for rank, heard in self._heard.items():
            if heard.process is not None and heard.beat is not None:
                news[rank] = RankNews(heard.process.host, heard.beat)
        return news

    def stop(self) -> None:
        """Beat and watch no more."""
        self._stopped.set()
        ACTIVITY.all_ranks = None
        # A thread that is still at the board when Python ends takes the process with it.
        for thread in self._threads:
            thread.join(_SECONDS_TO_REACH)

    def place_of(self, rank: int) -> str:
        """Where in the program a rank was last heard; empty where this one does not listen to it.

        Rank 0 listens to all, and the others to rank 0.
        """
        heard = self._heard.get(rank)
        return "" if heard is None or heard.beat is None else heard.beat.place()

    def _run(self) -> None:
        for stood_still in self._ticks():
            if stood_still:
                self._heard = {rank: _Heard(time.monotonic()) for rank in self._heard}
            try:
                verdict = self._beat()
            except (OSError, RuntimeError):
                continue  # how long the board cannot be reached is watched as well
            self._reached = time.monotonic()
            if verdict is not None:
                self._end(verdict)

    def _watch_the_board(self) -> None:
        """End the job where the board does not answer: a call to it may never return."""
        for stood_still in self._ticks():
            if stood_still:
                self._reached = time.monotonic()
            seconds = time.monotonic() - self._reached
            if seconds < self._patience:
                continue
            place = f"; it was {ACTIVITY.now().place()}"
            first = self._heard.get(0)
            if first is not None and first.beat is not None and first.process is not None:
                place += f", and rank 0 on {first.process.host} last {first.beat.place()}"
            self._end(
                _Verdict(
                    f"rank {self._rank} on {self._process.host} has not reached the others for "
                    f"{seconds:.0f} s: rank 0 was stopped, or its machine or link is gone{place}"
                )
            )

    def _ticks(self) -> Iterator[bool]:
        """Once a second, whether this process itself stood still, as on a laptop that slept."""
        last = time.monotonic()
        while not self._stopped.is_set():
            now = time.monotonic()
            yield now - last > self._patience / 2
            last = now
            self._stopped.wait(SECONDS_BETWEEN_BEATS)

    def _end(self, verdict: _Verdict) -> None:
        with self._ending:
            if self._stopped.is_set():
                return
            self._stopped.set()
        for farewell in ACTIVITY.farewells:
            farewell(verdict.sentence)
        # Where each speaks for itself, one is enough if that ends all.
        if self._rank != (1 if verdict.speaker is None else verdict.speaker):
            time.sleep(_SECONDS_TO_SPEAK)
        self._on_end(Ending(verdict.sentence, verdict.speaker in (None, self._rank), verdict.lost))

    def _beat(self) -> _Verdict | None:
        """Leave a beat, listen to the others, and say why the job has to end, where it has."""
        self._count += 1
        beat, now = ACTIVITY.now(), time.monotonic()
        note = {"count": self._count, "process": asdict(self._process), "beat": asdict(beat)}
        # Its place also in words: whoever finds that the rank has died may know nothing of beats.
        self._board.write(beat_key(self._rank), json.dumps({**note, "place": beat.place()}))
        ranks = list(self._heard)
        notes = self._board.read(["verdict", *map(beat_key, ranks)])
        if notes[0] is not None:
            return _Verdict.from_json(notes[0])
        for rank, text in zip(ranks, notes[1:], strict=True):
            self._heard[rank].note(text, now)
        verdict = self._missing(now) or (self._deadlock(beat) if self._rank == 0 else None)
        if verdict is not None:
            self._board.write("verdict", json.dumps(asdict(verdict)))
        return verdict

    def _missing(self, now: float) -> _Verdict | None:
        for rank, heard in self._heard.items():
            if now - heard.time < self._patience:
                continue
            host = "" if heard.process is None else f" on {heard.process.host}"
            place = "" if heard.beat is None else f"; it was {heard.beat.place()}"
            return _Verdict(
                f"rank {rank}{host} has not answered for {now - heard.time:.0f} s: it was stopped, "
                f"or its machine or link is gone{place}",
                speaker=1 if rank == 0 else 0,
                lost=heard.process,
            )
        return None

    def _deadlock(self, own: Beat) -> _Verdict | None:
        """Why nothing can go on: every rank waits, and has begun nothing for long."""
        beats = {0: own} | {
            rank: heard.beat for rank, heard in self._heard.items() if heard.beat is not None
        }
        if len(beats) < self._world_size or any(
            beat.waited_s < self._patience + beat.num_bytes / _SLOWEST_LINK
            for beat in beats.values()
        ):
            return None
        by_place: dict[str, int] = {}
        for rank, beat in beats.items():
            by_place.setdefault(f"{beat.place()}, waiting for {beat.waits_for}", rank)
        said = "; ".join(f"rank {rank} {place}" for place, rank in list(by_place.items())[:4])
        return _Verdict(
            f"all ranks have waited for each other for {self._patience:.0f} s: their programs "
            f"differ, or a link is gone; {said}",
            speaker=0,
        )


@dataclass(frozen=True)
class _Process:
    """A process on some machine; ``started`` tells it from a later one of the same number."""

    host: str
    pid: int
    started: str

    @classmethod
    def own(cls) -> _Process:
        return cls(socket.gethostname(), os.getpid(), _start_time(os.getpid()))

    def kill_here(self) -> None:
        """End the process, if it is on this machine: one that was stopped obeys nothing else."""
        own = (socket.gethostname(), _start_time(self.pid))
        if self.started and own == (self.host, self.started):
            with suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)


def _start_time(pid: int) -> str:
    """When a process started, as Linux counts it; empty elsewhere, or where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except OSError:
        return ""


@dataclass(frozen=True)
class _Verdict:
    """Why the job ends, the rank that says so (every one for itself: None), and who is lost."""

    sentence: str
    speaker: int | None = None
    lost: _Process | None = None

    @classmethod
    def from_json(cls, text: str) -> _Verdict:
        values = json.loads(text)
        lost = values.pop("lost")
        return cls(**values, lost=None if lost is None else _Process(**lost))


@dataclass
class _Heard:
    """What was last heard of a rank, and when."""

    time: float
    count: int = 0
    process: _Process | None = None
    beat: Beat | None = None

    def note(self, text: str | None, now: float) -> None:
        """Take in a note that the rank left; the same one again says nothing new."""
        if text is None:
            return
        note = json.loads(text)
        if note["count"] != self.count:
            self.time, self.count = now, note["count"]
            self.process, self.beat = _Process(**note["process"]), Beat(**note["beat"])


@dataclass(frozen=True)
class Ending:
    """Why the job cannot go on, in a sentence, and whether this rank is the one to say it."""

    sentence: str
    speaks: bool
    _lost: _Process | None

    def kill_lost(self) -> None:
        """End the rank that does not answer, if it is on this machine; launchers notice that."""
        if self._lost is not None:
            self._lost.kill_here()

    def exit(self) -> NoReturn:
        """End this process at once, and before it the rank that does not answer."""
        self.kill_lost()
        os._exit(1)


def exit_with(ending: Ending) -> NoReturn:
    """End this process at once; the rank that speaks says why on standard error."""
    if ending.speaks:
        sys.stderr.write(f"Error: {ending.sentence}\n")
        sys.stderr.flush()
    ending.exit()
