"""A rank other than 0 of another launcher's ranks, which leaves the telling to rank 0."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict

from weathermixer.errors import UserError
from weathermixer.launch.environment import RankInfo
from weathermixer.launch.failures import Failure, LastWords
from weathermixer.launch.other_ranks import (
    SECONDS_TO_COME,
    SECONDS_TO_MEET,
    Connection,
    exit_at_once,
    keep_alive,
    no_place,
    tell_user,
)

_SECONDS_TO_BE_TOLD = SECONDS_TO_COME + 30.0


class Participant:
    """The side of a rank other than 0: a thread that hears from rank 0 when to end."""

    def __init__(self, info: RankInfo, host: str, port: int, *, remedy: str) -> None:
        self._info, self._host, self._remedy = info, host, remedy
        self.place_of: Callable[[int], str] = no_place
        connected = socket.create_connection((host, port), timeout=SECONDS_TO_MEET)
        connected.settimeout(None)
        keep_alive(connected)
        self._connection = Connection(connected)
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
        """Give this rank's last words; returns the status to exit with, once the user is told."""
        self._reporting = True
        self._connection.send({"failed": asdict(words), "show_traceback": show_traceback})
        if self._refusal is not None or not self._ended.wait(_SECONDS_TO_BE_TOLD):
            tell_user(words.sentence)
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
                place = self.place_of(0)
                gone = Failure(0, None, None, time.time(), self._host, place=place)
                tell_user(str(gone.error(self._remedy)))
            self._end(1)

    def _end(self, status: int) -> None:
        self._status = status
        self._ended.set()
        if not self._reporting:
            exit_at_once(status)
