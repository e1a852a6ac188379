"""Measures the machine that this program runs on, for ``weathermixer bench machine``.

Where ranks share processors, what they get depends on how many compute: one rank is measured
alone, with one thread and with all, and then as many at the same time as divide those started.
"""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from weathermixer.console import Progress
from weathermixer.errors import UserError
from weathermixer.jigsaw import mesh as meshes
from weathermixer.jigsaw.layout import Layout, layouts
from weathermixer.launch.environment import RankInfo, threads_per_rank
from weathermixer.planning.block_timing import launch_seconds, waiting_seconds
from weathermixer.planning.device_timing import measure_device, product_rate
from weathermixer.planning.link_timing import measure_link
from weathermixer.planning.machine import Computing, Link, Machine, ProductType, Storage

_NOISY = 0.1  # a spread of the same measurement that is worth a warning
_TYPES: dict[str, tuple[ProductType, ...]] = {
    "cpu": ("float32", "bfloat16", "float64"),
    "cuda": ("float32", "tf32", "bfloat16", "float64"),
}
_SIZES = {"cpu": (64, 128, 256, 512, 1024, 2048), "cuda": (256, 512, 1024, 2048, 4096, 8192)}
_WIDTH = {"cpu": 512, "cuda": 4096}  # of blocks that show how ranks wait for one another
_READ_BYTES = 64 * 1024**2


def measure_machine(rank: RankInfo, folder: Path, progress: Progress) -> Machine:
    """Measure what the ranks that were started have; all of them call this together.

    ``folder`` is where reading is measured. ``rank`` is this process.

    Raises UserError where the folder cannot be written.
    """
    device, local = meshes.local_device(), rank.local_world_size
    shares_processors = device.type == "cpu"
    settings: list[tuple[int, int | None]] = [(local, None)]
    if shares_processors:
        counts = [count for count in range(1, local + 1) if local % count == 0]
        together = [(count, _threads(count)) for count in counts]
        settings = list(dict.fromkeys([(1, 1), *together]))
    links: dict[int, Link | None] = {}
    parts: list[Computing] = []
    reference = [_reference_rate(rank, device)]
    for number, (ranks, threads) in enumerate(settings):
        progress(number, len(settings) + 1)
        part = _measured_together(rank, device, ranks, threads)
        if ranks not in links:
            links[ranks] = _measured_link(rank, device, ranks, part)
        if shares_processors:
            own = {"ranks": ranks, "threads": threads, "within_node": links[ranks]}
            part = part.model_copy(update=own)
        parts.append(part)
        reference.append(_reference_rate(rank, device))
    between = _link_between_nodes(rank, device, parts[-1], links[local])
    storage = _storage(rank, folder)
    reference.append(_reference_rate(rank, device))
    progress(len(settings) + 1, len(settings) + 1)
    spread = (max(reference) - min(reference)) / statistics.median(reference)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    name = platform.node() if shares_processors else torch.cuda.get_device_name()
    return Machine(
        name=name or "this machine",
        source=f"weathermixer bench machine, {date}, torch {torch.__version__}",
        ranks_per_node=local,
        memory_bytes=_memory_bytes(device, local),
        computing=tuple(parts),
        within_node=links[local] or _no_link(carried_by_processors=shares_processors),
        between_nodes=between,
        storage=storage,
        spread=max(meshes.gather_objects(spread)),
    )


def noise_warning(machine: Machine) -> str | None:
    """What to say of a machine that changed while it was measured; None where it did not."""
    if machine.spread is None or machine.spread <= _NOISY:
        return None
    return (
        f"Warning: the machine changed while it was measured: the same product took times that lay "
        f"{100 * machine.spread:.0f}% apart; measure again while nothing else runs."
    )


def _threads(ranks: int) -> int:
    """Threads of each of so many ranks, as they are started without a word from the user."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    return threads_per_rank(environment, ranks)


def _measured_together(
    rank: RankInfo, device: torch.device, ranks: int, threads: int | None
) -> Computing:
    """What the first ranks of each node have that compute together, while the others wait.

    Of each figure it is the slowest rank's, for which the others wait in a step.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    meshes.wait_for_all()
    mine: Computing | None = None
    if rank.local_rank < ranks:
        mine = measure_device(device, dtypes=_TYPES[device.type], sizes=_SIZES[device.type])
        begun = launch_seconds(_of_parts(mine), device)
        mine = mine.model_copy(update={"launch_seconds": begun})
    measured = [each for each in meshes.gather_objects(mine) if each is not None]
    first = measured[0]
    products: dict[str, Any] = {}
    for dtype, rates in first.products.items():
        slowest = _least(each.products[dtype].rates for each in measured)
        products[dtype] = rates.model_copy(update={"rates": slowest, "peak": max(slowest)})
    work = {
        kind: rates.model_copy(update={"rates": _least(each.work[kind].rates for each in measured)})
        for kind, rates in first.work.items()
    }
    return first.model_copy(
        update={
            "products": products,
            "memory_bytes_per_second": min(each.memory_bytes_per_second for each in measured),
            "work": work,
            "launch_seconds": max(each.launch_seconds for each in measured),
        }
    )


def _measured_link(
    rank: RankInfo, device: torch.device, ranks: int, computing: Computing
) -> Link | None:
    """The link between so many ranks of a node, which compute so; None for one rank."""
    if ranks == 1:
        return None
    # The first ranks of each node; ranks of the same node have numbers that follow each other.
    replicas, takes_part = rank.world_size // ranks, rank.local_rank < ranks
    line = meshes.connect(Layout(data=replicas, tensor=ranks), device=device)
    link = _slowest(measure_link(line.tensor, device) if takes_part else None)
    squarest, *_ = [each for each in layouts(ranks, data=replicas) if each.domain <= each.tensor]
    mesh = meshes.connect(squarest, device=device)
    machine = _of_parts(computing, link, ranks_per_node=rank.local_world_size)
    waits = None
    if takes_part:
        width = _WIDTH[device.type]
        waits = waiting_seconds(mesh, width, machine, device, is_between_nodes=False)
    return link.model_copy(update={"waiting_seconds": _mean(waits)})


def _link_between_nodes(
    rank: RankInfo, device: torch.device, computing: Computing, within: Link | None
) -> Link | None:
    """The link between nodes, with all ranks of each exchanging; None where there is one node."""
    local = rank.local_world_size
    nodes = rank.world_size // local
    if nodes == 1 or rank.world_size % local:
        return None
    mesh = meshes.connect(Layout(domain=nodes, tensor=local), device=device)
    link = _slowest(measure_link(mesh.domain, device))
    machine = _of_parts(computing, within, link, ranks_per_node=local)
    width = _WIDTH[device.type]
    waits = waiting_seconds(mesh, width, machine, device, is_between_nodes=True)
    return link.model_copy(update={"waiting_seconds": _mean(waits)})


def _of_parts(
    computing: Computing,
    within: Link | None = None,
    between: Link | None = None,
    *,
    ranks_per_node: int = 1,
) -> Machine:
    """A machine of what has been measured so far, by which a step of blocks is predicted."""
    return Machine(
        name="this machine",
        source="measured",
        ranks_per_node=ranks_per_node,
        memory_bytes=1.0,
        computing=(computing,),
        within_node=within or _no_link(carried_by_processors=between is None),
        between_nodes=between,
        storage=Storage(rank_bytes_per_second=1.0, node_bytes_per_second=1.0, source="none"),
    )


def _least(rates: Iterable[tuple[float, ...]]) -> tuple[float, ...]:
    """The least of each size, over ranks."""
    return tuple(map(min, zip(*rates, strict=True)))


def _slowest(own: Link | None) -> Link:
    """The link as the slowest of the ranks saw it that measured it."""
    links = [link for link in meshes.gather_objects(own) if link is not None]
    rates = _least(link.messages.rates for link in links)
    return links[0].model_copy(
        update={
            "latency_seconds": max(link.latency_seconds for link in links),
            "messages": links[0].messages.model_copy(update={"rates": rates}),
            "slowdown": max(link.slowdown for link in links),
        }
    )


def _mean(own: float | None) -> float:
    """The mean over the ranks that measured something."""
    return statistics.fmean(each for each in meshes.gather_objects(own) if each is not None)


def _no_link(*, carried_by_processors: bool) -> Link:
    """What stands for the link of a single rank, which never exchanges anything."""
    return Link.model_validate(
        {
            "latency_seconds": 1e-3,
            "messages": {"sizes": [1e6], "rates": [1e9]},
            "carried_by_processors": carried_by_processors,
            "source": "assumed: one rank was measured, which has nobody to exchange with",
        }
    )


def _reference_rate(rank: RankInfo, device: torch.device) -> float:
    """The rate of the first rank in one product, while the others wait: always the same."""
    meshes.wait_for_all()
    rate = 0.0
    if rank.local_rank == 0:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        rate = product_rate(1024, "float32", device)
        torch.set_num_threads(threads)
    return max(meshes.gather_objects(rate))


def _storage(rank: RankInfo, folder: Path) -> Storage:
    """Bytes per second that the first rank reads alone, and all of its node together."""
    try:
        with tempfile.TemporaryDirectory(dir=folder) as own:
            path = Path(own, "reading")
            path.write_bytes(os.urandom(1024) * (_READ_BYTES // 1024))
            meshes.wait_for_all()
            alone = _reading_rate(path) if rank.local_rank == 0 else 0.0
            meshes.wait_for_all()
            together = _reading_rate(path)
            meshes.wait_for_all()
    except OSError as error:
        raise UserError(
            f"reading cannot be measured in {folder} ({error.strerror}): give --out a folder that "
            "can be written"
        ) from error
    rates = meshes.gather_objects((alone, together))
    single = max(rate for rate, _ in rates)
    node = min(rate for _, rate in rates) * rank.local_world_size
    return Storage(
        rank_bytes_per_second=single,
        node_bytes_per_second=max(single, node),
        source="measured: a file of 64 MiB for each rank, past the system's cache",
    )


def _reading_rate(path: Path) -> float:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        while file.read(1024**2):
            pass
    return _READ_BYTES / (time.perf_counter() - start)


def _memory_bytes(device: torch.device, local: int) -> float:
    if device.type != "cpu":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / local
