"""Rank 0 of another launcher's ranks: it hears how each one ends, and speaks for all.

It counts the ranks that come, learns of each how it ends (by its last words, or by its connection,
which the system closes when a process dies), tells the user of the first cause, once, and ends all.
"""

from __future__ import annotations

import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from weathermixer.console import waiting_for
from weathermixer.launch.environment import RankInfo
from weathermixer.launch.failures import Failure, LastWords, RanksMissing, first_cause
from weathermixer.launch.other_ranks import (
    SECONDS_TO_COME,
    SECONDS_TO_MEET,
    Connection,
    exit_at_once,
    keep_alive,
    listen,
    no_place,
    tell_user,
)
from weathermixer.launch.rank_names import rank_names

_SECONDS_TO_END = 2.0  # for the ranks that a failure leaves behind, to say what they know of it


class Coordinator:
    """Rank 0's side of the connections: a thread that hears how each of the other ranks ends."""

    def __init__(
        self, info: RankInfo, *, remedy: str, seconds_to_meet: float = SECONDS_TO_MEET
    ) -> None:
        self._info, self._remedy, self._seconds_to_meet = info, remedy, seconds_to_meet
        self.place_of: Callable[[int], str] = no_place
        self._listener = listen(0)
        self.port: int = self._listener.getsockname()[1]
        self._members = {0: _RankRecord(info.host)}
        self._speakers: dict[Connection, _RankRecord] = {}
        self._orders: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._woken, self._wake = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        for source in (self._listener, self._woken):
            self._selector.register(source, selectors.EVENT_READ, Connection(source))
        self._deadline: float | None = None
        self._shows_traceback = False
        self._met, self._ended = threading.Event(), threading.Event()
        self._reporting = self._has_given_up = False
        self._status = 1
        threading.Thread(target=self._serve, daemon=True).start()

    def wait_for_all(self) -> None:
        """Return when every rank has come; RanksMissing, naming the others, after minutes."""
        with waiting_for(self._absence):
            # A wait without end would not be interrupted by Ctrl-C.
            if self._met.wait(self._seconds_to_meet):
                return
        self._has_given_up = True
        absent = self._absent()
        raise RanksMissing(
            f"only {self._info.world_size - len(absent)} of {self._info.world_size} ranks came to "
            f"{self._info.meeting} within {self._seconds_to_meet / 60:g} minutes, and "
            f"{rank_names(absent)} did not: start all of them with one torchrun or srun, and let "
            "their machines reach this address"
        )

    def report(self, words: LastWords, *, show_traceback: bool) -> int:
        """Give rank 0's last words; returns the status to exit with, once the user is told."""
        self._reporting = True
        self._order({"failed": asdict(words), "show_traceback": show_traceback})
        self._ended.wait()
        return self._status

    def close(self) -> None:
        """Let the other ranks go, when all have done their work."""
        self._order(None)
        self._ended.wait(_SECONDS_TO_END)

    def _order(self, message: dict[str, Any] | None) -> None:
        self._orders.put(message)
        self._wake.send(b"!")

    def _absent(self) -> list[int]:
        return [rank for rank in range(self._info.world_size) if rank not in self._members]

    def _absence(self) -> str:
        absent = self._absent()
        return (
            f"{len(absent)} of {self._info.world_size} ranks ({rank_names(absent)}) to come to "
            f"{self._info.meeting}, for {self._seconds_to_meet / 60:g} minutes at most"
        )

    def _serve(self) -> None:
        while True:
            left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            for key, _ in self._selector.select(left):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is not self._woken:
                    self._hear(key.data)
                elif self._obey():
                    return
            if self._deadline is not None and (
                all(
                    rank in self._members and self._members[rank].has_ended
                    for rank in range(self._info.world_size)
                )
                or time.monotonic() >= self._deadline
            ):
                self._end()
                return

    def _accept(self) -> None:
        try:
            connected, _ = self._listener.accept()
        except OSError:
            return
        keep_alive(connected)
        self._selector.register(connected, selectors.EVENT_READ, Connection(connected))

    def _obey(self) -> bool:
        """Do what the main thread asks for; whether that was to let all ranks go."""
        self._woken.recv(1)
        message = self._orders.get()
        if message is None:
            self._tell_all({"done": True})
            self._ended.set()
            return True
        self._note_failure(self._members[0], message)
        return False

    def _hear(self, connection: Connection) -> None:
        messages = connection.receive()
        for message in messages or ():
            member = self._speakers.get(connection)
            if "hello" in message:
                self._welcome(connection, message)
            elif member is None:
                continue
            elif "failed" in message:
                self._note_failure(member, message)
            else:
                member.is_done = True
        if messages is None:
            self._selector.unregister(connection.socket)
            connection.socket.close()
            member = self._speakers.pop(connection, None)
            if member is not None and not member.has_ended:
                member.died_at = time.time()
                self._begin_to_end()

    def _welcome(self, connection: Connection, message: Mapping[str, Any]) -> None:
        rank, own = int(message["hello"]), self._info
        if message["world_size"] != own.world_size or rank in self._members:
            connection.send(
                {
                    "refused": f"rank {rank} of {message['world_size']} came to {own.meeting}, "
                    f"where {own.world_size} ranks meet and this one is not missing: start all of "
                    "them with one torchrun or srun, and give other jobs another MASTER_PORT"
                }
            )
            return
        member = _RankRecord(message["host"], connection)
        self._members[rank] = self._speakers[connection] = member
        if not self._absent():
            self._tell_all({"begin": True})
            self._met.set()
            if self._deadline is not None:
                self._deadline = min(self._deadline, time.monotonic() + _SECONDS_TO_END)

    def _note_failure(self, member: _RankRecord, message: Mapping[str, Any]) -> None:
        member.words = LastWords(**message["failed"])
        self._shows_traceback |= message["show_traceback"]
        self._begin_to_end()

    def _begin_to_end(self) -> None:
        if self._deadline is None:
            waits = not (self._met.is_set() or self._has_given_up)
            patience = SECONDS_TO_COME if waits else _SECONDS_TO_END
            self._deadline = time.monotonic() + patience

    def _end(self) -> None:
        """Tell the user of the first cause, and all ranks to end with its status."""
        failures = [
            Failure(
                rank,
                None,
                member.words,
                member.died_at,
                member.host,
                place=self.place_of(rank),
            )
            for rank, member in sorted(self._members.items())
            if member.words is not None or member.died_at
        ]
        error = first_cause(failures).error(self._remedy)
        if self._shows_traceback:
            tell_user(error.details)
        tell_user(f"{error}{self._whose(str(error), failures)}")
        self._status = error.status
        self._tell_all({"end": error.status})
        self._ended.set()
        if not self._reporting:
            exit_at_once(error.status)

    def _whose(self, sentence: str, failures: list[Failure]) -> str:
        """Names of the ranks that said a sentence, in brackets, where they are some of many."""
        speakers = [
            failure
            for failure in failures
            if failure.words is not None and failure.words.sentence == sentence
        ]
        if not speakers or len(speakers) == self._info.world_size or speakers[0].words is None:
            return ""
        if self._has_given_up:  # and says so for all
            return ""
        words = speakers[0].words
        if words.interrupted or words.rank_lost or words.is_verdict:
            return ""
        host = f" on {speakers[0].host}" if len(speakers) == 1 else ""
        return f" ({rank_names([failure.rank for failure in speakers])}{host})"

    def _tell_all(self, message: Mapping[str, Any]) -> None:
        for member in self._members.values():
            if member.connection is not None:
                member.connection.send(message)


@dataclass
class _RankRecord:
    """What rank 0 knows of a rank: where it runs, and whether and how it has ended."""

    host: str
    connection: Connection | None = None
    words: LastWords | None = None
    died_at: float = 0.0
    is_done: bool = False

    @property
    def has_ended(self) -> bool:
        return self.is_done or self.words is not None or self.died_at > 0
