"""Seconds on a device, and the rate at which it multiplies."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

from weathermixer.model.arithmetic import Arithmetic


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """Seconds that one call takes on a device, between events on its stream."""
    if device.type == "cpu":
        start = time.perf_counter()
        function()
        return time.perf_counter() - start
    begin, end = (torch.Event(device=device, enable_timing=True) for _ in range(2))
    begin.record()
    function()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def alternated(
    functions: Mapping[str, Callable[[], object]], repetitions: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of several functions that take turns, after one call of each that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for repetition in range(repetitions + 1):
        for name, function in functions.items():
            taken = seconds_of(function, device)
            if repetition:
                seconds[name].append(taken)
    return seconds


def peak_rate(arithmetic: Arithmetic, size: int, device: torch.device) -> float:
    """Operations per second of square products of so many rows, the fastest of ten."""
    left, right = (
        torch.randn(size, size, dtype=arithmetic.products, device=device) for _ in range(2)
    )
    out = torch.empty_like(left)
    with arithmetic.in_force():
        taken = alternated({"": lambda: torch.mm(left, right, out=out)}, 10, device)[""]
    return 2.0 * size**3 / min(taken)


def median(values: list[float]) -> float:
    """The median of measurements."""
    return statistics.median(values)
