"""Bytes per second of gloo's collectives between the ranks of torchrun, by what a rank sends.

    torchrun --nproc-per-node 2 benchmarks/gloo_collectives.py FILE

They are not those of single messages: ranks that send before they hear that the other one waits
take turns, and results are copied. ``slow_link.py`` predicts other schemes with them.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

SENT_BYTES = (10_000, 100_000, 1_000_000, 4_000_000, 16_000_000, 48_000_000)
REPETITIONS = 3


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rates = {
        kind: {
            "sizes": SENT_BYTES,
            "rates": [sent / _seconds(make(sent, dist.get_world_size())) for sent in SENT_BYTES],
        }
        for kind, make in COLLECTIVES.items()
    }
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(rates), encoding="utf-8")
    dist.destroy_process_group()


def _seconds(exchange: Callable[[], object]) -> float:
    """The median time of an exchange on the slowest rank; it is done once without being timed."""
    times = []
    for _ in range(1 + REPETITIONS):
        dist.barrier()
        start = time.perf_counter()
        exchange()
        taken = torch.tensor(time.perf_counter() - start)
        dist.all_reduce(taken, dist.ReduceOp.MAX)
        times.append(float(taken))
    return statistics.median(times[1:])


def _all_gather(sent: int, ranks: int) -> Callable[[], object]:
    part = torch.ones(sent // (ranks - 1) // 4)
    return lambda: dist.all_gather_single(part.new_empty(ranks * len(part)), part)


def _all_reduce(sent: int, ranks: int) -> Callable[[], object]:
    whole = torch.ones(_of_sum(sent, ranks))
    return lambda: dist.all_reduce(whole)


def _reduce_scatter(sent: int, ranks: int) -> Callable[[], object]:
    whole = torch.ones(_of_sum(sent, ranks))
    return lambda: dist.reduce_scatter_single(whole.new_empty(len(whole) // ranks), whole)


def _of_sum(sent: int, ranks: int) -> int:
    """Elements of what is summed where gloo sends so many bytes for it, in whole parts."""
    return sent * ranks // (2 * (ranks - 1)) // 4 // ranks * ranks


COLLECTIVES = {
    "all_gather": _all_gather,
    "all_reduce": _all_reduce,
    "reduce_scatter": _reduce_scatter,
}

if __name__ == "__main__":
    main()
