"""What logged steps took on all ranks, beside what the machine can do and what was predicted.

Nothing here asks a device for anything; ranks tell each other once for each logged step.
"""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from weathermixer.jigsaw.mesh import gather_objects
from weathermixer.planning.choosing import MeshChoice
from weathermixer.training.effort import Effort


@dataclass(frozen=True)
class RankMeasure:
    """What one rank took for some steps, the bytes that it holds and has held, and watts.

    Bytes are those of the accelerator, or of the process where there is none. What nothing tells is
    None.
    """

    effort: Effort
    memory_bytes: int | None
    peak_memory_bytes: int
    watts: float | None

    @classmethod
    def now(cls, effort: Effort, device: torch.device, watts: float | None) -> RankMeasure:
        """The measure of a rank that has just taken these steps."""
        held, peak = memory_bytes(device), peak_memory_bytes(device)
        # Linux notes the peak of a process less often than what it holds.
        return cls(effort, held, max(peak, held or 0), watts)


def measured_together(own: RankMeasure) -> list[RankMeasure]:
    """The measures of all ranks, in their order; each of them calls this."""
    return gather_objects(own)


def numbers_of(
    ranks: Sequence[RankMeasure], *, samples_per_step: int, choice: MeshChoice
) -> dict[str, float]:
    """The numbers to log, of all ranks or else of the one with the most; what is unknown is absent.

    Seconds of a step are the first rank's. ``peak_fraction`` is operations of matrix products over
    time over what a rank of the machine can do at most, as ``weathermixer plan`` has it. Watts are
    those of all ranks together, where every machine tells them.
    """
    first = ranks[0].effort
    steps, seconds = max(1, first.steps), first.seconds
    per_step = seconds / steps
    flops = max(rank.effort.flops for rank in ranks) / seconds

    def most(of: Callable[[RankMeasure], float | None]) -> float | None:
        values = [value for value in map(of, ranks) if value is not None]
        return max(values) if values else None

    watts = [rank.watts for rank in ranks if rank.watts is not None]
    total_watts = sum(watts) if watts else None
    numbers = {
        "samples_per_second": samples_per_step / per_step,
        "seconds_per_step": per_step,
        "predicted_seconds_per_step": None if math.isnan(choice.seconds) else choice.seconds,
        "flops_per_second": flops,
        "peak_fraction": None if choice.peak is None else flops / choice.peak,
        "bytes_sent_per_step": most(lambda rank: rank.effort.bytes_sent / steps),
        "bytes_read_per_step": most(lambda rank: rank.effort.bytes_read / steps),
        "waited_for_data": most(lambda rank: rank.effort.waited_for_data / steps),
        "waited_for_ranks": most(lambda rank: rank.effort.waited_for_ranks_per_step),
        "memory_bytes": most(lambda rank: rank.memory_bytes),
        "peak_memory_bytes": most(lambda rank: rank.peak_memory_bytes),
        "watts": total_watts,
        "joules_per_sample": None
        if total_watts is None
        else total_watts * per_step / samples_per_step,
    }
    return {name: value for name, value in numbers.items() if value is not None}


def memory_bytes(device: torch.device) -> int | None:
    """Bytes held now: of the accelerator, or of the process; None where the system tells none."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return None
    return int(pages) * resource.getpagesize()


def peak_memory_bytes(device: torch.device) -> int:
    """The most bytes held so far: of the accelerator, or of the process where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    kibibytes = 1 if sys.platform == "darwin" else 1024  # what getrusage counts in
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kibibytes
