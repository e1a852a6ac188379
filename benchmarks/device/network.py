"""What a step of the published network takes on one device, over its bare products."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import process_counters
import torch

from device.learner import Learner, published
from device.products import bare_products
from device.timing import alternated, median, peak_rate
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.arithmetic import Arithmetic

STEPS = 3  # in each measurement, so that the device has the next one's work before it needs it


def measure(
    dtype: str, device: torch.device, *, compile: bool, small: bool, repetitions: int
) -> dict[str, Any]:
    """Time steps, passes alone and bare products in turn; seconds are of one step each."""
    architecture, training = published(small=small, dtype=dtype, compile=compile)
    arithmetic = Arithmetic.of(dtype)
    peak = peak_rate(arithmetic, 256 if small else 8192, device)
    process_counters.reset_peak(device)
    mesh = replace(Mesh.describe(), device=device)
    learner = Learner.on(mesh, architecture, training)
    before = mesh.counter.copy()
    learner.step()  # compiles, and asks the system for memory
    operations = 2 * mesh.counter.since(before).multiply_adds
    waits = unasked_wait(learner, device)
    peak_bytes = process_counters.peak_bytes(device)
    bare = bare_products(
        learner.state.model,
        lambda name: arithmetic.states if name.startswith(("encoder", "head")) else
        arithmetic.products,
        device,
        without_input_gradient=("encoder",),
    )  # fmt: skip

    def times(function: Any) -> Any:
        def run() -> None:
            with arithmetic.in_force():
                for _ in range(STEPS):
                    function()

        return run

    taken = alternated(
        {"step": times(learner.step), "passes": times(learner.passes), "products": times(bare)},
        repetitions,
        device,
    )
    seconds = {name: median(values) / STEPS for name, values in taken.items()}
    return {
        "dtype": dtype,
        "compile": compile,
        "parameters": sum(p.numel() for p in learner.state.model.parameters()),
        "tokens": architecture.tokens,
        "operations": operations,
        "seconds": seconds,
        "step_over_products": seconds["step"] / seconds["products"],
        "passes_over_products": seconds["passes"] / seconds["products"],
        "peak_operations_per_second": peak,
        "peak_fraction": operations / seconds["step"] / peak,
        "peak_memory_bytes": peak_bytes,
        "unasked_wait": waits,
    }


def unasked_wait(learner: Learner, device: torch.device) -> str | None:
    """What in a step makes the processor wait for a GPU, but for the event that ends it, if any."""
    if device.type != "cuda":
        return None
    torch.cuda.set_sync_debug_mode("error")
    try:
        learner.step()
    except RuntimeError as error:
        return str(error)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        learner.state.model.zero_grad()
    return None
