"""What a rank is told by the environments of torchrun, srun and other launchers."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from weathermixer.errors import UserError
from weathermixer.launch.environment import (
    MeetingAddress,
    RankInfo,
    UnknownLauncher,
    rank_info,
    threads_per_rank,
)
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
        # mpirun within a job of SLURM, which starts one helper on each node with srun
        ({**SRUN, "OMPI_COMM_WORLD_SIZE": "32"}, "OMPI_COMM_WORLD_SIZE", True),
    ],
)
def test_ranks_of_an_unknown_launcher_are_refused(
    environment: dict[str, str], variable: str, is_first: bool
) -> None:
    with pytest.raises(UnknownLauncher, match=f"as {variable} in the environment") as refusal:
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
