"""The commands below ``bench``: measuring the machine that this program runs on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from weathermixer.cli.arguments import (
    OVERRIDES,
    PATH,
    GridShape,
    RankCounts,
    WithSettings,
    config_argument,
    nproc_option,
    overrides_argument,
    print_result,
)
from weathermixer.cli.run_commands import start_if_asked
from weathermixer.console import progress, say, waiting_for
from weathermixer.interpreter import program
from weathermixer.launch.ranks import run_as_rank
from weathermixer.launch.start import num_started, start_ranks
from weathermixer.scaling.counts import default_counts

_MEASURE_AGAIN = "start the same command again"
_GO_ON = "continue with the same command"


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


@bench.command(cls=WithSettings, context_settings=OVERRIDES)
@config_argument
@overrides_argument
@click.option("--kind", type=click.Choice(["strong", "weak", "roofline"]), required=True)
@click.option(
    "--ranks",
    type=RankCounts(),
    help="Numbers of ranks to measure; they are started on this machine, unless torchrun or srun "
    "has started as many.  [default: those that divide the ranks that were started; else 1,2,4; "
    "for a roofline, all]",
)
@click.option("--out", type=PATH, required=True, help="Folder for scaling.json and pictures.")
@click.option(
    "--grid", type=GridShape(), help="Generate states on this grid.  [default: read the store's]"
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Rounds, in each of which every contender has its turn of a few steps.",
)
@click.option(
    "--read-rate",
    type=click.FloatRange(0.0, min_open=True),
    metavar="MB/S",
    help="Let no rank read faster than this, in 10⁶ bytes a second.",
)
def scaling(
    config: Path,
    overrides: tuple[str, ...],
    kind: Literal["strong", "weak", "roofline"],
    ranks: tuple[int, ...] | None,
    out: Path,
    grid: tuple[int, int] | None,
    rounds: int,
    read_rate: float | None,
) -> None:
    """Measure training steps of CONFIG on several numbers of ranks, beside predictions and peers.

    A command that was interrupted continues when it is run again.
    """
    started = num_started()
    counts = ranks or default_counts(kind, started)
    if started == 1 and max(counts) > 1:
        words = click.get_current_context().obj
        start_ranks(program(*words), max(counts), remedy=_GO_ON)
        return
    with run_as_rank(_GO_ON) as rank:
        with waiting_for("the program's libraries to be loaded"):
            from weathermixer.scaling.bench import Request, run_scaling

        rate = None if read_rate is None else 1e6 * read_rate
        request = Request(config, overrides, kind, counts, out, rounds, grid, rate)
        with progress("measuring") as update:
            table = run_scaling(request, update)
        if rank.is_first:
            print_result(table)
            say(f"wrote {out}")
