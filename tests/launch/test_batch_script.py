"""A batch job goes on turn after turn, ends when it should, and is written as SLURM takes it."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from support.schedulers import JOB, Scheduler
from weathermixer.errors import UserError
from weathermixer.launch.batch_script import BatchJob, seconds_of

COMMAND = ["python", "-P", "main.py", "train", "a b.yaml", "--data.store=it's $HOME"]


def job(run: Path, **fields: object) -> BatchJob:
    needed = {"nodes": 2, "ranks_per_node": 4}
    return BatchJob(run, run.parent, COMMAND, **{**needed, **fields})  # type: ignore[arg-type]


@pytest.fixture
def scheduler(tmp_path: Path) -> Scheduler:
    return Scheduler(tmp_path)


def write(batch_job: BatchJob) -> Path:
    batch_job.folder.mkdir(parents=True)
    script = batch_job.folder / "job.sh"
    script.write_text(batch_job.script(), encoding="utf-8")
    return script


@pytest.mark.parametrize(
    ("endings", "turns", "status", "said"),
    [
        (["done"], 1, 0, "the last step is taken"),
        (["warned", "warned", "done"], 3, 0, "turn 3 on n[1-2], from step-00000002"),
        # A killed rank or a failed node: the next turn may go well.
        (["failed-late", "failed", "failed", "done"], 4, 0, "the training failed with status 137"),
        (["deaf", "done"], 2, 0, "the training did not stop in time, and is killed"),
        (["warned", "mistake"], 2, 2, "another turn would meet the same mistake"),
        (["failed"] * 3, 3, 1, "3 turns in a row have left no new checkpoint"),
        (["cancelled"], 1, 75, "ended by SLURM (status 75)"),
        (["signalled"], 1, 75, "stopped by a signal from elsewhere: submit again to continue"),
    ],
)
def test_a_job_goes_on_until_another_turn_would_not_help(
    endings: list[str], turns: int, status: int, said: str, scheduler: Scheduler, tmp_path: Path
) -> None:
    run = tmp_path / "run 100% 'mine'"
    script = write(job(run, stop_before=1))
    ended, written = scheduler.run(script, endings, run / "checkpoints")
    assert (ended, said in written) == (status, True), written
    assert len(scheduler.calls("srun")) == turns
    requeued = [call for call in scheduler.calls("scontrol") if "requeue" in call]
    assert requeued == [f"scontrol requeue {JOB}"] * (turns - 1)


def test_a_job_that_slurm_does_not_queue_again_says_what_to_do(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    (tmp_path / "refuses").touch()
    script = write(job(tmp_path / "run"))
    status, written = scheduler.run(script, ["warned"], tmp_path / "run" / "checkpoints")
    assert status == 1
    assert f"SLURM does not queue it again: submit {script}" in written


def test_idle_turns_of_an_earlier_job_do_not_count(scheduler: Scheduler, tmp_path: Path) -> None:
    script = write(job(tmp_path / "run"))
    checkpoints = tmp_path / "run" / "checkpoints"
    assert scheduler.run(script, ["failed"] * 3, checkpoints)[0] == 1
    assert scheduler.run(script, ["failed", "failed", "done"], checkpoints)[0] == 0


def test_the_script_asks_for_what_it_was_told_and_runs_the_command_as_typed(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    batch_job = job(
        tmp_path / "run 1",
        time="1-00:00:00",
        partition="gpu",
        account="weather",
        options=["--gpus-per-node=4"],
    )
    script = write(batch_job)
    subprocess.run(["bash", "-n", script], check=True)
    # What sbatch reads: comments before the first command.
    head = script.read_text(encoding="utf-8").partition("\nrun=")[0].splitlines()
    assert all(line.startswith("#") or not line for line in head)
    asked = [shlex.split(line)[1] for line in head if line.startswith("#SBATCH ")]
    assert asked == [
        f"--job-name={batch_job.name}", "--nodes=2", "--ntasks-per-node=4", "--time=1-00:00:00",
        "--partition=gpu", "--account=weather", "--gpus-per-node=4", f"--chdir={tmp_path}",
        f"--output={tmp_path}/run 1/job/log.txt", "--open-mode=append",
        "--signal=B:USR1@180", "--requeue", "--dependency=singleton",
    ]  # fmt: skip
    scheduler.put("srun", f'printf "%s\\n" "$@" >"{tmp_path}/words"')
    scheduler.run(script, ["done"], tmp_path / "run 1" / "checkpoints")
    words = (tmp_path / "words").read_text(encoding="utf-8").splitlines()
    assert words == ["--kill-on-bad-exit=0", *COMMAND]


def test_jobs_of_one_run_share_a_name_that_no_other_has(tmp_path: Path) -> None:
    name = job(tmp_path / "run").name
    assert name == job(tmp_path / "run", nodes=7).name
    assert name != job(tmp_path / "other" / "run").name
    assert job(tmp_path / "été 1").name.startswith("-t-1-")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"time": "soon"}, "--time=soon is not a time limit: write HH:MM:SS"),
        ({"time": "2:59"}, "--time=2:59 is not longer than the 180 s before its end"),
        ({"options": ["gpus=4"]}, "--sbatch-option='gpus=4' is not an option of sbatch"),
        ({"options": ["-t 10"]}, "--sbatch-option=-t 10 would be given twice: use --time"),
        ({"options": ["--signal=TERM@9"]}, "would be given twice: use --stop-before"),
        ({"options": ["--array=1-4"]}, "--sbatch-option=--array=1-4 is what the job sets itself"),
        ({"options": ["--mem=0\nrm -r ~"]}, "is not an option of sbatch"),
        ({"here": Path('/a "b"')}, "has a quote, backslash or control character"),
    ],
)
def test_what_slurm_would_not_take_is_refused(
    fields: dict[str, object], said: str, tmp_path: Path
) -> None:
    fields = {"here": tmp_path, **fields}
    with pytest.raises(UserError, match=said.replace("'", ".")):
        BatchJob(tmp_path / "run", command=COMMAND, nodes=1, ranks_per_node=1, **fields)  # type: ignore[arg-type]


def test_limits_are_read_as_slurm_reads_them() -> None:
    # The forms that sbatch's manual lists.
    forms = {"5": 300, "5:30": 330, "1:00:00": 3600, "2-3": 183600, "2-3:30": 185400,
             "2-3:30:10": 185410}  # fmt: skip
    assert {form: seconds_of(form) for form in forms} == forms
