"""What one rank computes in a second, measured: products, memory, elementwise work, launches.

Each figure is the mean of several repetitions, which stop when enough time has been spent: a step
is a sum of such times, and where ranks take turns on a processor most of them are short.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weathermixer.jigsaw.cutting import parallelize
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.architecture import Architecture
from weathermixer.model.arithmetic import Arithmetic
from weathermixer.model.cuts import cuts
from weathermixer.model.mixer import Mixing
from weathermixer.planning.machine import Computing, Machine, ProductType, Work
from weathermixer.planning.step_phases import stack_phases

_ELEMENTS = 1 << 20  # of an activation, as large as those of middling networks
_ROWS = 1 << 10
_SMALLEST_NETWORK = Architecture(
    prognostic=1,
    static=0,
    grid=(1, 8),
    patch=(1, 1),
    channels=8,
    blocks=8,
    token_hidden=8,
    channel_hidden=8,
    dropout=0.0,
    prediction="increment",
)


def seconds_of(
    work: Callable[[], object], device: torch.device, *, budget_seconds: float = 0.25
) -> float:
    """The mean time of a piece of work, which is first done once without being timed."""
    work()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or (time.perf_counter() - began < budget_seconds and len(times) < 200):
        _synchronize(device)
        start = time.perf_counter()
        work()
        _synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.fmean(times)


def product_rate(size: int, dtype: ProductType, device: torch.device) -> float:
    """Operations per second of a product of cubes, with operands as layers have them."""
    arithmetic = Arithmetic.of(dtype)
    left = torch.randn(size, size, device=device).to(arithmetic.products)
    right = torch.randn(size, size, device=device).to(arithmetic.products)
    out = torch.empty_like(left)
    repeats = max(1, 10**7 // size**3)  # so that the clock does not count

    def multiply() -> None:
        for _ in range(repeats):
            torch.mm(left, right.t(), out=out)

    with arithmetic.in_force():
        return 2 * size**3 * repeats / seconds_of(multiply, device)


def memory_rate(device: torch.device) -> float:
    """Bytes per second that a sum of two tensors reads and writes, in fresh memory."""
    one, other = (torch.randn(4 * _ELEMENTS, device=device) for _ in range(2))
    return 3 * one.nbytes / seconds_of(lambda: one + other, device)


def work_seconds(device: torch.device) -> dict[Work, float]:
    """Seconds for an element of each kind of elementwise work, in float32."""
    x = torch.randn(_ROWS, _ELEMENTS // _ROWS, device=device)
    gradient = torch.randn_like(x)
    gain = torch.ones(x.shape[1], device=device)
    _, mean, scale = torch.native_layer_norm(x, gain.shape, gain, gain, 1e-5)
    parameter = nn.Parameter(torch.randn_like(x))
    parameter.grad = gradient.clone()
    optimizer = torch.optim.AdamW([parameter], lr=1e-9, fused=True)
    measured: dict[Work, Callable[[], object]] = {
        "activation": lambda: F.gelu(x),
        "activation_backward": partial(_differentiate_gelu, x, gradient),
        "norm": lambda: torch.native_layer_norm(x, gain.shape, gain, gain, 1e-5),
        "norm_backward": lambda: torch.ops.aten.native_layer_norm_backward(
            gradient, x, gain.shape, mean, scale, gain, gain, [True, True, True]
        ),
        "optimizer": optimizer.step,
    }
    return {kind: seconds_of(work, device) / _ELEMENTS for kind, work in measured.items()}


def launch_seconds(machine: Machine, device: torch.device) -> float:
    """Seconds of the host for each kernel, in a step of blocks so small that nothing else counts.

    ``machine`` says how their kernels are counted, and nothing of their time.
    """
    mesh = Mesh.describe(Layout())
    model = _blocks(_SMALLEST_NETWORK, mesh, device)
    x = torch.randn(_SMALLEST_NETWORK.tokens, 1, _SMALLEST_NETWORK.channels, device=device)
    x.requires_grad_()

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model(x).sum().backward()

    phases = stack_phases(model, samples=1, dtype="float32", mesh=mesh, machine=machine)
    kernels = sum(
        sum(product.count for product in phase.products)
        + sum(work.kernels for work in phase.elementwise)
        for phase in phases
    )
    return seconds_of(step, device, budget_seconds=1.0) / kernels


def measure_device(
    machine: Machine,
    device: torch.device,
    *,
    dtypes: Iterable[ProductType],
    sizes: Iterable[int],
) -> Computing:
    """Measure what this rank computes with, in products of these types and sizes, and the rest.

    ``machine`` is as in :func:`launch_seconds`.
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
    return Computing.model_validate(
        {
            "products": products,
            "memory_bytes_per_second": memory_rate(device),
            "seconds_per_element": work_seconds(device),
            "launch_seconds": launch_seconds(machine, device),
            "launches_ahead": device.type != "cpu",
            "source": "measured",
        }
    )


def _blocks(architecture: Architecture, mesh: Mesh, device: torch.device) -> nn.Module:
    blocks = nn.Sequential(
        *(
            nn.Sequential(
                Mixing("tokens", architecture, device), Mixing("channels", architecture, device)
            )
            for _ in range(architecture.blocks)
        )
    )
    table = {
        name.removeprefix("blocks."): cut
        for name, cut in cuts(architecture, mesh).items()
        if name.startswith("blocks.")
    }
    return parallelize(blocks, mesh, table)


def _differentiate_gelu(x: Tensor, gradient: Tensor) -> None:
    variable = x.detach().requires_grad_()
    F.gelu(variable).backward(gradient)


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()
