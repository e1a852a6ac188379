"""What steps of a training take on this rank: time, waits, bytes and operations."""

from __future__ import annotations

import time
from dataclasses import astuple, dataclass
from typing import Any

from weathermixer.jigsaw.activity import ACTIVITY
from weathermixer.jigsaw.mesh import Mesh


@dataclass(frozen=True)
class Effort:
    """What a number of ``steps`` took on this rank, in all.

    ``waited_for_data`` are the seconds in which its samples were not there yet, and
    ``waited_for_ranks`` those in which the processor stood in exchanges; an accelerator waits for
    itself, unseen by the processor, so that it is None there. ``exchanges`` are calls of the
    backend, and ``flops`` operations of matrix products, two for each multiply-add.
    """

    steps: int = 0
    seconds: float = 0.0
    waited_for_data: float = 0.0
    waited_for_ranks: float | None = 0.0
    bytes_read: int = 0
    bytes_sent: int = 0
    exchanges: int = 0
    flops: int = 0

    def __add__(self, other: Effort) -> Effort:
        return self._with(other, 1)

    def since(self, earlier: Effort) -> Effort:
        """What was added after ``earlier``."""
        return self._with(earlier, -1)

    def _with(self, other: Effort, sign: int) -> Effort:
        mine, theirs = astuple(self), astuple(other)
        values: list[Any] = [
            None if None in pair else pair[0] + sign * pair[1]
            for pair in zip(mine, theirs, strict=True)
        ]
        return Effort(*values)

    @property
    def waited_for_ranks_per_step(self) -> float | None:
        """Seconds a step in which the processor stood in exchanges; None on an accelerator."""
        if self.waited_for_ranks is None:
            return None
        return self.waited_for_ranks / max(1, self.steps)


class StepMeter:
    """Measures the step that begins when this is made, without a word to the device."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh, self._before = mesh, mesh.counter.copy()
        self._began = self._data_came = time.perf_counter()
        self._waited = ACTIVITY.waited_s

    def data_came(self) -> None:
        """Take note that the samples are there."""
        self._data_came = time.perf_counter()
        self._waited = ACTIVITY.waited_s

    def effort(self, *, bytes_read: int) -> Effort:
        """What the step has taken by now, for which so many bytes were read."""
        counted = self._mesh.counter.since(self._before)
        is_on_host = self._mesh.device.type == "cpu"
        return Effort(
            steps=1,
            seconds=time.perf_counter() - self._began,
            waited_for_data=self._data_came - self._began,
            waited_for_ranks=ACTIVITY.waited_s - self._waited if is_on_host else None,
            bytes_read=bytes_read,
            bytes_sent=counted.bytes_sent,
            exchanges=counted.calls,
            flops=2 * counted.multiply_adds,
        )
