"""Where the network stands against one GPU: parity, speed over bare products, and ranks alone.

    python benchmarks/accelerator.py --json FILE              # one GPU; five minutes
    python benchmarks/accelerator.py --device cpu --small     # all of it, at a small size; seconds

1. Parity: loss, gradients and one step of a small network in every arithmetic, against float64 on
   the processor.
2. The published network of 1.06 B parameters at 17,280 tokens: seconds of a step and of its passes
   over those of its bare products, as a fraction of what the device reaches in large square
   products, and peak memory; with and without compiling what lies between products. One step runs
   with waits of the processor for the device forbidden.
3. What a rank of 2, 4 and 8 ways computes, alone, on each mesh: seconds, operations, memory. Its
   exchanges are fills of memory, so that compute and memory are known with one device.

A part that fails is told and recorded, and the others go on; the exit status is 1 then.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from device import meshes, network, parity
from harness import parser, write_record

from weathermixer.jigsaw.layout import layouts

GIGABYTE = 1e9
DTYPES = ("tf32", "bfloat16")


def main() -> None:
    arguments = parse()
    device = torch.device(arguments.device)
    began = time.perf_counter()
    if device.type == "cpu":
        torch.set_num_threads(1)
    options = {"small": arguments.small, "repetitions": 1 if arguments.small else 5}
    failed: list[str] = []

    def attempt(name: str, work: Callable[[], Any], show: Callable[[Any], str]) -> Any:
        """What ``work`` measures, told and kept; or the error that it ended with."""
        print(f"[{time.perf_counter() - began:5.0f} s] {name}: ", end="", flush=True)
        try:
            result = work()
            print(show(result), flush=True)
        except Exception as error:  # noqa: BLE001 - what is measured next may work
            traceback.print_exc()
            failed.append(name)
            result = {"measurement": name, "failed": f"{type(error).__name__}: {error}"}
        gc.collect()
        if device.type != "cpu":
            torch.accelerator.empty_cache()
        return result

    parities = attempt("parity", partial(parity.compare, device), show_parity)
    networks = [
        attempt(
            f"network, {dtype}{', compiled' if compile else ''}",
            partial(network.measure, dtype, device, compile=compile, **options),
            show_network,
        )
        for dtype in DTYPES
        for compile in ((False, True) if arguments.compile else (False,))
    ]
    ranks = [
        attempt(
            f"a rank of {layout.domain}x{layout.tensor}, {dtype}",
            partial(meshes.measure, layout, dtype, device, **options),
            show_rank,
        )
        for dtype in DTYPES
        for ways in meshes.WAYS
        for layout in layouts(ways)
    ]
    write_record(
        arguments.json,
        device.type,
        small=arguments.small,
        parity=parities,
        network=networks,
        ranks=ranks,
    )
    print(f"[{time.perf_counter() - began:5.0f} s] done")
    failed += ["waits" for row in networks if row.get("unasked_wait")]
    if isinstance(parities, list) and not all(row["within"] for row in parities):
        failed.append("parity")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def parse() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--device", default="cuda")
    options.add_argument("--small", action="store_true", help="a network of a few thousand weights")
    options.add_argument("--no-compile", dest="compile", action="store_false")
    options.add_argument("--json", type=Path, metavar="FILE", help="write what was measured there")
    return options.parse_args()


def show_parity(rows: list[dict[str, Any]]) -> str:
    return "relative differences of loss, gradients, changes\n" + "\n".join(
        f"    {row['dtype']:9}"
        + "".join(f" {row[name]:9.1e}" for name in ("loss", "gradient", "change"))
        + ("" if row["within"] else f"  ABOVE {row['tolerances']}")
        for row in rows
    )


def show_network(row: dict[str, Any]) -> str:
    seconds = row["seconds"]
    return (
        f"{1e3 * seconds['step']:.1f} ms a step, {1e3 * seconds['passes']:.1f} its passes, "
        f"{1e3 * seconds['products']:.1f} bare products: {row['step_over_products']:.3f} and "
        f"{row['passes_over_products']:.3f} times these, {row['peak_fraction']:.3f} of "
        f"{row['peak_operations_per_second'] / 1e12:.1f} T/s; "
        f"{row['peak_memory_bytes'] / GIGABYTE:.1f} GB"
        + (f"\n    UNASKED WAIT: {row['unasked_wait']}" if row["unasked_wait"] else "")
    )


def show_rank(row: dict[str, Any]) -> str:
    if "refused" in row:
        return f"refused: {row['refused']}"
    return (
        f"{1e3 * row['seconds']['step']:.1f} ms a step, {row['operations'] / 1e12:.2f} T "
        f"operations, {row['peak_memory_bytes'] / GIGABYTE:.1f} GB"
    )


if __name__ == "__main__":
    main()
