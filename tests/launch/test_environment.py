"""What a rank is told by the environments of torchrun, srun, mpirun and other launchers."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from weathermixer.errors import UserError
from weathermixer.launch.environment import (
    MEETING_FOLDER,
    MeetingAddress,
    RankInfo,
    rank_info,
    threads_per_rank,
)
from weathermixer.launch.other_launchers import RanksRefused
from weathermixer.launch.ranks import _allow_connections

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
    "OMP_NUM_THREADS": "1",
}
SRUN = {
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "6",
    "SLURM_NTASKS": "7",
    "SLURM_LOCALID": "2",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4,3",
    "SLURM_JOB_NODELIST": "gpu[017-018,042]",
    "SLURMD_NODENAME": "gpu018",
    "SLURM_CPUS_PER_TASK": "12",
}


# As seen on Open MPI 4.1 and MPICH 4.0 with two ranks; the others as their manuals say.
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PMIX_RANK": "1",
    "PMIX_NAMESPACE": "1207697409",
}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
PALS = {
    "PALS_RANKID": "5",
    "PMI_RANK": "5",
    "PMI_SIZE": "8",
    "PALS_LOCAL_RANKID": "1",
    "PALS_LOCAL_SIZE": "4",
}
JSRUN = {
    "JSM_NAMESPACE_RANK": "5",
    "JSM_NAMESPACE_SIZE": "8",
    "JSM_NAMESPACE_LOCAL_RANK": "1",
    "JSM_NAMESPACE_LOCAL_SIZE": "4",
}


def places(info: RankInfo) -> tuple[int, int, int, int]:
    return info.rank, info.world_size, info.local_rank, info.local_world_size


def test_torchrun_says_where_a_rank_is() -> None:
    info = rank_info(TORCHRUN)
    assert places(info) == (5, 8, 1, 4)
    assert info.meeting == MeetingAddress("node1", 29500)
    assert info.threads is None  # PyTorch follows the environment
    # torchrun within srun
    assert rank_info({**TORCHRUN, "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}).rank == 5


def test_torchrun_says_whether_it_listens_already() -> None:
    served = {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "2"}
    meeting = rank_info({**TORCHRUN, **served}).meeting
    assert meeting == MeetingAddress("node1", 29500, is_served=True, attempt="2")


def test_srun_says_where_a_rank_is() -> None:
    info = rank_info(SRUN)
    assert places(info) == (6, 7, 2, 3)
    assert (info.host, info.threads) == ("gpu018", 12)
    assert str(info.meeting) == "gpu017:18456"
    named = {**SRUN, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29400"}
    assert str(rank_info(named).meeting) == "10.0.0.1:29400"
    few = {**SRUN, "SLURM_STEP_NUM_TASKS": "7", "SLURM_NTASKS": "14"}
    assert rank_info(few).world_size == 7


def test_steps_of_one_job_that_run_side_by_side_meet_apart() -> None:
    ports = {str(rank_info({**SRUN, "SLURM_STEP_ID": str(step)}).meeting) for step in range(50)}
    assert len(ports) == 50


def test_a_batch_script_is_not_one_of_its_tasks() -> None:
    script = {name: text for name, text in SRUN.items() if name != "SLURM_STEP_ID"}
    assert rank_info({**script, "SLURM_PROCID": "0"}) == RankInfo()


@pytest.mark.parametrize("environment", [OPEN_MPI, MPICH])
def test_ranks_that_mpirun_starts_on_one_machine_meet_there(environment: dict[str, str]) -> None:
    info = rank_info(environment)
    assert places(info) == (1, 2, 1, 2)
    assert str(info.meeting) == "127.0.0.1:29500"
    elsewhere = rank_info({**environment, "MASTER_ADDR": "node1", "MASTER_PORT": "29400"})
    assert str(elsewhere.meeting) == "node1:29400"
    # Each alone
    assert rank_info({**environment, "OMPI_COMM_WORLD_SIZE": "1", "PMI_SIZE": "1"}) == RankInfo()


@pytest.mark.parametrize("environment", [PALS, JSRUN])
@pytest.mark.parametrize("rank", [0, 5])
def test_ranks_on_several_machines_need_a_place_to_meet(
    environment: dict[str, str], rank: int
) -> None:
    environment = {name: str(rank) if text == "5" else text for name, text in environment.items()}
    with pytest.raises(RanksRefused, match="but MASTER_ADDR is not set") as refusal:
        rank_info(environment)
    assert refusal.value.is_first == (rank == 0)
    info = rank_info({**environment, "MASTER_ADDR": "node1"})
    assert places(info) == (rank, 8, 1, 4)
    assert str(info.meeting) == "node1:29500"


def test_of_launchers_within_each_other_the_innermost_decides() -> None:
    # mpirun in a job of SLURM starts its helpers with srun, one on each of two nodes.
    helper = {**SRUN, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}
    assert places(rank_info({**helper, **PALS, "MASTER_ADDR": "a"})) == (5, 8, 1, 4)
    # srun --mpi=pmi2, whose variables say as much as srun's.
    assert places(rank_info({**SRUN, "PMI_SIZE": "7", "PMI_RANK": "6"})) == (6, 7, 2, 3)
    # torchrun on each of two nodes, started by srun or by mpirun.
    agents = {**TORCHRUN, "TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "8"}
    for outer in (helper, {**SRUN, "SLURM_NTASKS": "8"}, {**PALS, "PMI_RANK": "0"}):
        assert places(rank_info({**outer, **agents})) == (5, 8, 1, 4)
    # --nproc in an interactive task of srun.
    shell = {**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}
    assert places(rank_info(shell))[:2] == (0, 1)
    assert places(rank_info({**shell, **TORCHRUN, MEETING_FOLDER: "/meeting"})) == (5, 8, 1, 4)


def test_a_rank_that_a_batch_script_exported_is_not_that_of_every_task() -> None:
    exported = {"RANK": "0", "WORLD_SIZE": "7", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
    info = rank_info({**SRUN, **exported})
    assert places(info) == (6, 7, 2, 3)
    assert str(info.meeting) == "node1:29500"
    assert places(rank_info({**OPEN_MPI, **exported, "WORLD_SIZE": "2"})) == (1, 2, 1, 2)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "WORLD_SIZE is set, but MASTER_ADDR is not"),
        ({"RANK": "two", "WORLD_SIZE": "2"}, "RANK is 'two' in the environment"),
        ({"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "this is rank 2 of 2"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, "neither MASTER_ADDR nor SLURM_JOB_NODELIST"),
    ],
)
def test_an_environment_that_does_not_suffice_is_a_users_mistake(
    environment: dict[str, str], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        rank_info(environment)


@pytest.mark.parametrize(
    ("environment", "variable", "is_first"),
    [
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, "OMPI_COMM_WORLD_SIZE", True),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, "OMPI_COMM_WORLD_SIZE", False),
        ({"PMI_SIZE": "4", "PMI_RANK": "0"}, "PMI_SIZE", True),
        ({"MV2_COMM_WORLD_SIZE": "4"}, "MV2_COMM_WORLD_SIZE", True),
        ({"PMIX_RANK": "3"}, "PMIX_RANK", False),
        ({"PMIX_RANK": "0"}, "PMIX_RANK", True),
        (
            {"FLUX_TASK_RANK": "1", "FLUX_JOB_SIZE": "4", "PMI_RANK": "1", "PMI_SIZE": "4"},
            "PMI_SIZE",
            False,
        ),
        # mpirun within a job of SLURM, which starts one helper on each node with srun
        ({**SRUN, "OMPI_COMM_WORLD_SIZE": "32"}, "OMPI_COMM_WORLD_SIZE", True),
    ],
)
def test_ranks_of_an_unknown_launcher_are_refused(
    environment: dict[str, str], variable: str, is_first: bool
) -> None:
    with pytest.raises(RanksRefused, match=f"as {variable} in the environment") as refusal:
        rank_info(environment)
    assert refusal.value.is_first == is_first


@pytest.mark.parametrize(
    "environment",
    [
        {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0", "PMIX_RANK": "0"},
        {**SRUN, "PMI_SIZE": "7", "PMI_RANK": "6", "PMIX_RANK": "6"},  # srun --mpi=pmix
        {**TORCHRUN, "OMPI_COMM_WORLD_SIZE": "2", "PMI_SIZE": "2"},  # mpirun starts torchrun
    ],
)
def test_variables_of_other_launchers_do_not_stand_in_the_way(environment: dict[str, str]) -> None:
    rank_info(environment)


def test_an_environment_without_ranks_has_one() -> None:
    assert rank_info({}) == RankInfo(rank=0, world_size=1)
    assert rank_info({"RANK": "0", "WORLD_SIZE": "1"}).world_size == 1


def test_cores_are_shared_out_unless_the_environment_says_otherwise() -> None:
    assert threads_per_rank({}, 1) >= 1
    assert threads_per_rank({}, 1_000_000) == 1
    assert threads_per_rank({"SLURM_CPUS_PER_TASK": "12"}, 4) == 12
    assert threads_per_rank({"OMP_NUM_THREADS": "3", "SLURM_CPUS_PER_TASK": "12"}, 4) == 3


def test_each_rank_of_a_machine_has_a_gpu_of_its_own() -> None:
    assert rank_info(TORCHRUN).gpu_number(4) == 1
    assert rank_info(SRUN).gpu_number(1) == 0
    with pytest.raises(UserError, match="4 ranks were started on a machine with 1 GPU: start one"):
        rank_info(TORCHRUN).gpu_number(1)


def test_ranks_of_this_machine_meet_in_a_folder(tmp_path: Path) -> None:
    info = rank_info({**TORCHRUN, "WEATHERMIXER_MEETING_FOLDER": str(tmp_path)})
    assert info.meeting == tmp_path


def test_a_rank_may_open_a_file_for_each_connection_as_far_as_the_system_allows() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
        _allow_connections(2)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 1040
        _allow_connections(10**9)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (limits[1], limits[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
