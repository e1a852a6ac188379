"""The commands below ``bench``: measuring the machine that this program runs on."""

from __future__ import annotations

from pathlib import Path

import click

from weathermixer.cli.arguments import PATH, nproc_option
from weathermixer.cli.run_commands import start_if_asked
from weathermixer.console import progress, say
from weathermixer.launch.ranks import run_as_rank

_MEASURE_AGAIN = "start the same command again"


@click.group()
def bench() -> None:
    """Measure what this machine can do."""


@bench.command()
@click.option("--out", type=PATH, required=True, help="Machine file to write.")
@nproc_option
def machine(out: Path, nproc: int | None) -> None:
    """Measure this machine for ``plan``, in a minute or two: leave it alone meanwhile."""
    if start_if_asked(nproc, remedy=_MEASURE_AGAIN):
        return
    with run_as_rank(_MEASURE_AGAIN) as rank:
        from weathermixer.planning.machine_files import write_machine
        from weathermixer.planning.machine_measurement import measure_machine, noise_warning

        with progress("measuring the machine") as update:
            measured = measure_machine(rank, out.absolute().parent, update)
        if rank.is_first:
            warning = noise_warning(measured)
            if warning is not None:
                say(warning)
            write_machine(measured, out)
            say(f"wrote {out}")
