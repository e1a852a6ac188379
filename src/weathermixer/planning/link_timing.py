"""What ranks exchange in a second, measured over an axis of a mesh, and what computing then takes.

The exchanges are Jigsaw's own: rounds in which each rank sends to one peer and hears from another.
"""

from __future__ import annotations

import statistics
import time

import torch

from weathermixer.jigsaw.exchange import Gather, all_gather
from weathermixer.jigsaw.mesh import Axis
from weathermixer.planning.device_timing import seconds_of
from weathermixer.planning.machine import Link

_MESSAGES = (10_000, 100_000, 1_000_000, 10_000_000)
_REPETITIONS = 15
_MOST_PRODUCTS = 1000


def measure_link(axis: Axis, device: torch.device) -> Link:
    """Measure exchanges between the ranks of an axis, all of which call this together."""
    # The median: where ranks share processors, one is now and then not there for a while.
    latency = statistics.median(_gather_seconds(axis, 8, device)) / (axis.size - 1)
    rates = []
    for num_bytes in _MESSAGES:
        seconds = statistics.fmean(_gather_seconds(axis, num_bytes, device))
        calls = axis.size - 1
        # Below the resolution of the clock the whole time is the messages'.
        rates.append(num_bytes * calls / max(seconds - calls * latency, 0.1 * seconds))
    return Link.model_validate(
        {
            "latency_seconds": latency,
            "messages": {"sizes": _MESSAGES, "rates": rates},
            "carried_by_processors": not axis.has_link,
            "slowdown": _slowdown(axis, device, seconds),
            "source": f"measured, {axis.size} ranks at the same time",
        }
    )


def _gather_seconds(axis: Axis, num_bytes: int, device: torch.device) -> list[float]:
    piece = torch.ones(num_bytes // 4, device=device)
    times = []
    for _ in range(1 + _REPETITIONS):
        _meet(axis, device)
        start = time.perf_counter()
        Gather(axis, piece, [tuple(piece.shape)] * axis.size).wait()
        _synchronize(device)
        times.append(time.perf_counter() - start)
    return times[1:]


def _slowdown(axis: Axis, device: torch.device, message_seconds: float) -> float:
    """How many times as long products take while a large message travels.

    There are so many of them that they take about as long as the message, ``message_seconds``.
    """
    piece = torch.ones(_MESSAGES[-1] // 4, device=device)
    matrix = torch.ones(512, 512, device=device)
    single = seconds_of(lambda: torch.mm(matrix, matrix), device)
    products = min(_MOST_PRODUCTS, max(1, round(message_seconds / single)))
    alone: list[float] = []
    beside: list[float] = []
    for _ in range(_REPETITIONS):
        for times, exchanges in ((alone, False), (beside, True)):
            _meet(axis, device)
            gather = Gather(axis, piece, [tuple(piece.shape)] * axis.size) if exchanges else None
            start = time.perf_counter()
            for _ in range(products):
                torch.mm(matrix, matrix)
            _synchronize(device)
            times.append(time.perf_counter() - start)
            if gather is not None:
                gather.wait()
    return min(10.0, max(1.0, statistics.median(beside) / statistics.median(alone)))


def _meet(axis: Axis, device: torch.device) -> None:
    """Return when all ranks of the axis have come here."""
    all_gather(axis, torch.ones(2, device=device))
    _synchronize(device)


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()
