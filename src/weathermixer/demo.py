"""The whole path in one go: a planet, a model that learns its weather, forecasts, and their scores.

Each stage is a command of its own with the same result; a stage that was finished is not repeated,
so an interrupted demonstration continues.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

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


def num_ranks(config: Config) -> int:
    """The number of ranks, one or two, with which a step takes the least time, as predicted."""
    import torch

    from weathermixer.model.architecture import architecture_of
    from weathermixer.planning.choosing import choose_mesh

    most = MOST_RANKS
    if torch.cuda.is_available():
        most = min(most, torch.cuda.device_count())
    architecture = architecture_of(config.data, config.model, GRID)

    def predicted_seconds(ranks: int) -> float:
        threads = threads_per_rank(os.environ, ranks)
        return choose_mesh(config, architecture, world_size=ranks, threads=threads).seconds

    return min(range(1, most + 1), key=predicted_seconds)


def initial_times(times: np.ndarray, test: tuple[np.datetime64, np.datetime64]) -> np.ndarray:
    """Evenly spaced initial times whose ten days of truth lie in the test period."""
    inside = times[(times >= test[0]) & (times <= test[1])]
    usable = inside[: max(1, len(inside) - FORECAST_STEPS)]
    chosen = np.linspace(0, len(usable) - 1, min(NUM_FORECASTS, len(usable))).round().astype(int)
    return usable[chosen]
