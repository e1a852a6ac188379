"""Which rank this process is, as torchrun, srun, mpirun or this program say in the environment.

Pure functions of the environment; no process and no connection is started here. What they return is
all that the program knows of a rank: nobody else asks the environment.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from weathermixer.errors import UserError
from weathermixer.interpreter import num_cores
from weathermixer.launch.other_launchers import (
    RanksRefused,
    Variables,
    mpi_launcher,
    refuse_unknown_launchers,
)

MEETING_FOLDER = "WEATHERMIXER_MEETING_FOLDER"
"""Names the folder in which ranks meet and leave their last words, to those of ``start_ranks``."""


@dataclass(frozen=True)
class MeetingAddress:
    """Where the ranks of another launcher meet: at a ``port`` of ``host``, the machine of rank 0.

    ``is_served`` says that the launcher listens there already; otherwise rank 0 does. ``attempt``
    tells apart what is started at the same address one after the other.
    """

    host: str
    port: int
    is_served: bool = False
    attempt: str = ""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class RankInfo:
    """A rank among all, and its share of its machine.

    It is number ``rank`` of ``world_size`` in all, and ``local_rank`` of ``local_world_size`` on
    its machine. ``threads`` is what it computes with, None where PyTorch follows OMP_NUM_THREADS by
    itself. ``meeting`` is where ranks meet: a folder of this machine, an address, or None for the
    only rank. ``host`` is the name of its machine for messages, and ``sees_own_gpu`` says that the
    launcher may show this rank its own GPU alone.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    threads: int | None = None
    meeting: Path | MeetingAddress | None = None
    host: str = ""
    sees_own_gpu: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that speaks for all."""
        return self.rank == 0

    def gpu_number(self, num_gpus: int) -> int:
        """The index of this rank's GPU among those that it sees; UserError if they are too few."""
        if self.local_rank < num_gpus:
            return self.local_rank
        if num_gpus == 1 and self.sees_own_gpu:
            return 0
        raise UserError(
            f"{self.local_world_size} ranks were started on a machine with {num_gpus} "
            f"{'GPU' if num_gpus == 1 else 'GPUs'}: start one for each, or set "
            "CUDA_VISIBLE_DEVICES to nothing to compute without"
        )


def rank_info(environment: Mapping[str, str]) -> RankInfo:
    """Read from an environment which rank this is; the only one where it describes none.

    Raises UserError where the environment contradicts itself, does not say where ranks meet, or is
    that of a launcher whose ranks would not know of each other.
    """
    slurm_tasks = _slurm_tasks(environment)
    mpi = mpi_launcher(environment, slurm_tasks=slurm_tasks)
    if "RANK" in environment and "WORLD_SIZE" in environment:
        of_torchrun = MEETING_FOLDER in environment or "TORCHELASTIC_RUN_ID" in environment
        started = slurm_tasks if mpi is None else environment[mpi.size]
        # Where as many tasks were started, RANK may be that of the script which started them,
        # alike in all; their launcher knows.
        if of_torchrun or started in (None, "1") or started != environment["WORLD_SIZE"]:
            return _from_torchrun(environment)
    if mpi is not None:
        return _from_mpi(environment, mpi)
    if slurm_tasks is not None:
        info = _from_slurm(environment, slurm_tasks)
        refuse_unknown_launchers(environment, slurm_tasks=slurm_tasks)
        return info
    refuse_unknown_launchers(environment, slurm_tasks=None)
    return RankInfo()


def threads_per_rank(environment: Mapping[str, str], local_world_size: int) -> int:
    """How many threads a rank computes with: as the environment says, or its share of the cores."""
    # srun may have shared out the cores already, so that a task sees its own alone.
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        if environment.get(name, "").isdecimal():
            return max(1, int(environment[name]))
    return max(1, num_cores() // local_world_size)


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


def _from_torchrun(environment: Mapping[str, str]) -> RankInfo:
    meeting: Path | MeetingAddress | None = None
    if MEETING_FOLDER in environment:
        meeting = Path(environment[MEETING_FOLDER])
    elif "MASTER_ADDR" in environment:
        meeting = MeetingAddress(
            environment["MASTER_ADDR"],
            _number(environment, "MASTER_PORT", 29_500),
            is_served=environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            attempt=environment.get("TORCHELASTIC_RESTART_COUNT", ""),
        )
    return _checked(
        environment,
        rank=_number(environment, "RANK"),
        world_size=_number(environment, "WORLD_SIZE"),
        local_rank=_number(environment, "LOCAL_RANK", 0),
        local_world_size=_number(environment, "LOCAL_WORLD_SIZE", 1),
        meeting=meeting,
        no_meeting="WORLD_SIZE is set, but MASTER_ADDR is not, so the ranks cannot meet: start "
        "them with torchrun, srun or --nproc",
    )


def _from_mpi(environment: Mapping[str, str], names: Variables) -> RankInfo:
    rank, world_size = _number(environment, names.rank), _number(environment, names.size)
    local_size = _number(environment, names.local_size)
    host = environment.get("MASTER_ADDR", "127.0.0.1" if local_size == world_size else "")
    return _checked(
        environment,
        rank=rank,
        world_size=world_size,
        local_rank=_number(environment, names.local_rank),
        local_world_size=local_size,
        meeting=MeetingAddress(
            host,
            _number(environment, "MASTER_PORT", 29_500),
            attempt=environment.get("PMIX_NAMESPACE", ""),
        )
        if host
        else None,
        no_meeting=f"{world_size} ranks were started on several machines, as {names.size} in the "
        "environment says, but MASTER_ADDR is not set, so they cannot meet: let their launcher set "
        "it to the machine of rank 0, as with 'mpirun -x MASTER_ADDR=HOST'",
    )


def _slurm_tasks(environment: Mapping[str, str]) -> str | None:
    """How many tasks srun started, where this is one of them."""
    # A batch script has the variables of a task but is none: it runs once, and starts the tasks.
    is_batch_script = "SLURM_JOB_ID" in environment and "SLURM_STEP_ID" not in environment
    if "SLURM_PROCID" not in environment or is_batch_script:
        return None
    # The former is of this srun, the latter of the whole job.
    return environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS", "1")


def _from_slurm(environment: Mapping[str, str], tasks: str) -> RankInfo:
    world_size = _number({"SLURM_NTASKS": tasks}, "SLURM_NTASKS")
    hosts = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    host = environment.get("MASTER_ADDR") or first_host(hosts)
    # Jobs that share a machine have different numbers, and so have the steps of a job that run
    # side by side. These ports lie below those that the system gives out by itself.
    job, step = _number(environment, "SLURM_JOB_ID", 0), environment.get("SLURM_STEP_ID", "0")
    port = 15_000 + (job + 97 * (int(step) if step.isdecimal() else 0)) % 10_000
    counts = environment.get("SLURM_STEP_TASKS_PER_NODE", "")
    return _checked(
        environment,
        rank=_number(environment, "SLURM_PROCID"),
        world_size=world_size,
        local_rank=_number(environment, "SLURM_LOCALID", 0),
        local_world_size=tasks_on_node(counts, _number(environment, "SLURM_NODEID", 0))
        or world_size,
        meeting=MeetingAddress(
            host, _number(environment, "MASTER_PORT", port), attempt=f"{job}.{step}"
        )
        if host
        else None,
        no_meeting=f"srun started {world_size} ranks, but neither MASTER_ADDR nor "
        "SLURM_JOB_NODELIST is set, so the ranks cannot meet: set MASTER_ADDR to the machine of "
        "rank 0",
    )


def _checked(
    environment: Mapping[str, str],
    *,
    rank: int,
    world_size: int,
    local_rank: int,
    local_world_size: int,
    meeting: Path | MeetingAddress | None,
    no_meeting: str,
) -> RankInfo:
    if rank >= world_size:
        raise UserError(
            f"the environment says that this is rank {rank} of {world_size}, which "
            "count from 0: start all ranks with one torchrun, srun or --nproc"
        )
    if world_size > 1 and meeting is None:
        raise RanksRefused(no_meeting, is_first=rank == 0)
    chosen = "OMP_NUM_THREADS" in environment
    return RankInfo(
        rank,
        world_size,
        local_rank,
        local_world_size,
        None if chosen else threads_per_rank(environment, local_world_size),
        meeting,
        # A name of SLURM's where it has one: several of its nodes can share a machine.
        environment.get("SLURMD_NODENAME") or socket.gethostname(),
        sees_own_gpu="LOCAL_RANK" not in environment,  # which torchrun sets, and hides none
    )


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise UserError(
            f"{name} is {text!r} in the environment, which is not a number: leave it to torchrun, "
            "srun or --nproc to set it"
        )
    return int(text)
