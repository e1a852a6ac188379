"""Takes steps of cases on the first ranks of those that were started, while the others wait.

A case is built anew for each round and dropped after it, so that what fits alone fits beside any
number of others. All ranks call everything here together.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass

import torch
import torch.distributed as dist

from weathermixer.jigsaw import mesh as meshes
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.planning.device_timing import product_rate, work_rates
from weathermixer.planning.machine import ProductType
from weathermixer.scaling.cases import Case
from weathermixer.scaling.contenders import JigsawTraining, PeerTraining, Samples, Stepping

STEPS_PER_ROUND = 3
_PRODUCT_SIZES = {"cpu": (512, 1024), "cuda": (2048, 4096, 8192)}


@dataclass(frozen=True)
class Measured:
    """A round of a case: the seconds of each step on its slowest rank, and the loss of the last.

    ``operations``, None where nobody counts them, and ``bytes_sent`` of a step are those of the
    rank with the most. Of a peer, bytes are what its exchanges have to send at the least.
    """

    seconds: list[float]
    loss: float
    operations: int | None
    bytes_sent: int


class Connections:
    """The groups of ranks that cases have needed so far: to make one takes all ranks and time."""

    def __init__(self) -> None:
        self.device = meshes.local_device()
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self._meshes: dict[Layout, Mesh | None] = {}
        self._groups: dict[int, dist.ProcessGroup] = {}

    def mesh(self, layout: Layout) -> Mesh | None:
        """The mesh of the first ranks; None on the others."""
        if layout not in self._meshes:
            self._meshes[layout] = meshes.connect_first(layout, device=self.device)
        return self._meshes[layout]

    def group(self, ranks: int) -> dist.ProcessGroup | None:
        """The process group of the first so many ranks; None for one alone."""
        if ranks == 1:
            return None
        if ranks not in self._groups:
            self._groups[ranks] = dist.new_group(list(range(ranks)))
        return self._groups[ranks]


def measure(case: Case, samples: Samples, connections: Connections) -> Measured:
    """Build a case, take a step that is not counted and then those of a round."""
    own: Measured | None = None
    stepping = _build(case, samples, connections)
    if stepping is not None:
        own = _take_steps(stepping, connections.device)
        stepping.close()
    del stepping
    gc.collect()  # hooks of a network refer to each other, and the next one needs the memory
    by_rank = [each for each in meshes.gather_objects(own) if each is not None]
    operations = [each.operations for each in by_rank if each.operations is not None]
    return Measured(
        [max(ranks) for ranks in zip(*(each.seconds for each in by_rank), strict=True)],
        by_rank[0].loss,
        max(operations, default=None),
        max(each.bytes_sent for each in by_rank),
    )


def measure_ceiling(
    dtype: ProductType, ranks: int, connections: Connections
) -> tuple[float, float]:
    """Operations of products and bytes of memory a second, of the slowest of so many ranks at once.

    Products and sums of two tensors are of the size at which they are fastest.
    """
    own = None
    if connections.rank < ranks:
        device = connections.device
        peak = max(product_rate(size, dtype, device) for size in _PRODUCT_SIZES[device.type])
        own = peak, max(work_rates(device, ["copy"])["copy"]["rates"])
    by_rank = [each for each in meshes.gather_objects(own) if each is not None]
    return min(peak for peak, _ in by_rank), min(rate for _, rate in by_rank)


def _build(case: Case, samples: Samples, connections: Connections) -> Stepping | None:
    if case.contender in ("jigsaw", "as configured"):
        mesh = connections.mesh(case.layout)
        return None if mesh is None else JigsawTraining(case, samples, mesh)
    group = connections.group(case.ranks)
    if connections.rank >= case.ranks:
        return None
    return PeerTraining(case, samples, connections.device, group, connections.rank)


def _take_steps(stepping: Stepping, device: torch.device) -> Measured:
    counted = stepping.counted_step()
    seconds, loss = [], 0.0
    for _ in range(STEPS_PER_ROUND):
        start = time.perf_counter()
        loss = stepping.step()
        seconds.append(time.perf_counter() - start)
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return Measured(seconds, loss, counted.operations, counted.bytes_sent)
