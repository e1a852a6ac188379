"""The commands that judge and show: ``verify`` and ``report``."""

from __future__ import annotations

from pathlib import Path

import click

from weathermixer.cli.arguments import ARCHIVE, PATH, as_json, print_result
from weathermixer.console import progress, say


@click.command()
@click.argument("forecast", type=ARCHIVE)
@click.option(
    "--truth",
    type=ARCHIVE,
    required=True,
    help="What happened: a store, or Zarr as WeatherBench 2's.",
)
@click.option("--out", type=PATH, help="Folder for tables and pictures.")
@click.option(
    "--beside", type=ARCHIVE, multiple=True, metavar="ZARR[,ZARR...]", help="Other forecasts."
)
@click.option(
    "--climatology", type=ARCHIVE, metavar="ZARR", help="Climatology.  [default: the truth's own]"
)
@click.option("--processes", type=click.IntRange(1), help="Worker processes.  [default: cores]")
@as_json
def verify(
    forecast: str,
    truth: str,
    out: Path | None,
    beside: tuple[str, ...],
    climatology: str | None,
    processes: int | None,
    json: bool,
) -> None:
    """Score a forecast beside persistence, climatology and other forecasts."""
    from weathermixer.verification.verify import verify as run_verification

    with progress("verifying") as update:
        verification = run_verification(
            forecast,
            truth,
            beside=[path for paths in beside for path in paths.split(",")],
            climatology=climatology,
            out=out,
            processes=processes,
            progress=update,
        )
    print_result(verification.to_json() if json else verification.render())
    if out is not None:
        say(f"wrote {out}")


@click.command()
@click.argument("folder", type=PATH, metavar="RUN|VERIFICATION")
@click.option(
    "--out", type=PATH, help="File to write.  [default: report.html in the folder]", metavar="FILE"
)
@click.option("--at", multiple=True, metavar="LAT,LON", help="Place to show plumes of; repeatable.")
def report(folder: Path, out: Path | None, at: tuple[str, ...]) -> None:
    """Make one HTML page of a run and its scores, to read, to show or to print."""
    from weathermixer.data.points import Point
    from weathermixer.report.make_report import make_report

    written = make_report(folder, out, at=[Point.parse(place) for place in at])
    for note in written.notes:
        say(f"Note: {note}.")
    say(f"wrote {written.path}")
