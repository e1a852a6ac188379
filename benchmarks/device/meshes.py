"""What one rank of a mesh computes and holds, alone: its exchanges are fills of its memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any
from unittest import mock

import process_counters
import torch
import torch.distributed as dist

from device.learner import Learner, published
from device.network import STEPS
from device.timing import alternated, median
from weathermixer.jigsaw.fake import fake_mesh
from weathermixer.jigsaw.layout import Layout, LayoutError

WAYS = (2, 4, 8)


def measure(
    layout: Layout, dtype: str, device: torch.device, *, small: bool, repetitions: int
) -> dict[str, Any]:
    """Seconds of a step and of its passes, operations, and peak memory of the first rank."""
    architecture, training = published(small=small, dtype=dtype)
    row: dict[str, Any] = {"layout": asdict(layout), "dtype": dtype}
    del row["layout"]["rank"]
    process_counters.reset_peak(device)
    with fake_mesh(layout) as described, arrivals_filled():
        mesh = replace(described, device=device)
        try:
            learner = Learner.on(mesh, architecture, training)
        except LayoutError as error:
            return {**row, "refused": str(error)}
        before = mesh.counter.copy()
        assert learner.step().is_taken, "fills keep everything finite"
        counted = mesh.counter.since(before)
        peak_bytes = process_counters.peak_bytes(device)

        def times(function: Any) -> Any:
            return lambda: [function() for _ in range(STEPS)]

        taken = alternated(
            {"step": times(learner.step), "passes": times(learner.passes)}, repetitions, device
        )
    return {
        **row,
        "seconds": {name: median(values) / STEPS for name, values in taken.items()},
        "operations": 2 * counted.multiply_adds,
        "bytes_sent": counted.bytes_sent,
        "peak_memory_bytes": peak_bytes,
    }


@contextmanager
def arrivals_filled() -> Iterator[None]:
    """Within, what would come from other ranks is noise in (0, 1), written when it is asked for.

    What a fake process group leaves there is whatever the memory held, such as NaN or numbers so
    small that they take longer.
    """

    def fill(operations: list[dist.P2POp]) -> list[Any]:
        for operation in operations:
            if operation.op is dist.irecv:
                operation.tensor.uniform_()
        return []

    with mock.patch("torch.distributed.batch_isend_irecv", fill):
        yield
