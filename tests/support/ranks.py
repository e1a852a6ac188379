"""Real ranks for tests: a pool of processes that talk over gloo, to which a test sends work.

They are forked from one process that has imported torch already, meet in a file and compute with
one thread each. A pool is started when a test first asks for so many ranks and ended when one asks
for another number, when one of its ranks fails, or when the tests end.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Collection
from functools import cache
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from weathermixer.jigsaw.layout import Layout

MOST = 8

_PRELOADED = [
    "hypothesis",
    "numpy",
    "pytest",
    "scipy.stats",
    "torch._dynamo",
    "torch.distributed",
    "weathermixer.training.trainer",
    "weathermixer.jigsaw.cost",
    "weathermixer.jigsaw.replicas",
]
# What the others are given to notice that a rank is lost, and to say so.
_GRACE_SECONDS = 3.0


class RankFailed(AssertionError):
    """Work failed on a rank; its message names the rank and shows where."""


class Lost:
    """Stands for the result of a rank that was expected to die."""


class Pool:
    """Ranks to run functions on: ``pool.run(function, layout, *arguments)``."""

    def __init__(self) -> None:
        self._ranks: list[tuple[BaseProcess, Connection]] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def run(
        self,
        function: Callable[..., Any],
        layout: Layout,
        *arguments: Any,
        overlap: bool = True,
        dying: Collection[int] = (),
        deadline_seconds: float = 120.0,
    ) -> list[Any]:
        """Run ``function(mesh, *arguments)`` on every rank of ``layout``; what each one returned.

        ``function`` is found by its module and name. The ranks in ``dying`` are expected to: their
        results are :class:`Lost`. Raises RankFailed where any other rank raises or dies, or where
        the ranks have not all answered in time.
        """
        if len(self._ranks) != layout.world_size:
            self.close()
            self._start(layout.world_size)
        work = pickle.dumps((function, layout, overlap, arguments))
        for _, connection in self._ranks:
            connection.send_bytes(work)
        results: dict[int, Any] = {}
        failures: dict[int, str] = {}
        waiting = {connection: rank for rank, (_, connection) in enumerate(self._ranks)}
        deadline = time.monotonic() + deadline_seconds
        while waiting:
            ready: list[Any] = wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                if not failures:
                    late = ", ".join(map(str, sorted(waiting.values())))
                    failures[-1] = f"no answer from rank {late} in {deadline_seconds:g} s"
                break
            for connection in ready:
                assert isinstance(connection, Connection)
                rank = waiting.pop(connection)
                try:
                    succeeded, answer = pickle.loads(connection.recv_bytes())
                except (EOFError, ConnectionError):
                    succeeded, answer = rank in dying, Lost()
                if succeeded:
                    results[rank] = answer
                else:
                    failures[rank] = "it died" if isinstance(answer, Lost) else answer
                    deadline = min(deadline, time.monotonic() + _GRACE_SECONDS)
        if failures or dying:
            self.close()
        if failures:
            raise RankFailed(
                "\n".join(
                    f"rank {rank} of {layout.world_size}: {reason}" if rank >= 0 else reason
                    for rank, reason in failures.items()
                )
            )
        return [results[rank] for rank in range(layout.world_size)]

    def close(self) -> None:
        """End all ranks, whatever they are doing."""
        for _, connection in self._ranks:
            connection.close()
        # Idle ranks end by themselves, and leave what was measured of the code that they ran.
        deadline = time.monotonic() + _GRACE_SECONDS
        for process, _ in self._ranks:
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()
            process.join()
        self._ranks = []
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _start(self, world_size: int) -> None:
        assert world_size <= MOST, f"{world_size} ranks are more than tests should start"
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        self._folder = tempfile.TemporaryDirectory()
        meeting = str(Path(self._folder.name) / "meeting")
        for rank in range(world_size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, world_size, meeting, theirs), daemon=True
            )
            process.start()
            theirs.close()
            self._ranks.append((process, ours))


def end_with_parent() -> None:
    """Return never: end this process, whatever it is doing, when the one that asked for it ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


# One for all tests of a process, whichever of them ask for it.
POOL = Pool()


def _serve(rank: int, world_size: int, meeting: str, connection: Connection) -> None:
    """What a rank does: it works until nobody sends it work any more."""
    import torch
    from torch._C._distributed_c10d import FileStore

    from weathermixer.jigsaw import mesh

    gc.freeze()  # every training begins with a collection, which need not look through modules
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    store = FileStore(meeting, world_size)
    mesh.start(rank, world_size, store=store, device=torch.device("cpu"))

    @cache
    def connected(layout: Layout, overlap: bool) -> mesh.Mesh:
        return mesh.connect(layout, overlap=overlap)

    while True:
        try:
            work = connection.recv_bytes()
        except EOFError:
            return
        try:
            function, layout, overlap, arguments = pickle.loads(work)
            answer = pickle.dumps((True, function(connected(layout, overlap), *arguments)))
        except Exception:  # noqa: BLE001 - the test that sent the work shows it
            answer = pickle.dumps((False, traceback.format_exc()))
        connection.send_bytes(answer)
