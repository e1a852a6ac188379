"""Handing a training to SLURM: checked first, written into the folder of its run, and submitted."""

from __future__ import annotations

import getpass
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from weathermixer.config import read_config
from weathermixer.console import say
from weathermixer.data.opening import open_states
from weathermixer.errors import UserError
from weathermixer.interpreter import program
from weathermixer.launch.batch_script import BatchJob
from weathermixer.model.architecture import architecture_of
from weathermixer.planning.step_cost import possible_layouts
from weathermixer.runs.run import Run

_SECONDS_TO_ANSWER = 60.0


def training_job(
    config: Path, out: Path, overrides: Sequence[str], *, resume: bool, **resources: object
) -> BatchJob:
    """A job that trains the run ``out``, once what can be known beforehand is known to be right.

    ``resources`` are the fields of ``BatchJob`` that say what it runs on. A store that cannot be
    opened here is said, since the nodes may see others.

    Raises UserError for a configuration or resources that cannot be, and for a run with checkpoints
    that is not resumed; LayoutError where the mesh does not fit the ranks.
    """
    settings = read_config(config, overrides)
    run = Run(out.absolute())
    if run.newest_checkpoint() is not None and not (resume or settings.checkpoint.resume):
        raise UserError(
            f"the run {out} has checkpoints: continue it with --resume, or choose another --out"
        )
    words = ["train", str(run.path / "job" / "config.yaml"), "--out", str(run.path), "--resume"]
    job = BatchJob(run.path, Path.cwd(), program(*words, *overrides), **resources)  # type: ignore[arg-type]
    try:
        states = open_states(settings.data.store, settings.data)
    except (UserError, OSError) as error:
        say(f"this machine cannot check the store ({error}): see that the nodes can open it")
    else:
        architecture = architecture_of(settings.data, settings.model, states.grid)
        world_size = job.nodes * job.ranks_per_node
        possible_layouts(
            settings.parallel, architecture, world_size=world_size, training=settings.training
        )
    return job


def write_job(job: BatchJob, config: Path) -> Path:
    """Write the script and a copy of the configuration into the run; the path of the script.

    Copied, so that who changes the file while the job waits does not change the job. Raises
    UserError where a job of this run is in the queue, and where the folder cannot be written.
    """
    queued = _queued(job)
    if queued:
        raise UserError(
            f"{job.run} is trained by job {queued[0]} already ({queued[1].lower()}): wait until it "
            f"ends, end it with 'scancel {queued[0]}', or choose another --out"
        )
    script = job.folder / "job.sh"
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        copied = job.folder / "config.yaml"
        if not (copied.exists() and config.samefile(copied)):
            shutil.copyfile(config, copied)
        script.write_text(job.script(), encoding="utf-8")
        script.chmod(0o755)
    except OSError as error:
        raise UserError(
            f"the job cannot be written into {job.folder} ({error.strerror or error}): choose "
            "another --out, free some space, or make the folder writable"
        ) from error
    return script


def submit_job(script: Path) -> str:
    """Submit a script with ``sbatch``; the number of the job. UserError where that is refused."""
    if shutil.which("sbatch") is None:
        raise UserError(
            f"there is no sbatch on this machine: submit {script} where there is one, with "
            f"'sbatch {script}'"
        )
    status, out, err = _run("sbatch", "--parsable", str(script))
    if status:
        raise UserError(
            f"sbatch refuses {script} ({_one_line(err)}): give what your site asks for, such "
            "as --account, --partition or --sbatch-option"
        )
    return out.strip().partition(";")[0]


def _queued(job: BatchJob) -> list[str]:
    """Number and state of the first job of this run in the queue, where there is a queue."""
    if shutil.which("squeue") is None:
        return []
    words = ("--noheader", f"--user={getpass.getuser()}", f"--name={job.name}", "--format=%i %T")
    status, out, err = _run("squeue", *words)
    if status:
        say(f"squeue does not say whether {job.run} is trained already ({_one_line(err)})")
    return out.split()[:2]


def _one_line(text: str) -> str:
    return "; ".join(filter(None, map(str.strip, text.splitlines()))) or "without a reason"


def _run(*words: str) -> tuple[int, str, str]:
    try:
        ended = subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=_SECONDS_TO_ANSWER
        )
    except subprocess.TimeoutExpired:
        return 1, "", f"no answer within {_SECONDS_TO_ANSWER:.0f} s"
    return ended.returncode, ended.stdout, ended.stderr
