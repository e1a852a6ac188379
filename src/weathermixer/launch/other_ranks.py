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
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from weathermixer.launch.failures import LastWords

SECONDS_TO_MEET = 300.0
SECONDS_TO_COME = 60.0  # for ranks that have not come yet when another fails


class Companions(Protocol):
    """The other ranks, as one of them reaches them."""

    def wait_for_all(self) -> None:
        """Return when every rank has come; UserError where that takes too long."""

    def report(self, words: LastWords, *, show_traceback: bool) -> int:
        """Give this rank's last words; the status to exit with once the user has been told."""

    def close(self) -> None:
        """End in order, when every rank has done its work."""


@dataclass(eq=False)
class Connection:
    """A socket, and what has come of a message that is not whole yet."""

    socket: socket.socket
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


def listen(port: int) -> socket.socket:
    """A socket that listens at a port, 0 for any, of all of this machine's addresses."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def keep_alive(connected: socket.socket) -> None:
    """Notice within half a minute that a machine is gone, which closes no connection."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def tell(text: str) -> None:
    """One line to the user for all ranks, also from one that is muted."""
    print(text, file=sys.stderr, flush=True)


def leave(status: int) -> NoReturn:
    """End this process while its main thread is at work, or waits for a rank that is gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
