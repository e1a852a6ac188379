"""The commands that train, and what comes before and after.

``demo, train, forecast, export``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from weathermixer.cli.arguments import (
    ARCHIVE,
    OVERRIDES,
    PATH,
    WithSettings,
    as_json,
    config_argument,
    nproc_option,
    overrides_argument,
    print_result,
)
from weathermixer.cli.completion import TakesSettingsOfForecasts
from weathermixer.console import progress, say, waiting_for
from weathermixer.errors import STOPPED_EARLY
from weathermixer.interpreter import program
from weathermixer.launch.ranks import run_as_rank
from weathermixer.launch.start import should_start_ranks, start_ranks, without_option
from weathermixer.training.interrupt import held_back_warnings

_TRAIN_AGAIN = "continue with --resume"
_FORECAST_AGAIN = "continue with the same command"

checkpoint_option = click.option(
    "--checkpoint",
    default="newest",
    show_default=True,
    metavar="newest|best|STEP",
    help="The checkpoint whose weights are taken.",
)
weights_option = click.option(
    "--weights",
    type=click.Choice(["average", "last"]),
    help="The moving average of the weights, by default where the run keeps one, or the last ones.",
)


@click.command()
@click.option("--out", type=PATH, default=Path("demo-run"), show_default=True)
@click.option("--days", type=click.IntRange(60), help="Days of simulated weather.")
@click.option("--steps", type=click.IntRange(20), help="Steps of training.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def demo(out: Path, days: int | None, steps: int | None, seed: int) -> None:
    """Simulate a planet, learn its weather, forecast it and score the forecast."""
    from weathermixer.demo import run_demo

    run_demo(out, days=days, steps=steps, seed=seed)


@click.command(cls=WithSettings, context_settings=OVERRIDES)
@config_argument
@overrides_argument
@click.option("--out", type=PATH, required=True, help="Folder of the run.")
@click.option("--resume", is_flag=True, help="Continue from the newest checkpoint.")
@click.option(
    "--from",
    "source",
    type=PATH,
    metavar="RUN",
    help="Begin with the weights of another run, or of an export.",
)
@nproc_option
@as_json
@held_back_warnings()
def train(
    config: Path,
    overrides: tuple[str, ...],
    out: Path,
    resume: bool,
    source: Path | None,
    nproc: int | None,
    json: bool,
) -> None:
    """Train a model as CONFIG says, on one rank or on those that torchrun or srun starts.

    SIGTERM, SIGUSR1 and Ctrl-C end it after the step in hand, with a checkpoint and status 75.
    """
    from weathermixer.config import read_config

    settings = read_config(config, overrides)
    if start_if_asked(nproc, remedy=_TRAIN_AGAIN):
        return
    with run_as_rank(_TRAIN_AGAIN) as rank:
        with waiting_for("the program's libraries to be loaded"):
            from rich.console import Console

            from weathermixer.training.trainer import train as run_training

        result = run_training(
            settings,
            out,
            resume=resume or settings.checkpoint.resume,
            source=source,
            console=Console(stderr=True, quiet=not rank.is_first),
        )
        if rank.is_first and json:
            print_result(result.to_json())
        elif rank.is_first:
            say(f"wrote {out}")
    if result.stopped_by is not None:
        raise SystemExit(STOPPED_EARLY)


@click.command(cls=TakesSettingsOfForecasts, context_settings=OVERRIDES)
@click.argument("run", type=PATH)
@overrides_argument
@click.option(
    "--store",
    type=ARCHIVE,
    required=True,
    help="Initial states: a store, or WeatherBench 2's Zarr.",
)
@click.option(
    "--init", required=True, metavar="TIME[,TIME...]|START/STOP/STEP", help="Initial times."
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    required=True,
    help="Steps to forecast, of data.step_hours each.",
)
@click.option("--out", type=PATH, help="Zarr store to write, or a NetCDF file: F.zarr, F.nc.")
@click.option(
    "--truth", type=ARCHIVE, help="What happened, for scores: a store, or Zarr as WeatherBench 2's."
)
@click.option("--scores", type=PATH, help="Folder for tables and pictures, as of verify.")
@click.option(
    "--climatology", type=ARCHIVE, metavar="ZARR", help="Climatology.  [default: the truth's own]"
)
@checkpoint_option
@weights_option
@click.option(
    "--members",
    type=click.IntRange(2),
    metavar="M",
    help="Members of an ensemble, of which each draws noise of its own.  [default: a single "
    "forecast, without noise]",
)
@nproc_option
@as_json
def forecast(
    run: Path,
    overrides: tuple[str, ...],
    store: str,
    init: str,
    steps: int,
    out: Path | None,
    truth: str | None,
    scores: Path | None,
    climatology: str | None,
    checkpoint: str,
    weights: Literal["average", "last"] | None,
    members: int | None,
    nproc: int | None,
    json: bool,
) -> None:
    """Forecast from states of a store with a trained model, on one rank or several.

    Fields are written to --out, scores against --truth to --scores, or both.
    """
    if start_if_asked(nproc, remedy=_FORECAST_AGAIN):
        return
    with run_as_rank(_FORECAST_AGAIN) as rank:
        with waiting_for("the program's libraries to be loaded"):
            from weathermixer.forecast.forecast import forecast as run_forecast

        with progress("forecasting") as update:
            result = run_forecast(
                run,
                store,
                init,
                steps,
                out,
                truth=truth,
                scores=scores,
                climatology=climatology,
                checkpoint=checkpoint,
                weights=weights,
                members=members,
                overrides=overrides,
                progress=update,
            )
        if not rank.is_first:
            return
        if json:
            print_result(result.to_json())
        elif result.verification is not None:
            print_result(result.verification.render())
        for written in filter(None, (out, scores)):
            say(f"wrote {written}")


@click.command()
@click.argument("run", type=PATH)
@click.argument("out", type=PATH)
@checkpoint_option
@weights_option
def export(
    run: Path, out: Path, checkpoint: str, weights: Literal["average", "last"] | None
) -> None:
    """Write a run's network, configuration and normalisation to one file, OUT.safetensors.

    forecast takes it in the place of a run, and so does train --from. A card in Markdown beside it
    tells what it is, with fields to fill in.
    """
    from weathermixer.export import export_run

    card = export_run(run, out, which=checkpoint, weights=weights)
    say(f"wrote {out}, and {card}: fill in what it asks for before you publish it")


def start_if_asked(nproc: int | None, *, remedy: str) -> bool:
    """Run this command, as it was typed, as ranks of this machine where ``--nproc`` asks for some.

    Returns whether it did.
    """
    if not should_start_ranks(nproc):
        return False
    words = without_option(click.get_current_context().obj, "--nproc")
    start_ranks(program(*words), nproc or 1, remedy=remedy)
    return True
