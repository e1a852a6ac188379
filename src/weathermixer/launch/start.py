"""Starting ranks on this machine, and ending all of them when one fails.

The process that starts them computes nothing and needs no torch. It passes on signals, decides
which of several failures was the first cause, and is the only one that tells it. The ranks notice
its own end from a pipe that it holds open.
"""

from __future__ import annotations

import json
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
from pathlib import Path
from types import FrameType

from weathermixer.errors import STOPPED_EARLY, UserError
from weathermixer.interpreter import environment_of_children
from weathermixer.launch.environment import MEETING_FOLDER, rank_info, threads_per_rank
from weathermixer.launch.failures import Failure, LastWords, first_cause

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_SECONDS_TO_END = 2.0  # for the ranks that a failure leaves behind, to say what they know of it
_SECONDS_TO_DIE = 10.0  # after which a killed process hangs in the system, and is given up
_SECONDS_OF_ONE_REQUEST = 1.0  # within which signals are copies of one, from several senders


def should_start_ranks(num_ranks: int | None) -> bool:
    """Whether a command with this ``--nproc`` is to start ranks, rather than to be one.

    Raises UserError where the environment says that ranks have been started.
    """
    if num_ranks is None:
        return False
    started = num_started()
    if started > 1:
        raise UserError(
            f"{started} ranks were started by torchrun or srun, as the environment says, so "
            "--nproc cannot start others: leave it out"
        )
    return num_ranks > 1


def num_started() -> int:
    """The ranks that were started, as the environment says it; 1 where it says nothing of any."""
    return rank_info(os.environ).world_size


def without_option(words: Sequence[str], option: str) -> list[str]:
    """A command line without an option that takes a value, however often it is given.

    >>> without_option(["train", "--nproc", "2", "c.yaml", "--nproc=3", "--", "--nproc"], "--nproc")
    ['train', 'c.yaml', '--', '--nproc']
    """
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            return [*kept, word, *rest]
        if word == option:
            next(rest, None)
        elif not word.startswith(f"{option}="):
            kept.append(word)
    return kept


def start_ranks(command: Sequence[str], num_ranks: int, *, remedy: str) -> None:
    """Run a command as ``num_ranks`` ranks on this machine, to their end.

    The first rank writes to this process's standard output and standard error; the others are not
    heard. SIGTERM, SIGUSR1 and Ctrl-C are passed on to the ranks, unless this process was started
    to ignore them: then the ranks ignore them as well.

    Raises RankFailed, with ``remedy`` where a rank died without a word, KeyboardInterrupt where
    the ranks obeyed a signal by ending at once, and SystemExit where they stopped early.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(_temporary_folder()))
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
            if ranks.have_stopped_early:
                raise SystemExit(STOPPED_EARLY)
            return
        cause = first_cause(failures)
        if cause.is_consequence_of(ranks.signal_passed_on):
            raise KeyboardInterrupt
        raise cause.error(remedy)


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="weathermixer-", ignore_cleanup_errors=True)
    except OSError as error:
        raise UserError(
            f"ranks have no folder to meet in ({error.strerror or error}): set TMPDIR to a folder "
            "that can be written"
        ) from error


class _Ranks:
    """The processes of ranks that this one starts, and what is heard of their ends."""

    def __init__(self, folder: Path) -> None:
        self.signal_passed_on: int | None = None
        self.have_stopped_early = False
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
        """While entered, the signals to stop go to the ranks, if this process receives them.

        It does so in its main thread alone.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {
            number: signal.signal(number, self._pass_on)
            for number in _SIGNALS
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        # The ranks hold it back by themselves until they can obey it.
        mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for number, handler in previous.items():
                signal.signal(number, handler)

    def wait(self) -> list[Failure]:
        """The failures, once all ranks have ended; the first one ends those that are left."""
        running = set(range(len(self._processes)))
        failures: list[Failure] = []
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
            if status == STOPPED_EARLY:
                self.have_stopped_early = True
            elif status and rank not in killed:
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

    def _failure(self, rank: int, status: int) -> Failure:
        return Failure(
            rank,
            status,
            LastWords.read(self._folder, rank),
            time.time(),
            output=self._output(rank).read_text(encoding="utf-8", errors="replace"),
            place=self._place(rank),
        )

    def _place(self, rank: int) -> str:
        """Where a rank's newest beat says that it was; empty where it has not beaten yet."""
        try:
            beat = json.loads((self._folder / f"beat-{rank}").read_text(encoding="utf-8"))
        except OSError:
            return ""
        return str(beat["place"])

    def _output(self, rank: int) -> Path:
        return self._folder / f"rank-{rank}.err"


def _environment(own: Mapping[str, str], rank: int, num_ranks: int, folder: Path) -> dict[str, str]:
    loopback = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    return {
        # Otherwise gloo looks up this machine's own name, which a laptop may have none for.
        **({"GLOO_SOCKET_IFNAME": loopback[0]} if loopback else {}),
        **own,
        **environment_of_children(),
        "RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        MEETING_FOLDER: str(folder.absolute()),
        "OMP_NUM_THREADS": own.get("OMP_NUM_THREADS") or str(threads_per_rank({}, num_ranks)),
    }
