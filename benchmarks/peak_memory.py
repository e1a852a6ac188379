"""Measure the memory of training steps on this machine beside what is predicted of it.

    python benchmarks/peak_memory.py --ranks 1 2 4 [--small] [--json FILE]

The real step is taken on real ranks. Of each process the growth of its resident memory is measured,
with a C library that gives every block of 64 KiB and more back to the system as soon as it is free.
On one rank, and on GPUs, PyTorch's allocator is asked too: what it counts is exact.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import MEGABYTE, on_ranks, parser, write_record
from measured_peaks import Case, PeakRow, measure_peaks

from weathermixer.config import Parallel, Training
from weathermixer.jigsaw.layout import Layout
from weathermixer.model.architecture import Architecture


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    options.add_argument("--small", action="store_true", help="a few small cases, in seconds")
    options.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options.add_argument("--json", type=Path)
    arguments = options.parse_args()
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(64 * 1024)  # of glibc, in the ranks
    rows: list[PeakRow] = []
    for num_ranks in arguments.ranks:
        cases = [
            case for case in all_cases(small=arguments.small) if case.layout.world_size == num_ranks
        ]
        rows += on_ranks(measure_peaks, num_ranks, arguments.device, cases)
        _print(rows[-len(cases) :])
    write_record(
        arguments.json,
        arguments.device,
        cases=[{**dataclasses.asdict(row), "errors": row.errors} for row in rows],
    )


def all_cases(*, small: bool) -> list[Case]:
    """Meshes of one, two and four ranks, each with precisions, rollouts and recomputation."""
    architecture = _architecture(small=small)
    state = dataclasses.replace(architecture, prediction="state")
    # So that the tensors of each of four ranks outweigh what a process needs besides.
    large = dataclasses.replace(architecture, channels=2560, token_hidden=2560, channel_hidden=2560)
    large_state = dataclasses.replace(large, prediction="state")
    one, pair, tensors = Layout(), Layout(domain=2), Layout(tensor=2)
    four, replicas = Layout(domain=2, tensor=2), Layout(data=2)
    both = Layout(data=2, tensor=2)
    sharded = {"shard_optimizer": True}
    on_one = [
        _case(architecture, one),
        _case(architecture, one, dtype="bfloat16", recompute=True),
        _case(architecture, one, rollout=2),
        _case(state, one),
    ]
    if small:
        return on_one
    return [
        *on_one,
        _case(architecture, one, recompute=True),
        _case(architecture, one, rollout=4),
        _case(architecture, one, dtype="float64"),
        _case(architecture, one, dtype="bfloat16"),
        _case(architecture, one, dtype="bfloat16", rollout=4, recompute=True),
        _case(state, one, instance_batch=2),
        _case(architecture, pair),
        _case(architecture, pair, dtype="bfloat16", rollout=4),
        _case(architecture, pair, recompute=True),
        _case(architecture, tensors),
        _case(architecture, tensors, rollout=4),
        _case(architecture, tensors, dtype="bfloat16"),
        _case(architecture, replicas),
        _case(state, replicas, sharded),
        _case(large, four),
        _case(large, four, rollout=4),
        _case(large_state, four, dtype="bfloat16"),
        _case(large, both, sharded, recompute=True),
    ]


def _architecture(*, small: bool) -> Architecture:
    """A network of a few hundred megabytes of weights, or with ``small`` of ten."""
    width = 384 if small else 1536
    return Architecture(
        prognostic=69,
        static=3,
        grid=(48, 96) if small else (96, 192),
        patch=(4, 4),
        channels=width,
        blocks=3,
        token_hidden=width,
        channel_hidden=width,
        dropout=0.001,
        prediction="increment",
    )


def _case(
    architecture: Architecture,
    layout: Layout,
    parallel: dict[str, Any] | None = None,
    **training: Any,
) -> Case:
    settings = {"instance_batch": 1, **training}
    words = [
        f"{layout.data}x{layout.domain}x{layout.tensor}",
        architecture.prediction,
        *(f"{name} {value}" for name, value in {**settings, **(parallel or {})}.items()),
    ]
    return Case(
        ", ".join(words),
        architecture,
        layout,
        Training(**settings),
        Parallel(data=layout.data, **(parallel or {})),
    )


def _print(rows: Sequence[PeakRow]) -> None:
    for row in rows:
        measured = {"resident": row.resident, "allocated": row.allocated}
        compared = ", ".join(
            f"{name} {value / MEGABYTE:.1f} ({row.errors[name]:+.1%})"
            for name, value in measured.items()
            if value
        )
        print(f"{row.case}: predicted {row.predicted / MEGABYTE:.1f} MB, {compared}", flush=True)


if __name__ == "__main__":
    main()
