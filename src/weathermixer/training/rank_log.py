"""What a rank notes for whoever asks later what became of it: a line for each thing, in a file.

Written by the rank itself, a line at a time, so that what it was told to do last is there even
where it was killed. Nothing here fails: a line that cannot be written is left out.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from weathermixer.errors import reason
from weathermixer.jigsaw.activity import ACTIVITY
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.launch.consistency import versions
from weathermixer.training.measures import RankMeasure
from weathermixer.training.notices import Notices
from weathermixer.training.tail import replace_tail

MOST_BYTES = 2**20
"""What a log may hold; then it becomes the old one, and the one before that is forgotten."""


class RankLog:
    """A file of dated lines, to which a training that goes on adds.

    With the old one it stays below twice ``MOST_BYTES``.
    """

    def __init__(self, path: Path, notices: Notices) -> None:
        self._path, self._notices = path, notices
        self._lock = threading.Lock()  # threads that watch a rank write too

    def write(self, text: str) -> None:
        """Add a line, where that is possible."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        line = f"{now} {' '.join(text.split())}\n".encode(errors="replace")
        with self._lock:
            try:
                self._append(line)
            except OSError as error:
                trouble = reason(error)
            else:
                return
        self._notices.say_once(
            "rank log",
            f"the log {self._path} cannot be written ({trouble}): training goes on without it; "
            "free some space, make the folder writable, or set logging.ranks=false",
        )

    def _append(self, line: bytes) -> None:
        self._path.parent.mkdir(exist_ok=True)
        size = self._path.stat().st_size if self._path.exists() else 0
        if size + len(line) > MOST_BYTES:
            self._path.replace(self._path.with_suffix(".old.log"))
            size = 0
        replace_tail(self._path, size, line)


class RankNotes:
    """Notes of what happens to a training on this rank, while it is entered."""

    def __init__(self, log: RankLog) -> None:
        self._log = log
        self._show_warning: Callable[..., Any] | None = None

    def begin(self, mesh: Mesh, *, step: int, checkpoint: Path | None) -> None:
        """Note where and with what the rank begins, and what else is to be noted from now on."""
        layout, device = mesh.layout, mesh.device
        name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
        place = ", ".join(f"{axis.name} {axis.index} of {axis.size}" for axis in mesh.axes)
        software = ", ".join(f"{name} {version}" for name, version in versions().items())
        start = "with initial weights" if checkpoint is None else f"from {checkpoint}"
        self._log.write(
            f"rank {layout.rank} of {layout.world_size} ({place}) on {socket.gethostname()}, "
            f"process {os.getpid()}, device {device}{name}, {torch.get_num_threads()} threads; "
            f"{software.replace('the version of ', '')}; begins after step {step} {start}"
        )
        self._show_warning = warnings.showwarning
        warnings.showwarning = self._warning  # type: ignore[assignment]
        ACTIVITY.farewells.append(self._farewell)

    def step(self, number: int, loss: float, own: RankMeasure) -> None:
        """Note what the logged steps up to ``number`` took on this rank."""
        effort = own.effort
        steps = max(1, effort.steps)
        ranks = effort.waited_for_ranks_per_step
        waits = f"waits of {effort.waited_for_data / steps:.3g} s for samples"
        waits += "" if ranks is None else f" and {ranks:.3g} s for ranks"
        held = "" if own.memory_bytes is None else f"holds {own.memory_bytes} bytes, "
        self._log.write(
            f"step {number}: loss {loss:.6g}, {effort.seconds / steps:.3g} s a step with {waits}, "
            f"{held}at most {own.peak_memory_bytes}"
        )

    def end(self, step: int, error: BaseException | None) -> None:
        """Note how it ended after ``step``."""
        if self._show_warning is not None:
            warnings.showwarning = self._show_warning
            ACTIVITY.farewells.remove(self._farewell)
        how = "" if error is None else f" by {type(error).__name__}: {error}; it was {_place()}"
        self._log.write(f"ended after step {step}{how}")

    def _warning(self, message: Any, category: Any, filename: str, lineno: int, *rest: Any) -> None:
        assert self._show_warning is not None
        self._log.write(f"{category.__name__}: {message} ({filename}:{lineno})")
        self._show_warning(message, category, filename, lineno, *rest)

    def _farewell(self, sentence: str) -> None:
        self._log.write(f"the job is ended: {sentence}; this rank was {_place()}")


def _place() -> str:
    """Where in the program this rank is, and what it waits for."""
    beat = ACTIVITY.now()
    waits = beat.waits_for or beat.waits_alone_for
    return beat.place() + (f", waiting for {waits}" if waits else "")
