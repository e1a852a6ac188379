"""What one rank computes in a second, measured: products, memory, and elementwise work.

Each figure is the mean of several repetitions, which stop when enough time has been spent: a step
is a sum of such times, and where ranks take turns on a processor most of them are short.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weathermixer.model.arithmetic import Arithmetic
from weathermixer.planning.machine import Computing, ProductType, Work

_ELEMENTS = (1 << 14, 1 << 17, 1 << 20, 1 << 23)  # of tensors, as those of networks small to large
_COLUMNS = 1 << 10
_TENSORS = 32
_POOL_BYTES = 1 << 28
_MOST_REPETITIONS = 200
_AHEAD = 16


def seconds_of(
    work: Callable[[], object],
    device: torch.device,
    *,
    budget_seconds: float = 0.25,
    repetitions: int | None = None,
) -> float:
    """The mean time of a piece of work, which is first done once without being timed.

    It is repeated as often as ``budget_seconds`` allow, or so many times. An accelerator is given
    some of it ahead, as it is in a step: alone, little work takes as long as to wait for it.
    """
    work()
    ahead = 1 if device.type == "cpu" else _AHEAD
    times: list[float] = []
    began = time.perf_counter()

    def goes_on() -> bool:
        if repetitions is not None:
            return len(times) < repetitions
        return len(times) < 3 or (
            time.perf_counter() - began < budget_seconds and len(times) < _MOST_REPETITIONS
        )

    while goes_on():
        _synchronize(device)
        start = time.perf_counter()
        for _ in range(ahead):
            work()
        _synchronize(device)
        times.append((time.perf_counter() - start) / ahead)
    return statistics.fmean(times)


def product_rate(size: int, dtype: ProductType, device: torch.device) -> float:
    """Operations per second of a product of cubes, of operands that were not used lately."""
    arithmetic = Arithmetic.of(dtype)
    num_factors = _pool(size * size * arithmetic.products.itemsize)
    factors = [
        torch.randn(size, size, device=device).to(arithmetic.products) for _ in range(num_factors)
    ]
    pairs = zip(factors, factors[1:] + factors[:1], strict=True)
    multiply = _in_turn([partial(_multiply, *pair) for pair in pairs])
    repeats = max(1, 10**7 // size**3)  # so that the clock does not count
    with arithmetic.in_force():
        seconds = seconds_of(lambda: [multiply() for _ in range(repeats)], device)
    return 2 * size**3 * repeats / seconds


def work_rates(
    device: torch.device, kinds: Iterable[Work] | None = None
) -> dict[Work, dict[str, tuple[float, ...]]]:
    """Bytes per second that each kind of elementwise work reads and writes, by the bytes of one.

    In float32, into fresh memory, as a step does: what it reads was written long before. ``kinds``
    are by default all that a step of Jigsaw has.
    """
    found: dict[Work, dict[str, tuple[float, ...]]] = {}
    for kind in _WORK if kinds is None else kinds:
        tensors, make = _WORK[kind]
        sizes = [float(4 * tensors * elements) for elements in _ELEMENTS]
        rates = []
        for elements, num_bytes in zip(_ELEMENTS, sizes, strict=True):
            work = _in_turn([make(elements, device) for _ in range(_pool(num_bytes))])
            rates.append(num_bytes / seconds_of(work, device, budget_seconds=0.1))
        found[kind] = {"sizes": tuple(sizes), "rates": tuple(rates)}
    return found


def _pool(num_bytes: float) -> int:
    """How many pieces of work of so many bytes take turns.

    A step goes through all of its tensors before it comes to one again: dozens of small ones, or a
    few large ones. What it reads is therefore in no cache, or in as large a one as in a step.
    """
    return max(2, min(_TENSORS, int(_POOL_BYTES // num_bytes)))


def _in_turn(pool: Sequence[Callable[[], object]]) -> Callable[[], None]:
    """Does the next of several pieces of work in each call, and keeps what came of the others.

    So no result takes the memory that the last one has just left, as none does in a forward pass.
    """
    results: deque[object] = deque(maxlen=len(pool))
    following = itertools.cycle(pool)
    return lambda: results.append(next(following)())


def _multiply(left: Tensor, right: Tensor) -> Tensor:
    return torch.mm(left, right.t())


def _copy(elements: int, device: torch.device) -> Callable[[], object]:
    one, other = torch.randn(elements, device=device), torch.randn(elements, device=device)
    return lambda: one + other


def _transpose(elements: int, device: torch.device) -> Callable[[], object]:
    patches = torch.randn(elements // 128, 32, 4, device=device).transpose(0, 1)
    return patches.contiguous


def _activation(elements: int, device: torch.device) -> Callable[[], object]:
    x = _rows(elements, device)
    return lambda: F.gelu(x)


def _activation_backward(elements: int, device: torch.device) -> Callable[[], object]:
    x, gradient = _rows(elements, device), _rows(elements, device)
    return lambda: torch.ops.aten.gelu_backward(gradient, x)


def _norm(elements: int, device: torch.device) -> Callable[[], object]:
    x = _rows(elements, device)
    gain = torch.ones(x.shape[1], device=device)
    return lambda: torch.native_layer_norm(x, gain.shape, gain, gain, 1e-5)


def _norm_backward(elements: int, device: torch.device) -> Callable[[], object]:
    x, gradient = _rows(elements, device), _rows(elements, device)
    gain = torch.ones(x.shape[1], device=device)
    _, mean, scale = torch.native_layer_norm(x, gain.shape, gain, gain, 1e-5)
    return lambda: torch.ops.aten.native_layer_norm_backward(
        gradient, x, gain.shape, mean, scale, gain, gain, [True, True, True]
    )


def _optimizer(elements: int, device: torch.device) -> Callable[[], object]:
    parameter = nn.Parameter(torch.randn(elements, device=device))
    parameter.grad = torch.randn_like(parameter)
    return torch.optim.AdamW([parameter], lr=1e-9, fused=True).step


def _rows(elements: int, device: torch.device) -> Tensor:
    return torch.randn(elements // _COLUMNS, _COLUMNS, device=device)


# Of each kind, how many tensors it reads and writes, and what makes one to be done again and again.
_WORK: dict[Work, tuple[int, Callable[[int, torch.device], Callable[[], object]]]] = {
    "copy": (3, _copy),
    "transpose": (2, _transpose),
    "activation": (2, _activation),
    "activation_backward": (3, _activation_backward),
    "norm": (2, _norm),
    "norm_backward": (3, _norm_backward),
    "optimizer": (7, _optimizer),
}


def measure_device(
    device: torch.device, *, dtypes: Iterable[ProductType], sizes: Iterable[int]
) -> Computing:
    """Measure what this rank computes with, in products of these types and sizes, and the rest.

    The host's time for a kernel is left out: see ``block_timing.py``.
    """
    products = {}
    for dtype in dtypes:
        rates = {}
        for size in sizes:
            rates[float(size)] = product_rate(size, dtype, device)
        products[dtype] = {
            "sizes": tuple(rates),
            "rates": tuple(rates.values()),
            "peak": max(rates.values()),
            "source": "measured; the peak is the largest rate",
        }
    work = work_rates(device)
    return Computing.model_validate(
        {
            "products": products,
            "memory_bytes_per_second": work["copy"]["rates"][-1],
            "work": work,
            "launch_seconds": 0.0,
            "launches_ahead": device.type != "cpu",
            "source": "measured",
        }
    )


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()
