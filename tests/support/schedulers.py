"""Stand-ins for the programs of SLURM, and batch scripts that are run with them.

A stand-in notes its words in the file ``calls`` and does what the test asks of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

JOB = "4711"

# How a turn ends: what srun does in the place of a training.
_SRUN = r"""
turn=$((${SLURM_RESTART_COUNT:-0} + 1))
# SLURM does so hours after the script has begun to wait.
warn() { sleep 0.5; kill -USR1 $PPID; }
save() { mkdir -p "$CHECKPOINTS/step-0000000$turn"; }
case $(sed -n "${turn}p" "$FOLDER/endings") in
    warned) trap 'save; exit 75' USR1; warn; while :; do sleep 0.02; done ;;
    deaf) trap '' USR1; echo $$ >"$FOLDER/deaf"; warn; while :; do sleep 0.02; done ;;
    cancelled) save; kill -TERM $PPID; sleep 0.1; exit 75 ;;
    signalled) save; exit 75 ;;
    done) save; exit 0 ;;
    mistake) exit 2 ;;
    failed-late) save; exit 1 ;;
    failed) exit 137 ;;
esac
"""
# The real one is not obeyed at once: SLURM ends the script, and begins it again later.
_SCONTROL = r"""
[ "$1" != requeue ] || { [ ! -e "$FOLDER/refuses" ] && kill -KILL $PPID; }
"""
_SCANCEL = r"""
kill -KILL "$(cat "$FOLDER/deaf")"
"""


class Scheduler:
    """Programs of SLURM in ``folder / "bin"``, each a few lines of shell."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir()
        for name, lines in (("srun", _SRUN), ("scontrol", _SCONTROL), ("scancel", _SCANCEL)):
            self.put(name, lines)

    def put(self, name: str, lines: str) -> None:
        """Put a program in place that notes its words, then does ``lines``."""
        noting = f'echo "{name} $*" >>"{self.folder}/calls"'
        program = self.bin / name
        program.write_text(f"#!/bin/bash\n{noting}\n{lines}\n", encoding="utf-8")
        program.chmod(0o755)

    @property
    def path(self) -> str:
        """The search path on which these programs come first."""
        return f"{self.bin}{os.pathsep}{os.environ['PATH']}"

    def calls(self, name: str) -> list[str]:
        """What a program was called with, call by call."""
        lines = (self.folder / "calls").read_text(encoding="utf-8").splitlines()
        return [line for line in lines if line.split()[0] == name]

    def run(self, script: Path, endings: Sequence[str], checkpoints: Path) -> tuple[int, str]:
        """Run a script, turn after turn as long as it is queued again, each ending as told.

        Returns the status of the last turn, and what all of them wrote.
        """
        (self.folder / "endings").write_text("\n".join(endings) + "\n", encoding="utf-8")
        environment = {
            **os.environ,
            "PATH": self.path,
            "FOLDER": str(self.folder),
            "CHECKPOINTS": str(checkpoints),
            "SLURM_JOB_ID": JOB,
            "SLURM_JOB_NODELIST": "n[1-2]",
        }
        written = ""
        for turn in range(len(endings)):
            ended = subprocess.run(
                ["bash", str(script)],
                env={**environment, **({"SLURM_RESTART_COUNT": str(turn)} if turn else {})},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                timeout=60,
                check=False,
            )
            written += ended.stdout
            if ended.returncode != -9:
                return ended.returncode, written
        sys.exit("the job would go on: give the test one more ending")
