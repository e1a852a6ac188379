"""Starting ranks on this machine, and ending all of them when one fails.

The process that starts them computes nothing and needs no torch. It passes on signals, decides
which of several failures was the first cause, and is the only one that tells it. The ranks notice
its own end from a pipe that it holds open.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from weathermixer.errors import UserError
from weathermixer.launch.place import RENDEZVOUS, place_in, threads_per_rank
from weathermixer.launch.report import REPORTS, Report

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SECONDS_TO_END = 2.0  # for the ranks that a failure leaves behind, to say what they know of it
_SECONDS_TO_DIE = 10.0  # after which a killed process hangs in the system, and is given up
_SECONDS_OF_ONE_REQUEST = 1.0  # within which signals are copies of one, from several senders


class RankFailed(RuntimeError):
    """A rank failed, and the others were stopped; its message is the sentence for the user.

    ``status`` is that of the command; ``details`` are a traceback or what else the rank wrote.
    """

    def __init__(self, sentence: str, status: int, details: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.details = details


def starts_ranks(num_ranks: int | None) -> bool:
    """Whether a command with this ``--nproc`` is to start ranks, rather than to be one.

    Raises UserError where the environment says that ranks have been started.
    """
    if num_ranks is None:
        return False
    started = place_in(os.environ).world_size
    if started > 1:
        raise UserError(
            f"{started} ranks were started by torchrun or srun, as the environment says, so "
            "--nproc cannot start others: leave it out"
        )
    return num_ranks > 1


def start_ranks(command: Sequence[str], num_ranks: int, *, remedy: str) -> None:
    """Run a command as ``num_ranks`` ranks on this machine, to their end.

    The first rank writes to this process's standard output and standard error; the others are not
    heard. SIGTERM and Ctrl-C are passed on to the ranks.

    Raises RankFailed, with ``remedy`` where a rank died without a word, and KeyboardInterrupt where
    the ranks obeyed a signal by ending at once.
    """
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="weathermixer-", ignore_cleanup_errors=True)
            )
        )
        ends_with_us, held = os.pipe()
        stack.callback(os.close, held)
        ranks = _Ranks(folder)
        stack.callback(ranks.kill)
        try:
            for rank in range(num_ranks):
                ranks.start(
                    command, rank, _environment(os.environ, rank, num_ranks, folder), ends_with_us
                )
        finally:
            os.close(ends_with_us)
        with ranks.signals_passed_on():
            failures = ranks.wait()
        if not failures:
            return
        cause = min(failures, key=_Failure.weakness)
        if cause.is_consequence_of(ranks.signal_passed_on):
            raise KeyboardInterrupt
        raise cause.error(remedy)


@dataclass(frozen=True)
class _Failure:
    """How a rank ended: its exit status as ``subprocess`` counts it, and what it left."""

    rank: int
    status: int
    report: Report | None
    output: str
    time: float

    def weakness(self) -> tuple[int, float]:
        """Less for what is more likely to be the cause of the other failures, then by time.

        Times alone would not do, since a rank that loses another may be heard of first.
        """
        if self.report is None:
            # A library that loses its connection may abort.
            return (3 if self.status == -signal.SIGABRT else 1), self.time
        if self.report.rank_lost:
            return 4, self.report.time
        if self.report.interrupted:
            return 3, self.report.time
        return (0 if self.report.status == 2 else 2), self.report.time

    def is_consequence_of(self, number: int | None) -> bool:
        """Whether a signal to all ranks explains it."""
        if number is None:
            return False
        if self.report is None:
            return self.status == -number
        return self.report.interrupted or self.report.rank_lost

    def error(self, remedy: str) -> RankFailed:
        """What the user hears."""
        if self.report is not None:
            return RankFailed(self.report.sentence, self.report.status, self.report.traceback)
        end = (
            f"was killed by {signal.Signals(-self.status).name}"
            if self.status < 0
            else f"ended with status {self.status} and without a word"
        )
        return RankFailed(
            f"Error: rank {self.rank} {end}, so the other ranks were stopped: {remedy}",
            1,
            self.output,
        )


class _Ranks:
    """The processes, and what is heard of their ends."""

    def __init__(self, folder: Path) -> None:
        self.signal_passed_on: int | None = None
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ends: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self._request_time = -_SECONDS_OF_ONE_REQUEST

    def start(
        self, command: Sequence[str], rank: int, environment: Mapping[str, str], stdin: int
    ) -> None:
        """Start the next rank."""
        with self._output(rank).open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=None if rank == 0 else subprocess.DEVNULL,
                stderr=None if rank == 0 else output,
                env=environment,
                # Otherwise Ctrl-C in a terminal would reach the ranks twice, here passed on.
                start_new_session=True,
            )
        self._processes.append(process)
        threading.Thread(target=lambda: self._ends.put((rank, process.wait())), daemon=True).start()

    @contextmanager
    def signals_passed_on(self) -> Iterator[None]:
        """While entered, SIGTERM and Ctrl-C go to the ranks. Only the main thread gets any."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self._pass_on) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def wait(self) -> list[_Failure]:
        """The failures, once all ranks have ended; the first one ends those that are left."""
        running = set(range(len(self._processes)))
        failures: list[_Failure] = []
        killed: set[int] = set()
        deadline: float | None = None
        while running:
            try:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                rank, status = self._ends.get(timeout=left)
            except queue.Empty:
                if killed:
                    break
                killed = set(running)
                self.kill()
                deadline = time.monotonic() + _SECONDS_TO_DIE
                continue
            running.remove(rank)
            if status and rank not in killed:
                failures.append(self._failure(rank, status))
                deadline = deadline or time.monotonic() + _SECONDS_TO_END
        return failures

    def kill(self) -> None:
        """End every rank that is left, at once: what it was writing stays aside, unfinished."""
        for process in self._processes:
            process.kill()

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._request_time >= _SECONDS_OF_ONE_REQUEST:
            self._request_time = now
            self.signal_passed_on = number
            for process in self._processes:
                process.send_signal(number)

    def _failure(self, rank: int, status: int) -> _Failure:
        return _Failure(
            rank,
            status,
            Report.of_rank(self._folder, rank),
            self._output(rank).read_text(encoding="utf-8", errors="replace"),
            time.time(),
        )

    def _output(self, rank: int) -> Path:
        return self._folder / f"rank-{rank}.err"


def _environment(own: Mapping[str, str], rank: int, num_ranks: int, folder: Path) -> dict[str, str]:
    loopback = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    return {
        # Otherwise gloo looks up this machine's own name, which a laptop may have none for.
        **({"GLOO_SOCKET_IFNAME": loopback[0]} if loopback else {}),
        **own,
        "RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        RENDEZVOUS: (folder / "rendezvous").as_uri(),
        REPORTS: str(folder),
        "OMP_NUM_THREADS": own.get("OMP_NUM_THREADS") or str(threads_per_rank({}, num_ranks)),
    }
