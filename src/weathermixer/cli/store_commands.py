"""The commands below ``data``: making stores of states, looking into them, and a planet's NWP."""

from __future__ import annotations

from pathlib import Path

import click

from weathermixer.cli.arguments import ARCHIVE, PATH, GridShape, as_json, print_result
from weathermixer.console import progress, say
from weathermixer.data.making.planet_numerics import (
    ANALYSIS_ERROR,
    IMPERFECT,
    TRUTH,
    PlanetNumerics,
)


@click.group()
def data() -> None:
    """Make stores of states, look into them, and forecast a planet by its own physics."""


@data.command()
@click.argument("out", type=PATH)
@click.option("--days", type=click.IntRange(2), default=1460, show_default=True)
@click.option("--grid", type=GridShape(), default="32x64", show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def planet(out: Path, days: int, grid: tuple[int, int], seed: int) -> None:
    """Simulate the weather of an Earth (SPEEDY physics, real land and orography)."""
    from weathermixer.data.making.planet import write_planet

    with progress("simulating") as update:
        write_planet(out, days=days, grid=grid, seed=seed, progress=update)
    say(f"wrote {out}")


@data.command()
@click.argument("out", type=PATH)
@click.option("--times", type=click.IntRange(3), default=200, show_default=True)
@click.option("--grid", type=GridShape(), default="181x360", show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def synthetic(out: Path, times: int, grid: tuple[int, int], seed: int) -> None:
    """Write analytic waves whose future is known exactly; takes seconds."""
    from weathermixer.data.making.synthetic import write_synthetic

    with progress("writing") as update:
        write_synthetic(out, times=times, grid=grid, seed=seed, progress=update)
    say(f"wrote {out}")


@data.command()
@click.argument("out", type=PATH)
@click.argument("sources", type=ARCHIVE, nargs=-1, required=True, metavar="SOURCE...")
@click.option("--config", "config_path", type=PATH, help="Take the section 'data' from this file.")
@click.option("--period", metavar="START/STOP", help="Take these times alone, both inclusive.")
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
    period: str | None,
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
    from weathermixer.config import period_of, read_config
    from weathermixer.data.making.preparation import prepare as prepare_store

    with progress("preparing") as update:
        prepare_store(
            out,
            sources,
            config=None if config_path is None else read_config(config_path),
            period=None if period is None else period_of(period, "--period"),
            member=member,
            step_hours=step_hours,
            climatology=not no_climatology,
            ways=ways,
            processes=processes,
            progress=update,
        )
    say(f"wrote {out}")


@data.command()
@click.argument("store", type=ARCHIVE)
@click.argument("out", type=PATH)
@click.option("--period", metavar="START/STOP", help="Copy these times alone, both inclusive.")
def export(store: str, out: Path, period: str | None) -> None:
    """Copy a store into a Zarr as WeatherBench 2 keeps analyses: a variable each, with levels.

    A command that was interrupted continues when it is run again.
    """
    from weathermixer.config import period_of
    from weathermixer.data.making.weatherbench import export_store

    with progress("copying") as update:
        export_store(
            store,
            out,
            period=None if period is None else period_of(period, "--period"),
            progress=update,
        )
    say(f"wrote {out}")


@data.command()
@click.argument("store", type=ARCHIVE)
@click.option(
    "--init", required=True, metavar="TIME[,TIME...]|START/STOP/STEP", help="Initial times."
)
@click.option("--steps", type=int, required=True, help="Steps to forecast, of six hours each.")
@click.option(
    "--out", type=PATH, required=True, help="Zarr store to write, or a NetCDF file: F.zarr, F.nc."
)
@click.option(
    "--analysis-error",
    type=float,
    default=ANALYSIS_ERROR,
    show_default=True,
    help="Size of the error of initial states, in six-hourly standard deviations of each channel.",
)
@click.option(
    "--layers",
    type=int,
    default=IMPERFECT.layers,
    show_default=True,
    help=f"Layers of the model; the truth has {TRUTH.layers}.",
)
@click.option(
    "--diffusion-order",
    type=int,
    default=IMPERFECT.diffusion_order,
    show_default=True,
    help=f"Order of its diffusion; the truth's is {TRUTH.diffusion_order}.",
)
@click.option(
    "--diffusion-hours",
    type=float,
    default=IMPERFECT.diffusion_hours,
    show_default=True,
    help="Hours in which diffusion damps the smallest scale to 1/e; the truth's are "
    f"{TRUTH.diffusion_hours:g}.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@as_json
def nwp(
    store: str,
    init: str,
    steps: int,
    out: Path,
    analysis_error: float,
    layers: int,
    diffusion_order: int,
    diffusion_hours: float,
    seed: int,
    json: bool,
) -> None:
    """Forecast a simulated planet by its own physics, imperfectly, to compare others with.

    Initial states have an analysis error, and the model has other layers and another diffusion
    than the truth. Interrupted, the same command continues.
    """
    from weathermixer.forecast.nwp import forecast_planet

    with progress("forecasting") as update:
        result = forecast_planet(
            store,
            init,
            steps,
            out,
            numerics=PlanetNumerics(layers, diffusion_order, diffusion_hours),
            analysis_error=analysis_error,
            seed=seed,
            progress=update,
        )
    if json:
        print_result(result.to_json())
        return
    say(f"wrote {out}")
    if result.processor_seconds is not None:
        say(f"a forecast took {result.processor_seconds:.1f} processor seconds")


@data.command("inspect")
@click.argument("store", type=ARCHIVE)
@click.option("--full", is_flag=True, help="Read every state, and name those that are damaged.")
@as_json
def inspect_command(store: str, full: bool, json: bool) -> None:
    """Say what a store holds: grid, times, channels and their statistics.

    Of an archive that others wrote, say what can be used, and what is left out.
    """
    from weathermixer.data.opening import inspect

    with progress("reading") as update:
        inspection = inspect(store, full=full, progress=update)
    print_result(inspection.to_json() if json else inspection.render())
