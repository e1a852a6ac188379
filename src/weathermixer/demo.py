"""The whole path in one go: a planet, a model that learns its weather, forecasts, and their scores.

Each stage is a command of its own with the same result; a stage that was finished is not repeated,
so an interrupted demonstration continues.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import xarray as xr

from weathermixer.config import Checkpoint, Config, Data, Model, Training, write_config
from weathermixer.console import progress, say
from weathermixer.data.feeding.periods import periods
from weathermixer.data.store.store import Store
from weathermixer.errors import UserError
from weathermixer.interpreter import program
from weathermixer.launch.environment import threads_per_rank
from weathermixer.launch.start import start_ranks
from weathermixer.runs.folder_lock import FolderLock

DAYS = 1460
STEPS = 3000
MOST_RANKS = 2
GRID = (32, 64)
FORECAST_STEPS = 40  # ten days
NUM_FORECASTS = 30


def demo_config(store: Path, *, steps: int, seed: int) -> Config:
    """The recipe of the demonstration: increments, growing to two-step rollouts at the end."""
    return Config(
        model=Model(),
        data=Data(store=store),
        training=Training(
            steps=steps,
            seed=seed,
            rollout={0: 1, steps * 4 // 5: 2},
            warmup_steps=min(100, steps // 10),
            validate_every=max(steps // 6, 1),
        ),
        checkpoint=Checkpoint(every=max(steps // 6, 1)),
    )


def run_demo(out: Path, *, days: int | None, steps: int | None, seed: int) -> None:
    """Simulate, train, forecast and verify below ``out``; prints the score table.

    ``days`` of weather and ``steps`` of training default to what takes about a quarter of an
    hour on two cores. Raises UserError where ``out`` holds a demonstration of other settings, or
    another process is making one there.
    """
    with FolderLock(out, "demonstration"):
        _run_stages(out, days=days or DAYS, steps=steps or STEPS, seed=seed)


def _run_stages(out: Path, *, days: int, steps: int, seed: int) -> None:
    from weathermixer.data.making.planet import write_planet
    from weathermixer.forecast.forecast import forecast
    from weathermixer.report.make_report import make_report
    from weathermixer.verification.verify import verify

    start = time.monotonic()
    store_path, run, forecasts = out / "planet.zarr", out / "run", out / "forecast.zarr"

    say(f"1/5  Simulating {days} days of weather into {store_path}")
    if not store_path.exists():
        with progress("simulating") as update:
            write_planet(store_path, days=days, grid=GRID, seed=seed, progress=update)

    settings = demo_config(store_path, steps=steps, seed=seed)
    ranks = num_ranks(settings)
    say(f"2/5  Training for {steps} steps on {ranks} {'ranks' if ranks > 1 else 'rank'} into {run}")
    config = out / "config.yaml"
    write_config(settings, config)
    words = ["train", str(config), "--out", str(run), *["--resume"] * run.exists()]
    start_ranks(program(*words), ranks, remedy="continue with the same command")

    store = Store.open(store_path)
    test = periods(store.times).test
    if test is None:
        raise UserError(f"{store_path} has no times left to test on: simulate more --days")
    inits = initial_times(store.times, test)
    say(f"3/5  Forecasting ten days from {len(inits)} initial times into {forecasts}")
    if not forecasts.exists():
        with progress("forecasting") as update:
            text = ",".join(str(time) for time in inits)
            forecast(run, store_path, text, FORECAST_STEPS, forecasts, progress=update)

    most = most_ranks()
    if most > 1:
        again = out / f"forecast-{most}-ranks.zarr"
        if not again.exists():
            words = ["forecast", str(run), "--store", str(store_path), "--init", str(inits[0])]
            words += ["--steps", str(FORECAST_STEPS), "--out", str(again)]
            start_ranks(program(*words), most, remedy="continue with the same command")
        first, last = largest_differences(forecasts, again)
        say(
            f"     The first of them, made again on {most} ranks, differs by at most {first:.0e} "
            f"of a variable's standard deviation after the first step, {last:.0e} after the last"
        )

    say(f"4/5  Scoring them into {out / 'scores'}")
    with progress("verifying") as update:
        verification = verify(forecasts, store_path, out=out / "scores", progress=update)
    print(verification.render())

    say(f"5/5  Writing the report {out / 'report.html'}")
    make_report(out / "scores", out / "report.html")
    say(
        f"Done in {(time.monotonic() - start) / 60:.0f} minutes. "
        f"Open {out / 'report.html'}; pictures and tables are in {out / 'scores'}."
    )


def most_ranks() -> int:
    """The number of ranks that the demonstration may run on: two, or one where one GPU is all."""
    import torch

    return min(MOST_RANKS, torch.cuda.device_count()) if torch.cuda.is_available() else MOST_RANKS


def num_ranks(config: Config) -> int:
    """The number of ranks with which a training step takes the least time, as predicted."""
    from weathermixer.model.architecture import architecture_of
    from weathermixer.planning.choosing import choose_mesh

    architecture = architecture_of(config.data, config.model, GRID)

    def predicted_seconds(ranks: int) -> float:
        threads = threads_per_rank(os.environ, ranks)
        return choose_mesh(config, architecture, world_size=ranks, threads=threads).seconds

    return min(range(1, most_ranks() + 1), key=predicted_seconds)


def largest_differences(forecasts: Path, again: Path) -> tuple[float, float]:
    """By how much two forecasts differ at most, after their first step and after their last.

    Of all variables, levels and points, relative to the standard deviation of the variable on its
    level and at that lead time; for the initial times that ``again`` has.
    """
    ends = [0, -1]
    with (
        xr.open_zarr(forecasts, consolidated=False) as one,
        xr.open_zarr(again, consolidated=False) as other,
    ):
        one, other = (each.isel(prediction_timedelta=ends) for each in (one, other))
        one = one.sel(time=other.time)
        space = ["latitude", "longitude"]
        relative = abs(one - other).max(space) / one.std(space)
        first, last = (
            max(float(each.max()) for each in relative.isel(prediction_timedelta=end).values())
            for end in range(2)
        )
    return first, last


def initial_times(times: np.ndarray, test: tuple[np.datetime64, np.datetime64]) -> np.ndarray:
    """Evenly spaced initial times whose ten days of truth lie in the test period."""
    inside = times[(times >= test[0]) & (times <= test[1])]
    usable = inside[: max(1, len(inside) - FORECAST_STEPS)]
    chosen = np.linspace(0, len(usable) - 1, min(NUM_FORECASTS, len(usable))).round().astype(int)
    return usable[chosen]
