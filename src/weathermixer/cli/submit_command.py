"""The command ``submit``: a training as a batch job that continues itself."""

from __future__ import annotations

from pathlib import Path

import click

from weathermixer.cli.arguments import (
    OVERRIDES,
    PATH,
    WithSettings,
    config_argument,
    overrides_argument,
    print_result,
)
from weathermixer.console import say, waiting_for
from weathermixer.launch.batch_script import SECONDS_TO_STOP


@click.command(cls=WithSettings, context_settings=OVERRIDES)
@config_argument
@overrides_argument
@click.option("--out", type=PATH, required=True, help="Folder of the run.")
@click.option("--nodes", type=click.IntRange(1), required=True, help="Nodes of the job.")
@click.option(
    "--ranks-per-node",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Ranks on each node: one for each of its GPUs.",
)
@click.option("--time", metavar="HH:MM:SS", help="Limit of one turn.  [default: the partition's]")
@click.option("--partition", help="Partition of the cluster.  [default: the cluster's]")
@click.option("--account", help="Account that pays.  [default: the user's]")
@click.option(
    "--stop-before",
    type=click.IntRange(1),
    default=SECONDS_TO_STOP,
    show_default=True,
    metavar="SECONDS",
    help="How long before the limit to save: longer than a step and a checkpoint take.",
)
@click.option(
    "--sbatch-option",
    "options",
    multiple=True,
    metavar="OPTION",
    help="A further option of sbatch, such as --sbatch-option=--gpus-per-node=4; repeatable.",
)
@click.option("--resume", is_flag=True, help="Continue a run that has checkpoints.")
@click.option("--go", is_flag=True, help="Submit the job that was written.")
def submit(
    config: Path,
    overrides: tuple[str, ...],
    out: Path,
    nodes: int,
    ranks_per_node: int,
    time: str | None,
    partition: str | None,
    account: str | None,
    stop_before: int,
    options: tuple[str, ...],
    resume: bool,
    go: bool,
) -> None:
    """Write a batch job for SLURM that trains as CONFIG says, and continues itself to the end.

    It is written to OUT/job/job.sh, with a copy of CONFIG beside it; --go submits it.
    """
    with waiting_for("the program's libraries to be loaded"):
        from weathermixer.submit import submit_job, training_job, write_job

    job = training_job(
        config,
        out,
        overrides,
        resume=resume,
        nodes=nodes,
        ranks_per_node=ranks_per_node,
        time=time,
        partition=partition,
        account=account,
        stop_before=stop_before,
        options=options,
    )
    script = write_job(job, config)
    if go:
        number = submit_job(script)
        print_result(number)
        say(f"submitted job {number}, which writes to {job.log}; 'squeue --job={number}' shows it")
    else:
        print_result(str(script))
        say(f"wrote {script}: submit it with sbatch, or with this command and --go")
