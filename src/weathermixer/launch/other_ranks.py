"""How ranks of another launcher reach each other, apart from what they compute.

torchrun and srun start ranks that have no parent of ours, so all of them connect to rank 0, which
coordinates (``coordinator.py``); the others take part (``participant.py``). A message is one line
of JSON. Nothing of torch is known here.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from weathermixer.launch.failures import LastWords

SECONDS_TO_MEET = 300.0
# Ranks come all at once, and one that finds no place among those that wait tries again a second
# later, then after two. The system may allow fewer.
_MOST_AT_ONCE = 4096
SECONDS_TO_COME = 60.0  # for ranks that have not come yet when another fails


class OtherRanks(Protocol):
    """How a rank reaches the others: it waits for them, reports a failure, or ends in order.

    ``place_of`` tells where in the program another rank was last heard, once ranks listen.
    """

    place_of: Callable[[int], str]

    def wait_for_all(self) -> None:
        """Return when every rank has come; RanksMissing where that takes too long."""

    def report(self, words: LastWords, *, show_traceback: bool) -> int:
        """Give this rank's last words; returns the status to exit with, once the user is told."""

    def close(self) -> None:
        """End in order, when every rank has done its work."""


@dataclass(eq=False)
class Connection:
    """A connected socket that carries messages, and what has come of one that is not whole yet."""

    socket: socket.socket
    _partial: bytes = b""

    def receive(self) -> list[dict[str, Any]] | None:
        """Wait for messages, and return those that have come; None where the other side is gone."""
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


def listen(port: int) -> socket.socket:
    """Listen at a port of all of this machine's addresses; 0 stands for any that is free."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", port), family=socket.AF_INET6, backlog=_MOST_AT_ONCE, dualstack_ipv6=True
        )
    return socket.create_server(("", port), backlog=_MOST_AT_ONCE)


def no_place(rank: int) -> str:
    """Nothing, as long as ranks do not listen to each other."""
    return ""


def keep_alive(connected: socket.socket) -> None:
    """Have a connection fail within half a minute of its other machine's end, which closes none."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def tell_user(text: str) -> None:
    """Print a line to the user for all ranks, also from one that is muted."""
    print(text, file=sys.stderr, flush=True)


def exit_at_once(status: int) -> NoReturn:
    """End this process while its main thread is at work, or waits for a rank that is gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
