"""Measure the memory of training steps on this machine beside what is predicted of it.

    python benchmarks/peak_memory.py --ranks 1 2 4 [--small] [--json FILE]

The real steps are taken on real ranks, each case in processes of its own, whose allocator counts
what it gives out on all threads (``allocated_memory.py``).
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from allocated_memory import COUNT_BLOCKS
from harness import MEGABYTE, on_ranks, parser, write_record
from measured_peaks import Case, PeakRow, measure_peak

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
    os.environ.update(COUNT_BLOCKS)  # of the ranks
    rows: list[PeakRow] = []
    for case in all_cases(small=arguments.small):
        if case.layout.world_size not in arguments.ranks:
            continue
        row = on_ranks(measure_peak, case.layout.world_size, arguments.device, case)
        rows.append(row)
        print(
            f"| {row.case} | {row.predicted / MEGABYTE:.1f} | {row.allocated / MEGABYTE:.1f} | "
            f"{row.error:+.1%} | {row.libraries / MEGABYTE:.1f} |",
            flush=True,
        )
    write_record(
        arguments.json,
        arguments.device,
        cases=[{**dataclasses.asdict(row), "error": row.error} for row in rows],
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
    if small:
        return [
            _case(architecture, one),
            _case(architecture, one, dtype="bfloat16", recompute=True),
            _case(architecture, pair, rollout=4),
            _case(state, replicas, sharded),
            _case(large, four, dtype="bfloat16"),
        ]
    return [
        _case(architecture, one),
        _case(architecture, one, dtype="bfloat16", recompute=True),
        _case(architecture, one, rollout=2),
        _case(state, one),
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
    """A network of a few hundred megabytes of weights, or with ``small`` of sixty."""
    width = 768 if small else 1536
    return Architecture(
        prognostic=69,
        static=3,
        grid=(96, 192),
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


if __name__ == "__main__":
    main()
