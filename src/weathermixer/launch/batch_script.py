"""The batch job of a training under SLURM, as a script that a stranger can read and change.

Text alone: nothing is written or submitted here.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from weathermixer.errors import STOPPED_EARLY, UserError

SECONDS_TO_STOP = 180
"""How long before its time limit a job asks the training to save and stop, by default."""

_SECONDS_TO_SPARE = 15  # of these, for what follows when a training had to be killed
_MOST_IDLE_TURNS = 3
# What the script sets itself, since it would not work otherwise, and what submit has options for.
_OWN_OPTIONS = {
    "--signal": "--stop-before",
    "--time": "--time", "-t": "--time",
    "--nodes": "--nodes", "-N": "--nodes",
    "--ntasks-per-node": "--ranks-per-node",
    "--partition": "--partition", "-p": "--partition",
    "--account": "--account", "-A": "--account",
}  # fmt: skip
_NEEDED_OPTIONS = {
    "--requeue", "--no-requeue", "--dependency", "-d", "--array", "-a", "--job-name", "-J",
    "--output", "-o", "--error", "-e", "--open-mode", "--chdir", "-D", "--ntasks", "-n", "--wrap",
}  # fmt: skip


@dataclass(frozen=True)
class BatchJob:
    """A training as a job that goes on, turn after turn, until the last step is taken.

    ``run`` is its folder and ``here`` the folder it works in, both absolute; ``command`` are the
    words that train. ``time`` is the limit of one turn as SLURM writes it, or None for that of the
    partition; ``stop_before`` are the seconds before it at which the training is to save and stop.
    ``options`` are further ones of ``sbatch``, as they are typed.
    """

    run: Path
    here: Path
    command: Sequence[str]
    nodes: int
    ranks_per_node: int
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    stop_before: int = SECONDS_TO_STOP
    options: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuse what SLURM or the script could not do; raises UserError."""
        for path in (self.run, self.here):
            if re.search(r'["\\\x00-\x1f]', str(path)):
                raise UserError(
                    f"the folder {str(path)!r} has a quote, backslash or control character in its "
                    "name, which SLURM cannot take: choose another"
                )
        if self.time is not None and seconds_of(self.time) <= self.stop_before:
            raise UserError(
                f"--time={self.time} is not longer than the {self.stop_before} s before its end "
                "at which the training is to stop: allow more time, or set --stop-before to less"
            )
        for option in self.options:
            _check_option(option)

    @property
    def name(self) -> str:
        """The name of the job: alike for all jobs of one run, and for no other run.

        >>> BatchJob(Path("/a/run 1"), Path("/a"), ["true"], nodes=1, ranks_per_node=1).name
        'run-1-7e6a90'
        """
        digest = hashlib.blake2b(str(self.run).encode(), digest_size=3).hexdigest()
        return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', self.run.name)}-{digest}"

    @property
    def folder(self) -> Path:
        """The folder of the job in that of its run."""
        return self.run / "job"

    @property
    def log(self) -> Path:
        """The file that all turns write to."""
        return self.folder / "log.txt"

    def script(self) -> str:
        """The script, for ``sbatch``."""
        log = str(self.log).replace("%", "%%")
        asked = [
            f'--job-name="{self.name}"',
            f"--nodes={self.nodes}",
            f"--ntasks-per-node={self.ranks_per_node}",
            *([] if self.time is None else [f"--time={self.time}"]),
            *([] if self.partition is None else [f'--partition="{self.partition}"']),
            *([] if self.account is None else [f'--account="{self.account}"']),
            *self.options,
            f'--chdir="{self.here}"',
            f'--output="{log}"',
            "--open-mode=append",
        ]
        values = {
            "ASKED": "\n".join(f"#SBATCH {option}" for option in asked),
            "STOP_BEFORE": str(self.stop_before),
            "RUN": shlex.quote(str(self.run)),
            "COMMAND": shlex.join(self.command),
            "STOPPED_EARLY": str(STOPPED_EARLY),
            "PATIENCE": str(max(1, self.stop_before - _SECONDS_TO_SPARE)),
            "MOST_IDLE_TURNS": str(_MOST_IDLE_TURNS),
        }
        return re.sub(r"@(\w+)@", lambda place: values[place[1]], _SCRIPT)


def seconds_of(time: str) -> int:
    """A time limit in seconds; UserError where SLURM would not take it.

    >>> [seconds_of(time) for time in ("90", "10:30", "02:00:00", "1-12", "1-00:30")]
    [5400, 630, 7200, 129600, 88200]
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time)
    if found is None:
        raise UserError(
            f"--time={time} is not a time limit: write HH:MM:SS or DAYS-HH:MM:SS, such as 12:00:00"
        )
    days, *rest = (None if part is None else int(part) for part in found.groups())
    numbers = [number for number in rest if number is not None]
    if days is None and len(numbers) < 3:  # minutes, or minutes and seconds
        numbers.insert(0, 0)
    hours, minutes, seconds = [*numbers, 0, 0][:3]
    return (((days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _check_option(option: str) -> None:
    name = re.match(r"--[\w-]+|-\w", option)
    if name is None or "\n" in option:
        raise UserError(
            f"--sbatch-option={option!r} is not an option of sbatch: write it as you would after "
            "sbatch, such as --sbatch-option=--gpus-per-node=4"
        )
    if name[0] in _OWN_OPTIONS:
        raise UserError(
            f"--sbatch-option={option} would be given twice: use {_OWN_OPTIONS[name[0]]}"
        )
    if name[0] in _NEEDED_OPTIONS:
        raise UserError(
            f"--sbatch-option={option} is what the job sets itself, to go on turn after turn: "
            "leave it out, or write the script without --go and change it"
        )


_SCRIPT = """\
#!/bin/bash
# Written by `weathermixer submit`: trains a run to its last step, in as many turns as the time
# limit makes of it. Change what your site wants otherwise, and submit it with `sbatch`.
#
# @STOP_BEFORE@ seconds before the limit SLURM signals this script, and this script the training,
# which saves after the step in hand and ends with status @STOPPED_EARLY@. Then the job goes back
# into the queue under its own number. It ends for good when the last step is taken, at a mistake
# that another turn would meet again (status 2), after @MOST_IDLE_TURNS@ turns in a row without a
# new checkpoint, and by `scancel`. `scancel --signal=USR1 --batch JOB` saves and goes on in a new
# turn, `scancel --signal=USR1 JOB` saves and ends.
#
@ASKED@
# To the script alone (B:), which knows what to do where the training does not obey.
#SBATCH --signal=B:USR1@@STOP_BEFORE@
# When a node fails, or others take precedence, SLURM itself puts the job back into the queue.
#SBATCH --requeue
# Of all jobs of this name one runs at a time: a folder never has two trainings.
#SBATCH --dependency=singleton

run=@RUN@
idle_turns="$run/job/idle-turns" # in a row

say() { echo "[job $SLURM_JOB_ID, $(date '+%F %T')] $*"; }

newest_checkpoint() {
    ls "$run/checkpoints" 2>/dev/null | grep -E '^step-[0-9]+$' | sort | tail -n 1
}

stop_training() {
    [ -z "$is_warned" ] || return
    is_warned=yes
    say "the time is nearly up: asking the training to save and stop"
    kill -USR1 "$training"
    (
        sleep @PATIENCE@ >/dev/null 2>&1 # it may outlive this script, and keeps no log open
        say "the training did not stop in time, and is killed"
        scancel --signal=KILL "$SLURM_JOB_ID"
    ) &
    watchdog=$!
}

queue_again() {
    local newest number=0
    newest=$(newest_checkpoint)
    if [ "$newest" = "$begun_from" ]; then
        number=$(($(cat "$idle_turns" 2>/dev/null || echo 0) + 1))
    fi
    echo "$number" >"$idle_turns"
    if [ "$number" -ge @MOST_IDLE_TURNS@ ]; then
        say "$number turns in a row have left no new checkpoint: see above why, and submit again"
        exit 1
    fi
    say "goes back into the queue, to continue from ${newest:-the beginning}"
    if scontrol requeue "$SLURM_JOB_ID"; then
        sleep 60 # in which SLURM ends this script
        exit
    fi
    say "SLURM does not queue it again: submit $run/job/job.sh"
    exit 1
}

turn=$((${SLURM_RESTART_COUNT:-0} + 1))
[ "$turn" -gt 1 ] || rm -f "$idle_turns"
begun_from=$(newest_checkpoint)
say "turn $turn on $SLURM_JOB_NODELIST, from ${begun_from:-the beginning}"
# For `squeue --Format=JobID,State,Comment`; no reason to fail.
scontrol update JobId="$SLURM_JOB_ID" Comment="turn $turn from ${begun_from:-the beginning}" || true

# Since SLURM 22.05 srun no longer takes this from sbatch.
[ -z "$SLURM_CPUS_PER_TASK" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
is_warned= is_cancelled= watchdog=
trap stop_training USR1
trap 'is_cancelled=yes' TERM
# The ranks end each other; srun would kill those that are still saving.
srun --kill-on-bad-exit=0 @COMMAND@ &
training=$!
wait "$training"
status=$?
while kill -0 "$training" 2>/dev/null; do # a signal ends the wait, but not the training
    wait "$training"
    status=$?
done
trap '' USR1
[ -z "$watchdog" ] || kill "$watchdog" 2>/dev/null

if [ "$status" -eq 0 ]; then
    say "the last step is taken"
elif [ "$status" -eq 2 ]; then
    say "another turn would meet the same mistake: put it right, and submit again"
elif [ -n "$is_cancelled" ]; then
    say "ended by SLURM (status $status), which decides whether it goes on"
elif [ "$status" -eq @STOPPED_EARLY@ ] && [ -z "$is_warned" ]; then
    say "stopped by a signal from elsewhere: submit again to continue"
else
    [ "$status" -eq @STOPPED_EARLY@ ] || say "the training failed with status $status"
    queue_again
fi
exit "$status"
"""
