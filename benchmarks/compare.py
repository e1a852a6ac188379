"""Jigsaw's mixer blocks and those of other schemes, side by side on the same ranks.

    python benchmarks/compare.py --check                     # are they all the same function?
    python benchmarks/compare.py --ranks 2 --blocks A,B,L    # seconds and bytes
    python benchmarks/compare.py --memory                    # peak memory
    torchrun --nproc-per-node 4 benchmarks/compare.py        # ranks that torchrun starts

The schemes take turns: one step each in every round, in an order drawn anew (the same in every
run), the ranks meeting before and after. Seconds are per sample: a step of ``fsdp2`` and ``ddp``
takes one sample per rank, and its time is divided by that. Bytes and memory are per rank and step,
as the rank with the most has them. Without a GPU each rank computes in one thread.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path

import torch
from harness import on_ranks, parser, under_torchrun, write_record
from peers import SCHEMES
from peers.blocks import BlockSizes
from peers.measuring import (
    Differences,
    SchemeRow,
    compare_results,
    measure_memory,
    time_schemes,
)

# The token-mixing hidden layer is half as wide as the tokens are many in A and L, as wide in B.
BLOCKS = {
    "A": BlockSizes(tokens=1080, channels=1080, token_hidden=540, channel_hidden=1080, blocks=3),
    "B": BlockSizes(tokens=1080, channels=2160, token_hidden=1080, channel_hidden=2160, blocks=3),
    "L": BlockSizes(tokens=4320, channels=2160, token_hidden=2160, channel_hidden=2160, blocks=1),
}
# In float64 a scheme may differ from serial by rounding, relative to the largest value.
ROUNDING = 1e-12


def main() -> None:
    arguments = parse()
    ranks, device, schemes = arguments.ranks, arguments.device, arguments.schemes
    if arguments.check:
        sys.exit(report_check(on_ranks(compare_results, ranks, device, schemes)))
    dtype = getattr(torch, arguments.dtype)
    blocks = {name: replace(BLOCKS[name], dtype=dtype) for name in arguments.blocks}
    if arguments.memory:
        # Freed blocks go back to the system at once (glibc, in the processes started from here on),
        # so the peak is of memory in use, not of what the allocator kept.
        os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
        rows = [
            on_ranks(measure_memory, ranks, device, name, sizes, scheme)
            for name, sizes in blocks.items()
            for scheme in schemes
        ]
    else:
        rows = on_ranks(time_schemes, ranks, device, blocks, schemes, arguments.rounds)
    print_table(rows)
    write_record(
        arguments.json,
        device,
        ranks=ranks,
        rounds=arguments.rounds,
        dtype=arguments.dtype,
        rows=[asdict(row) for row in rows],
    )


def parse() -> argparse.Namespace:
    def names(known: Collection[str], text: str) -> list[str]:
        chosen = text.split(",")
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return chosen

    options = parser(__doc__)
    options.add_argument("--blocks", type=functools.partial(names, list(BLOCKS)), default="A,B,L")
    options.add_argument(
        "--schemes", type=functools.partial(names, list(SCHEMES)), default=",".join(SCHEMES)
    )
    options.add_argument("--ranks", type=int, default=2, help="torchrun's own number where it runs")
    options.add_argument("--rounds", type=int, default=7, help="after one that is not counted")
    options.add_argument("--dtype", choices=("float32", "float64", "bfloat16"), default="float32")
    options.add_argument(
        "--device", choices=("cpu", "cuda"), help="default: cuda where there is one"
    )
    options.add_argument("--check", action="store_true", help="compare results with serial instead")
    options.add_argument("--memory", action="store_true", help="measure peak memory instead")
    options.add_argument("--json", type=Path, metavar="FILE", help="write machine, date and rows")
    arguments = options.parse_args()

    arguments.device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if under_torchrun():
        arguments.ranks = int(os.environ["WORLD_SIZE"])
        if arguments.memory:
            options.error("--memory starts new processes for each scheme: run it without torchrun")
    elif arguments.device == "cuda" and arguments.ranks > torch.cuda.device_count():
        options.error(
            f"{arguments.ranks} ranks need a GPU each, but there are {torch.cuda.device_count()}: "
            "choose fewer with --ranks, or --device cpu"
        )
    if arguments.rounds < 1:
        options.error("--rounds must be at least 1")
    return arguments


def report_check(differences: Differences) -> int:
    """Print one line a scheme; 1 where one differs by more than rounding, else 0."""
    for name, values in differences.items():
        worst = max(values, key=values.__getitem__)
        verdict = "differs" if values[worst] > ROUNDING else "agrees"
        print(f"{name:18} {verdict}: at most {values[worst]:.1e}, in the {worst}")
    return int(any(max(values.values()) > ROUNDING for values in differences.values()))


def print_table(rows: list[SchemeRow]) -> None:
    def cell(value: float | None, digits: int) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    print(
        f"{'':24}{'seconds per sample':>30}{'speed':>7}{'MB per rank and step':>27}{'peak':>8}"
        f"{'most by':>9}\n"
        f"{'scheme':18}{'block':6}{'median':>10}{'minimum':>10}{'maximum':>10}"
        f"{'-up':>7}{'needed':>9}{'sent':>9}{'iface':>9}{'MB':>8}{'mean':>9}"
    )
    for row in rows:
        print(
            f"{row.scheme:18}{row.block:6}{cell(row.median_s, 3):>10}{cell(row.minimum_s, 3):>10}"
            f"{cell(row.maximum_s, 3):>10}{cell(row.speed_up, 2):>7}{cell(row.needed_mb, 1):>9}"
            f"{cell(row.sent_mb, 1):>9}{cell(row.interface_mb, 1):>9}"
            f"{cell(row.peak_memory_mb, 0):>8}{cell(row.balance, 3):>9}"
        )


if __name__ == "__main__":
    main()
