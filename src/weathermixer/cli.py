"""The commands: parse, call, print. No logic lives here.

Everything heavy is imported inside the command that needs it, so that ``--help`` is quick.
"""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from weathermixer import __version__
from weathermixer.console import progress, say, size_text
from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import LayoutError
from weathermixer.launch.ranks import end, ranks
from weathermixer.launch.start import RankFailed, start_ranks, starts_ranks

_PATH = click.Path(path_type=Path)
_OVERRIDES = {"ignore_unknown_options": True}


class _Grid(click.ParamType):
    """Latitude × longitude, such as 32x64."""

    name = "LATxLON"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        rows, cross, columns = value.lower().replace("×", "x").partition("x")
        if not (cross and rows.isdecimal() and columns.isdecimal() and int(rows) * int(columns)):
            self.fail(f"{value!r} is not latitude × longitude, such as 32x64")
        return int(rows), int(columns)


class _WithSettings(click.Command):
    """A command whose help ends with every setting of the configuration."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from weathermixer.config import settings

        with formatter.section("Settings, as --section.key=value or in CONFIG"):
            formatter.write_dl(
                [(key, f"{meaning} [{default}]") for key, default, meaning in settings()]
            )


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="weathermixer")
def commands() -> None:
    """Train, run and verify WeatherMixer, an MLP-Mixer for the atmosphere.

    Any command takes --traceback, to show where in the program an error arose.
    """


_as_json = click.option("--json", "json", is_flag=True, help="Print the result as one JSON object.")
_config_argument = click.argument("config", type=_PATH)
_nproc = click.option("--nproc", type=click.IntRange(1), help="Ranks to start on this machine.")
_overrides_argument = click.argument(
    "overrides", nargs=-1, type=click.UNPROCESSED, metavar="[--section.key=value]..."
)


@commands.command()
@click.option("--out", type=_PATH, default=Path("demo-run"), show_default=True)
@click.option("--days", type=click.IntRange(60), help="Days of simulated weather.")
@click.option("--steps", type=click.IntRange(20), help="Steps of training.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def demo(out: Path, days: int | None, steps: int | None, seed: int) -> None:
    """Simulate a planet, learn its weather, forecast it and score the forecast."""
    from weathermixer.demo import run_demo

    run_demo(out, days=days, steps=steps, seed=seed)


@commands.group()
def data() -> None:
    """Make stores of states, and look into them."""


@data.command()
@click.argument("out", type=_PATH)
@click.option("--days", type=click.IntRange(2), default=1460, show_default=True)
@click.option("--grid", type=_Grid(), default="32x64", show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def planet(out: Path, days: int, grid: tuple[int, int], seed: int) -> None:
    """Simulate the weather of an Earth (SPEEDY physics, real land and orography)."""
    from weathermixer.data.planet import write_planet

    with progress("simulating") as update:
        write_planet(out, days=days, grid=grid, seed=seed, progress=update)
    say(f"wrote {out}")


@data.command()
@click.argument("out", type=_PATH)
@click.option("--times", type=click.IntRange(3), default=200, show_default=True)
@click.option("--grid", type=_Grid(), default="181x360", show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def synthetic(out: Path, times: int, grid: tuple[int, int], seed: int) -> None:
    """Write analytic waves whose future is known exactly; takes seconds."""
    from weathermixer.data.synthetic import write_synthetic

    with progress("writing") as update:
        write_synthetic(out, times=times, grid=grid, seed=seed, progress=update)
    say(f"wrote {out}")


@data.command()
@click.argument("out", type=_PATH)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--config", "config_path", type=_PATH, help="Take the section 'data' from this file.")
@click.option("--member", type=int, help="Ensemble member, where a source has several.")
@click.option("--step-hours", type=float, help="Interval of the increments.  [default: 6]")
@click.option("--no-climatology", is_flag=True, help="Leave out the climatology.")
@click.option(
    "--ways",
    type=click.IntRange(1),
    help="Make chunks for up to so many ranks that share a sample.  [default: the mesh of CONFIG, "
    "if it names one, else 8, fewer where chunks would be small]",
)
@click.option("--processes", type=click.IntRange(1), help="Worker processes.  [default: cores]")
def prepare(
    out: Path,
    sources: tuple[str, ...],
    config_path: Path | None,
    member: int | None,
    step_hours: float | None,
    no_climatology: bool,
    ways: int | None,
    processes: int | None,
) -> None:
    """Make a store of ERA5 or of other analyses: Zarr, NetCDF or GRIB, local or remote.

    Several sources are merged: other times, other variables, static fields. A command that was
    interrupted continues when it is run again.
    """
    from weathermixer.config import read_config
    from weathermixer.data.prepare import prepare as prepare_store

    with progress("preparing") as update:
        prepare_store(
            out,
            sources,
            config=None if config_path is None else read_config(config_path),
            member=member,
            step_hours=step_hours,
            climatology=not no_climatology,
            ways=ways,
            processes=processes,
            progress=update,
        )
    say(f"wrote {out}")


@data.command("inspect")
@click.argument("store", type=_PATH)
@click.option("--full", is_flag=True, help="Read every state, and name those that are damaged.")
@_as_json
def inspect_command(store: Path, full: bool, json: bool) -> None:
    """Say what a store holds: grid, times, channels and their statistics."""
    from weathermixer.data.inspect import inspect_store

    with progress("reading") as update:
        inspection = inspect_store(store, full=full, progress=update)
    _print(inspection.to_json() if json else inspection.render())


@commands.command(context_settings=_OVERRIDES)
@_config_argument
@_overrides_argument
@_as_json
def check(config: Path, overrides: tuple[str, ...], json: bool) -> None:
    """Name every problem of a configuration and its store, with a remedy; run nothing."""
    from weathermixer.check import check as check_config

    findings = check_config(config, overrides)
    if json:
        _print(findings.to_json())
    else:
        for problem in findings.problems:
            _print(f"{problem.severity}: {problem.sentence()}")
        if not findings.problems:
            _print(f"{config}: no problems found")
        if findings.buffer_bytes is not None and findings.kept_bytes is not None:
            _print(
                f"reading ahead holds at most {size_text(findings.buffer_bytes)} on a rank; the "
                f"ranks of a machine keep states in at most {size_text(findings.kept_bytes)}"
            )
    if findings.has_errors:
        raise SystemExit(2)


@commands.command(cls=_WithSettings, context_settings=_OVERRIDES)
@_config_argument
@_overrides_argument
@click.option("--out", type=_PATH, required=True, help="Folder of the run.")
@click.option("--resume", is_flag=True, help="Continue from the newest checkpoint.")
@_nproc
@_as_json
def train(
    config: Path,
    overrides: tuple[str, ...],
    out: Path,
    resume: bool,
    nproc: int | None,
    json: bool,
) -> None:
    """Train a model as CONFIG says, on one rank or on those that torchrun or srun starts."""
    from weathermixer.config import read_config

    settings = read_config(config, overrides)
    words = ["train", str(config), *overrides, "--out", str(out)]
    words += ["--resume"] * resume + ["--json"] * json
    if _started(nproc, words, remedy="continue with --resume"):
        return
    with ranks() as place:
        from rich.console import Console

        from weathermixer.training.trainer import train as run_training

        result = run_training(
            settings,
            out,
            resume=resume or settings.checkpoint.resume,
            console=Console(stderr=True, quiet=not place.is_first),
        )
        if place.is_first and json:
            _print(result.to_json())
        elif place.is_first:
            say(f"wrote {out}")


@commands.command(context_settings=_OVERRIDES)
@click.argument("run", type=_PATH)
@_overrides_argument
@click.option("--store", required=True, help="Initial states: a store, or WeatherBench 2's Zarr.")
@click.option(
    "--init", required=True, metavar="TIME[,TIME...]|START/STOP/STEP", help="Initial times."
)
@click.option("--steps", type=click.IntRange(1), required=True, help="Steps to forecast.")
@click.option("--out", type=_PATH, required=True, help="Zarr store to write.")
@_nproc
def forecast(
    run: Path,
    overrides: tuple[str, ...],
    store: str,
    init: str,
    steps: int,
    out: Path,
    nproc: int | None,
) -> None:
    """Forecast from states of a store with a trained model, on one rank or several."""
    words = ["forecast", str(run), *overrides, "--store", store, "--init", init]
    words += ["--steps", str(steps), "--out", str(out)]
    if _started(nproc, words, remedy="continue with the same command"):
        return
    with ranks() as place:
        from weathermixer.forecast.forecast import forecast as run_forecast

        with progress("forecasting") if place.is_first else nullcontext() as update:
            run_forecast(run, store, init, steps, out, overrides=overrides, progress=update)
        if place.is_first:
            say(f"wrote {out}")


@commands.command()
@click.argument("forecast")
@click.option("--truth", required=True, help="What happened: a store, or Zarr as WeatherBench 2's.")
@click.option("--out", type=_PATH, help="Folder for tables and pictures.")
@click.option("--beside", multiple=True, metavar="ZARR[,ZARR...]", help="Other forecasts.")
@click.option("--climatology", metavar="ZARR", help="Climatology.  [default: the truth's own]")
@click.option("--processes", type=click.IntRange(1), help="Worker processes.  [default: cores]")
@_as_json
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
    _print(verification.to_json() if json else verification.render())
    if out is not None:
        say(f"wrote {out}")


@commands.command()
@click.argument("folder", type=_PATH, metavar="RUN|VERIFICATION")
@click.option(
    "--out", type=_PATH, help="File to write.  [default: report.html in the folder]", metavar="FILE"
)
def report(folder: Path, out: Path | None) -> None:
    """Make one HTML page of a run and its scores, to read, to show or to print."""
    from weathermixer.report.report import report as write_report

    written = write_report(folder, out)
    for note in written.notes:
        say(f"Note: {note}.")
    say(f"wrote {written.path}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exit with 0, with 2 for a user's mistake, or with 1."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    show_traceback = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    try:
        commands.main(words, prog_name="weathermixer", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt) as error:
        end(error, "Interrupted.", 1)
    except RankFailed as error:
        if show_traceback:
            say(error.details)
        say(str(error))
        sys.exit(error.status)
    except (UserError, LayoutError) as error:
        end(error, f"Error: {error}", 2, show_traceback=show_traceback)
    except Exception as error:  # noqa: BLE001 - the last place where anything can be said
        sentence = (
            f"{type(error).__name__}: {error} (an error of the program; --traceback shows where)"
        )
        end(error, f"Error: {sentence}", 1, show_traceback=show_traceback)


def _started(nproc: int | None, words: Sequence[str], *, remedy: str) -> bool:
    """Run a command as ranks of this machine, where ``--nproc`` asks for several."""
    if not starts_ranks(nproc):
        return False
    start_ranks([sys.executable, "-m", "weathermixer", *words], nproc or 1, remedy=remedy)
    return True


def _print(result: Any) -> None:
    if isinstance(result, dict):
        result = json_module.dumps(result)
    click.echo(result)


if __name__ == "__main__":
    main()
