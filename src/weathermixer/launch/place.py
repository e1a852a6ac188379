"""Which rank this process is, as torchrun, srun or ``start.py`` say it in the environment.

Pure functions of the environment; no process and no connection is started here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from weathermixer.errors import UserError

RENDEZVOUS = "WEATHERMIXER_RENDEZVOUS"
"""Names where ranks meet, as an init method of torch: instead of torchrun's and srun's names."""


@dataclass(frozen=True)
class Place:
    """One rank among all, and among those of its machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    rendezvous: str = ""

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that speaks for all."""
        return self.rank == 0


def place_in(environment: Mapping[str, str]) -> Place:
    """The rank that an environment describes; the only one where it describes none.

    Raises UserError where the environment contradicts itself or does not say where ranks meet.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return _from_torchrun(environment)
    # A batch script has the variables of a task but is none: it runs once, and starts the tasks.
    is_batch_script = "SLURM_JOB_ID" in environment and "SLURM_STEP_ID" not in environment
    if "SLURM_PROCID" in environment and not is_batch_script:
        return _from_slurm(environment)
    return Place()


def threads_per_rank(environment: Mapping[str, str], local_world_size: int) -> int:
    """Threads to compute with: as the environment says, or this machine's cores shared out."""
    # srun may have shared out the cores already, so that a task sees its own alone.
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        if environment.get(name, "").isdecimal():
            return max(1, int(environment[name]))
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, cores // local_world_size)


def own_gpu(place: Place, num_gpus: int, environment: Mapping[str, str]) -> int:
    """Which of the GPUs that this process sees is its own; UserError where there are too few."""
    if place.local_rank < num_gpus:
        return place.local_rank
    # SLURM can show each task its own GPU alone, which is then the first of one.
    if num_gpus == 1 and "SLURM_LOCALID" in environment and "LOCAL_RANK" not in environment:
        return 0
    raise UserError(
        f"{place.local_world_size} ranks were started on a machine with {num_gpus} "
        f"{'GPU' if num_gpus == 1 else 'GPUs'}: start one for each, or set "
        "CUDA_VISIBLE_DEVICES to nothing to compute without"
    )


def first_host(hosts: str) -> str:
    """The first of the machines in a list of SLURM.

    >>> [first_host(hosts) for hosts in ("gpu[003-005,9],login", "a1,a[2-3]", "r[1-2]n[4,6]")]
    ['gpu003', 'a1', 'r1n4']
    """
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", hosts).partition(",")[0]


def tasks_on_node(counts: str, node: int) -> int:
    """How many tasks a node has, by SLURM's list of counts; 0 where it says nothing of the node.

    >>> [tasks_on_node("4(x2),3", node) for node in range(4)]
    [4, 4, 3, 0]
    """
    nodes: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", counts):
        nodes += [int(count)] * int(times or 1)
    return nodes[node] if node < len(nodes) else 0


def _from_torchrun(environment: Mapping[str, str]) -> Place:
    return _checked(
        Place(
            _number(environment, "RANK"),
            _number(environment, "WORLD_SIZE"),
            _number(environment, "LOCAL_RANK", 0),
            _number(environment, "LOCAL_WORLD_SIZE", 1),
            environment.get(RENDEZVOUS, "env://" if "MASTER_ADDR" in environment else ""),
        ),
        f"WORLD_SIZE is set, but neither MASTER_ADDR nor {RENDEZVOUS}, so the ranks cannot meet: "
        "start them with torchrun, srun or --nproc",
    )


def _from_slurm(environment: Mapping[str, str]) -> Place:
    step_tasks = "SLURM_STEP_NUM_TASKS"  # of this srun; the others are of the whole job
    world_size = _number(
        environment, step_tasks if step_tasks in environment else "SLURM_NTASKS", 1
    )
    hosts = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    address = environment.get("MASTER_ADDR") or first_host(hosts)
    # Jobs that share a machine have different numbers, and these ports lie below those that the
    # system gives out by itself.
    port = 15_000 + _number(environment, "SLURM_JOB_ID", 0) % 10_000
    counts = environment.get("SLURM_STEP_TASKS_PER_NODE", "")
    return _checked(
        Place(
            _number(environment, "SLURM_PROCID"),
            world_size,
            _number(environment, "SLURM_LOCALID", 0),
            tasks_on_node(counts, _number(environment, "SLURM_NODEID", 0)) or world_size,
            f"tcp://{address}:{_number(environment, 'MASTER_PORT', port)}" if address else "",
        ),
        f"srun started {world_size} ranks, but neither MASTER_ADDR nor SLURM_JOB_NODELIST is set, "
        "so the ranks cannot meet: set MASTER_ADDR to the machine of rank 0",
    )


def _checked(place: Place, no_rendezvous: str) -> Place:
    if place.rank >= place.world_size:
        raise UserError(
            f"the environment says that this is rank {place.rank} of {place.world_size}, which "
            "count from 0: start all ranks with one torchrun, srun or --nproc"
        )
    if place.world_size > 1 and not place.rendezvous:
        raise UserError(no_rendezvous)
    return place


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise UserError(
            f"{name} is {text!r} in the environment, which is not a number: leave it to torchrun, "
            "srun or --nproc to set it"
        )
    return int(text)
