"""Launchers other than torchrun, srun and this program: in which variables they tell of ranks.

Pure functions of the environment. Of some it is known all that ranks need; of the others only that
there may be several ranks, none of which would know of the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from weathermixer.errors import UserError


class Variables(NamedTuple):
    """The variables in which a launcher tells a process its place."""

    rank: str
    size: str
    local_rank: str
    local_size: str


def _prefixed(prefix: str) -> Variables:
    return Variables(*(prefix + name for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")))


_MPI_LAUNCHERS = (
    _prefixed("OMPI_COMM_WORLD_"),  # mpirun of Open MPI
    Variables("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),  # MPICH, Intel MPI
    Variables("PMI_RANK", "PMI_SIZE", "PALS_LOCAL_RANKID", "PALS_LOCAL_SIZE"),  # mpiexec of PALS
    _prefixed("JSM_NAMESPACE_"),  # jsrun of LSF
    _prefixed("MV2_COMM_WORLD_"),  # MVAPICH2
)
# With these, launchers say as much as that there may be several processes.
_SIZES_OF_OTHERS = (*(names.size for names in _MPI_LAUNCHERS), "FLUX_JOB_SIZE")
_RANKS_OF_OTHERS = (
    *(names.rank for names in _MPI_LAUNCHERS),
    "PMIX_RANK",
    "PALS_RANKID",
    "FLUX_TASK_RANK",
)


class RanksRefused(UserError):
    """Ranks that could not work together, each of which would do the whole work.

    All of them find it, since none reaches the others; ``is_first`` says whether this is the one
    that tells the user.
    """

    def __init__(self, sentence: str, *, is_first: bool) -> None:
        super().__init__(sentence)
        self.is_first = is_first


def mpi_launcher(environment: Mapping[str, str], *, slurm_tasks: str | None) -> Variables | None:
    """The launcher whose rank this is one of, where it started several and says all about them."""
    for names in _MPI_LAUNCHERS:
        if all(name in environment for name in names):
            size = environment[names.size]
            # Within a job of SLURM mpirun starts a helper on each node with srun; srun sets PMI's
            # variables too, for as many tasks as it has started.
            return names if size not in ("1", slurm_tasks) else None
    return None


def refuse_unknown_launchers(environment: Mapping[str, str], *, slurm_tasks: str | None) -> None:
    """Raise RanksRefused where a launcher that does not say enough may have started several."""
    ranks = {name: environment[name] for name in _RANKS_OF_OTHERS if name in environment}
    sizes = {name: environment[name] for name in _SIZES_OF_OTHERS if name in environment}
    several = [name for name, size in sizes.items() if size not in ("1", slurm_tasks)]
    if slurm_tasks is None and not sizes:
        several += ranks
    if several:
        variable = several[0]
        started = f"{sizes[variable]} ranks" if variable in sizes else "several ranks"
        raise RanksRefused(
            f"{started} were started by a launcher that WeatherMixer does not know, as {variable} "
            "in the environment says, and each would do the whole work: start them with torchrun, "
            f"srun or --nproc, or unset {variable} to run a single one",
            is_first=all(rank == "0" for rank in ranks.values()),
        )
