"""Ranks of another launcher that hear of each other's end: all connect to rank 0, which judges.

torchrun and srun start ranks that have no parent of ours. Rank 0 counts those that come, learns of
each how it ends (by its last words, or by its connection, which the system closes when a process
dies), tells the user of the first cause, once, and ends all. A message is one line of JSON. Nothing
of torch is known here.
"""

from __future__ import annotations

import json
import os
import queue
import selectors
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn, Protocol

from weathermixer.console import waiting_for
from weathermixer.errors import UserError
from weathermixer.launch.environment import RankInfo
from weathermixer.launch.failures import Failure, LastWords, first_cause
from weathermixer.launch.rank_names import rank_names

SECONDS_TO_MEET = 300.0

_SECONDS_TO_END = 2.0  # for the ranks that a failure leaves behind, to say what they know of it
_SECONDS_TO_COME = 60.0  # for those that have not come yet when another fails
_SECONDS_TO_BE_TOLD = _SECONDS_TO_COME + 30.0


class Companions(Protocol):
    """The other ranks, as one of them reaches them."""

    def wait_for_all(self) -> None:
        """Return when every rank has come; UserError where that takes too long."""

    def report(self, words: LastWords, *, show_traceback: bool) -> int:
        """Give this rank's last words; the status to exit with once the user has been told."""

    def close(self) -> None:
        """End in order, when every rank has done its work."""


class Coordinator:
    """What rank 0 knows of the others, in a thread that lives as long as the ranks work."""

    def __init__(
        self, info: RankInfo, *, remedy: str, seconds_to_meet: float = SECONDS_TO_MEET
    ) -> None:
        self._info, self._remedy, self._seconds_to_meet = info, remedy, seconds_to_meet
        self._listener = listen(0)
        self.port: int = self._listener.getsockname()[1]
        self._members = {0: _Member(info.host)}
        self._orders: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._woken, self._wake = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        for source in (self._listener, self._woken):
            self._selector.register(source, selectors.EVENT_READ, _Connection(source))
        self._deadline: float | None = None
        self._shows_traceback = False
        self._met, self._ended = threading.Event(), threading.Event()
        self._reporting = False
        self._status = 1
        threading.Thread(target=self._serve, daemon=True).start()

    def wait_for_all(self) -> None:
        """Return when every rank has come; UserError, naming those that did not, after minutes."""
        with waiting_for(self._absence):
            # A wait without end would not be interrupted by Ctrl-C.
            if self._met.wait(self._seconds_to_meet):
                return
        absent = self._absent()
        raise UserError(
            f"only {self._info.world_size - len(absent)} of {self._info.world_size} ranks came to "
            f"{self._info.meeting} within {self._seconds_to_meet / 60:g} minutes, and "
            f"{rank_names(absent)} did not: start all of them with one torchrun or srun, and let "
            "their machines reach this address"
        )

    def report(self, words: LastWords, *, show_traceback: bool) -> int:
        """Give rank 0's last words; the status to exit with once the user has been told."""
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
        _keep_alive(connected)
        self._selector.register(connected, selectors.EVENT_READ, _Connection(connected))

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

    def _hear(self, connection: _Connection) -> None:
        messages = connection.receive()
        for message in messages or ():
            if "hello" in message:
                self._welcome(connection, message)
            elif connection.member is None:
                continue
            elif "failed" in message:
                self._note_failure(connection.member, message)
            else:
                connection.member.is_done = True
        if messages is None:
            self._selector.unregister(connection.socket)
            connection.socket.close()
            member = connection.member
            if member is not None and not member.has_ended:
                member.died_at = time.time()
                self._begin_to_end()

    def _welcome(self, connection: _Connection, message: Mapping[str, Any]) -> None:
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
        connection.member = self._members[rank] = _Member(message["host"], connection)
        if not self._absent():
            self._tell_all({"begin": True})
            self._met.set()
            if self._deadline is not None:
                self._deadline = min(self._deadline, time.monotonic() + _SECONDS_TO_END)

    def _note_failure(self, member: _Member, message: Mapping[str, Any]) -> None:
        member.words = LastWords(**message["failed"])
        self._shows_traceback |= message["show_traceback"]
        self._begin_to_end()

    def _begin_to_end(self) -> None:
        if self._deadline is None:
            patience = _SECONDS_TO_END if self._met.is_set() else _SECONDS_TO_COME
            self._deadline = time.monotonic() + patience

    def _end(self) -> None:
        """Tell the user of the first cause, and all ranks to end with its status."""
        failures = [
            Failure(rank, None, member.words, member.died_at, member.host)
            for rank, member in sorted(self._members.items())
            if member.words is not None or member.died_at
        ]
        error = first_cause(failures).error(self._remedy)
        if self._shows_traceback:
            _tell(error.details)
        _tell(f"{error}{self._whose(str(error), failures)}")
        self._status = error.status
        self._tell_all({"end": error.status})
        self._ended.set()
        if not self._reporting:
            _leave(error.status)

    def _whose(self, sentence: str, failures: list[Failure]) -> str:
        """Which ranks said a sentence, where they are some of many."""
        speakers = [
            failure
            for failure in failures
            if failure.words is not None and failure.words.sentence == sentence
        ]
        if not speakers or len(speakers) == self._info.world_size or speakers[0].words is None:
            return ""
        if speakers[0].words.interrupted or speakers[0].words.rank_lost:
            return ""
        host = f" on {speakers[0].host}" if len(speakers) == 1 else ""
        return f" ({rank_names([failure.rank for failure in speakers])}{host})"

    def _tell_all(self, message: Mapping[str, Any]) -> None:
        for member in self._members.values():
            if member.connection is not None:
                member.connection.send(message)


class Participant:
    """A rank other than 0, connected to rank 0."""

    def __init__(self, info: RankInfo, host: str, port: int, *, remedy: str) -> None:
        self._info, self._remedy = info, remedy
        connected = socket.create_connection((host, port), timeout=SECONDS_TO_MEET)
        connected.settimeout(None)
        _keep_alive(connected)
        self._connection = _Connection(connected)
        self._begun, self._ended = threading.Event(), threading.Event()
        self._refusal: str | None = None
        self._reporting = self._closing = False
        self._status = 1
        hello = {"hello": info.rank, "world_size": info.world_size, "host": info.host}
        self._connection.send(hello)
        threading.Thread(target=self._listen, daemon=True).start()

    def wait_for_all(self) -> None:
        """Return when every rank has come; UserError where rank 0 refuses this one."""
        # Rank 0 gives up on those that are missing, and says for whom it waits.
        while not self._begun.wait(1.0):
            pass
        if self._refusal is not None:
            raise UserError(self._refusal)

    def report(self, words: LastWords, *, show_traceback: bool) -> int:
        """Give this rank's last words; the status to exit with once rank 0 has told the user."""
        self._reporting = True
        self._connection.send({"failed": asdict(words), "show_traceback": show_traceback})
        if self._refusal is not None or not self._ended.wait(_SECONDS_TO_BE_TOLD):
            _tell(words.sentence)
            return words.status
        return self._status

    def close(self) -> None:
        """Leave, when every rank has done its work."""
        self._closing = True
        self._connection.send({"done": True})
        self._connection.socket.close()

    def _listen(self) -> None:
        while (messages := self._connection.receive()) is not None:
            for message in messages:
                if "end" in message:
                    self._end(message["end"])
                    return
                if "done" in message:
                    return
                self._refusal = message.get("refused")
                self._begun.set()
                if self._refusal is not None:
                    return
        if not self._closing:
            # Nobody else can tell: the one that speaks for all is gone.
            if self._info.rank == 1:
                gone = Failure(0, None, None, time.time(), f"{self._info.meeting}")
                _tell(str(gone.error(self._remedy)))
            self._end(1)

    def _end(self, status: int) -> None:
        self._status = status
        self._ended.set()
        if not self._reporting:
            _leave(status)


@dataclass
class _Connection:
    """A socket, and what has come of a message that is not whole yet."""

    socket: socket.socket
    member: _Member | None = None
    _partial: bytes = b""

    def receive(self) -> list[dict[str, Any]] | None:
        """The messages that have come, once any have; None where the other side is gone."""
        try:
            received = self.socket.recv(65_536)
        except OSError:
            return None
        if not received:
            return None
        *lines, self._partial = (self._partial + received).split(b"\n")
        return [json.loads(line) for line in lines]

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; one that cannot be sent is noticed when receiving."""
        try:
            self.socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return


@dataclass
class _Member:
    """What rank 0 knows of a rank."""

    host: str
    connection: _Connection | None = None
    words: LastWords | None = None
    died_at: float = field(default=0.0)
    is_done: bool = False

    @property
    def has_ended(self) -> bool:
        return self.is_done or self.words is not None or self.died_at > 0


def listen(port: int) -> socket.socket:
    """A socket that listens at a port, 0 for any, of all of this machine's addresses."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _keep_alive(connected: socket.socket) -> None:
    """Notice within half a minute that a machine is gone, which closes no connection."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _leave(status: int) -> NoReturn:
    """End this process while its main thread is at work, or waits for a rank that is gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
