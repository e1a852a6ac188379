"""What ``compare.py`` has every rank measure: seconds, bytes, memory, and whether results agree."""

from __future__ import annotations

import gc
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import process_counters
import torch
import torch.distributed as dist
from allocated_memory import allocated_bytes, most_allocated_bytes
from harness import MEGABYTE, Rank
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from peers import SCHEMES, interface, plain
from peers.blocks import BlockSizes, SchemeStep
from weathermixer.scaling.least_bytes import LeastBytes

Differences = dict[str, dict[str, float]]


@dataclass(frozen=True)
class SchemeRow:
    """What was measured of one scheme on one block; None where it was not.

    ``speed_up`` is the median time of serial by that of this scheme. Per step, ``needed_mb`` is
    what the exchanges that PyTorch was asked for have to send at the least, and ``sent_mb`` what
    was written to the sockets, each of the rank with the most; ``interface_mb`` is what the
    kernel's interfaces sent, as a mean over ranks: it equals ``sent_mb`` where ranks send alike.
    ``balance`` is the most operations of a rank by the mean over ranks.
    """

    scheme: str
    block: str
    samples_per_step: int
    median_s: float | None = None
    minimum_s: float | None = None
    maximum_s: float | None = None
    speed_up: float | None = None
    needed_mb: float | None = None
    sent_mb: float | None = None
    interface_mb: float | None = None
    peak_memory_mb: float | None = None
    balance: float | None = None
    processor_s: float | None = None


@dataclass(frozen=True)
class StepTime:
    """A step: seconds of the slowest rank, bytes of the one that sent most, and per interface.

    ``processor_seconds`` are those of the rank whose threads computed most.
    """

    seconds: float
    processor_seconds: float
    sent_bytes: float
    interface_bytes: float


def time_schemes(
    rank: Rank, blocks: dict[str, BlockSizes], schemes: Sequence[str], rounds: int
) -> list[SchemeRow]:
    """Measure seconds and bytes of every scheme on every block; all ranks get the same rows."""
    counted = sys.platform == "linux" and dist.get_backend() == "gloo"
    rows = []
    for block, sizes in blocks.items():
        steps = {name: _build(name, sizes, rank) for name in schemes}
        measured: dict[str, list[StepTime]] = {name: [] for name in steps}
        for number in range(1 + rounds):
            # No scheme always follows the same one, nor the ranks' rest while one computes alone.
            for name in random.Random(number).sample(list(steps), len(steps)):
                measured[name].append(_measure(steps[name], rank, counted=counted))
        counts = {name: _count(step, rank) for name, step in steps.items()}
        medians = {
            name: statistics.median(time.seconds / steps[name].samples for time in times[1:])
            for name, times in measured.items()
        }
        for name, (_, *times) in measured.items():
            seconds = [time.seconds / steps[name].samples for time in times]
            computed = statistics.median(time.processor_seconds for time in times)
            sent = statistics.median(time.sent_bytes for time in times)
            on_interfaces = statistics.median(time.interface_bytes for time in times)
            rows.append(
                SchemeRow(
                    name,
                    block,
                    steps[name].samples,
                    median_s=medians[name],
                    minimum_s=min(seconds),
                    maximum_s=max(seconds),
                    speed_up=medians["serial"] / medians[name] if "serial" in medians else None,
                    needed_mb=counts[name][0] / MEGABYTE,
                    balance=counts[name][1],
                    processor_s=computed / steps[name].samples,
                    sent_mb=sent / MEGABYTE if counted else None,
                    interface_mb=on_interfaces / MEGABYTE if counted else None,
                )
            )
    return rows


def measure_memory(rank: Rank, block: str, sizes: BlockSizes, scheme: str) -> SchemeRow:
    """Measure the most that two steps of a scheme hold above what the process held before."""
    before = process_counters.current_bytes(rank.device)
    step = _build(scheme, sizes, rank)
    rank.meet()
    # Weights are built whole before they are cut: that is not what a scheme needs.
    process_counters.reset_peak(rank.device)
    for _ in range(2):
        step.run()
    rank.synchronize()
    peak = max(rank.gather(process_counters.peak_bytes(rank.device) - before))
    return SchemeRow(scheme, block, step.samples, peak_memory_mb=peak / MEGABYTE)


def measure_allocated(rank: Rank, scheme: str, sizes: BlockSizes) -> int:
    """Measure the most bytes that the allocator gave out in two steps of a scheme, on any rank.

    What a tiny stack of the same scheme leaves behind is not counted: modules, and what
    communicators and libraries keep.
    """
    tiny = replace(sizes, tokens=64, channels=64, token_hidden=64, channel_hidden=64)
    _build(scheme, tiny, rank).run()
    gc.collect()
    before = allocated_bytes(rank.device)
    step = _build(scheme, sizes, rank)
    for _ in range(2):
        step.run()
    return max(rank.gather(most_allocated_bytes(rank.device) - before))


def compare_results(rank: Rank, schemes: Sequence[str]) -> Differences:
    """The largest relative difference from serial of anything that a step makes, by scheme."""
    sizes = BlockSizes(
        tokens=12 * rank.world_size,
        channels=8 * rank.world_size,
        token_hidden=6 * rank.world_size,
        channel_hidden=10 * rank.world_size,
        blocks=2,
        dtype=torch.float64,
    )
    differences = {}
    for name in schemes:
        step = _build(name, sizes, rank)
        # Twice: gradients left over from the first step would show.
        step.run()
        parts = step.run()
        own: dict[str, float] = {}
        if parts is not None:
            expected = [plain.reference(sizes, i, rank.device) for i in range(step.samples)]
            output, gradient, _ = expected[rank.number if step.samples > 1 else 0]
            own["output"] = _difference(step.gather(parts[0]), output)
            own["gradient of the input"] = _difference(step.gather(parts[1]), gradient)
            for weight, value in step.gradients().items():
                mean = torch.stack([weights[weight] for _, _, weights in expected]).mean(0)
                own[f"gradient of {weight}"] = _difference(value, mean)
        by_rank = rank.gather(own)
        differences[name] = {
            what: max(other.get(what, 0.0) for other in by_rank) for what in by_rank[0]
        }
    return differences


def _build(scheme: str, sizes: BlockSizes, rank: Rank) -> SchemeStep:
    return SCHEMES[scheme](sizes, rank.number, rank.world_size, rank.device)


def _measure(step: SchemeStep, rank: Rank, *, counted: bool) -> StepTime:
    """Time a step of all ranks; the first rank of each machine reads its interfaces."""
    reads_interfaces = counted and rank.local_number == 0
    rank.meet()
    on_interfaces = interface.transmitted_bytes() if reads_interfaces else 0
    rank.meet()
    sent = process_counters.written_bytes() if counted else 0
    start, computed = time.perf_counter(), time.process_time()
    step.run()
    rank.synchronize()
    seconds, computed = time.perf_counter() - start, time.process_time() - computed
    sent = process_counters.written_bytes() - sent if counted else 0
    rank.meet()
    on_interfaces = interface.transmitted_bytes() - on_interfaces if reads_interfaces else 0
    by_rank = zip(*rank.gather((seconds, computed, sent, on_interfaces)), strict=True)
    all_seconds, all_computed, all_sent, all_on_interfaces = by_rank
    return StepTime(
        max(all_seconds),
        max(all_computed),
        max(all_sent),
        sum(all_on_interfaces) / rank.world_size,
    )


def _count(step: SchemeStep, rank: Rank) -> tuple[float, float]:
    """The least that the exchanges of one step can send, of the rank with the most; the balance."""
    rank.meet()
    with LeastBytes() as sent, FlopCounterMode(display=False) as computed:
        step.run()
    operations = rank.gather(computed.get_total_flops())
    balance = max(operations) * len(operations) / sum(operations)
    return max(rank.gather(sent.total)), balance


def _difference(value: Tensor, expected: Tensor) -> float:
    return ((value - expected).abs().max() / expected.abs().max()).item()
