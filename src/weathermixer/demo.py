"""The whole path in one go: a planet, a model that learns its weather, forecasts, and their scores.

Each stage is a command of its own with the same result; a stage that was finished is not repeated,
so an interrupted demonstration continues.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import xarray as xr

from weathermixer.config import (
    Checkpoint,
    Config,
    Data,
    Model,
    Parallel,
    Training,
    read_config,
    write_config,
)
from weathermixer.console import progress, say
from weathermixer.data.feeding.periods import periods
from weathermixer.data.store.store import Store
from weathermixer.errors import UserError
from weathermixer.interpreter import num_cores, program
from weathermixer.launch.start import start_ranks
from weathermixer.planning.machine import ProductType
from weathermixer.runs.folder_lock import FolderLock

DAYS = 1460
STEPS = 690
SAMPLES_PER_STEP = 8
MOST_RANKS = 2
GRID = (32, 64)
FORECAST_STEPS = 40  # ten days
NUM_FORECASTS = 30
MEMBERS = 2  # of a sample, in training
ENSEMBLE_SHARE = 6  # of the steps of the training before
FORECAST_MEMBERS, ENSEMBLE_EVERY = 8, 6
# Whatever the network was trained in: then meshes differ by no more than float32 rounds.
IN_FLOAT32 = "training.dtype=float32"


def demo_config(
    store: Path, *, steps: int, seed: int, replicas: int = 1, dtype: ProductType = "float32"
) -> Config:
    """The recipe of the demonstration, which ``examples/planet.yaml`` has too.

    Two states are given, patches overlap and are smoothed, and rollouts grow while the learning
    rate is high still. The samples of a step are shared out among ``replicas`` of the model.
    """
    quarter = -(-steps // 4)
    return Config(
        model=Model(overlap=1, smoothing=2),
        data=Data(store=store, input_times=2),
        parallel=Parallel(data=replicas),
        training=Training(
            steps=steps,
            seed=seed,
            dtype=dtype,
            instance_batch=SAMPLES_PER_STEP // replicas,
            rollout={0: 1, steps * 11 // 20: 2, steps * 31 // 40: 4},
            small_scales=0.3,
            warmup_steps=min(100, steps // 10),
            validate_every=quarter,
        ),
        checkpoint=Checkpoint(every=quarter),
    )


def ensemble_config(deterministic: Config) -> Config:
    """The short training after a deterministic one: members by noise, and their CRPS.

    Rollouts begin longer, since members drift apart for days, and a step has as many states as
    before. The rate is low, since so short a training does not learn again what it undoes, but high
    enough for members to drift apart; that of noise at each point, which is new, is twice as high.
    """
    given = deterministic.training
    steps = max(10, given.steps // ENSEMBLE_SHARE)
    training = Training(
        steps=steps,
        seed=given.seed,
        dtype=given.dtype,
        error="crps",
        members=MEMBERS,
        small_scales=given.small_scales,
        instance_batch=given.instance_batch // MEMBERS,
        rollout={0: 2, steps // 5: 4, steps * 7 // 15: 8},
        learning_rate=1e-3,
        learning_rates={"head": 2e-3},
        warmup_steps=steps // 5,
        validate_every=steps,
    )
    model = deterministic.model.model_copy(update={"local_noise": 16})
    checkpoint = Checkpoint(every=steps)
    return deterministic.model_copy(
        update={"model": model, "training": training, "checkpoint": checkpoint}
    )


def run_demo(out: Path, *, days: int | None, steps: int | None, seed: int) -> None:
    """Simulate, train, forecast and verify below ``out``; prints the score tables.

    ``days`` of weather and ``steps`` of training default to what takes about twelve minutes on two
    cores. Raises UserError where ``out`` holds a demonstration of other settings, or another
    process is making one there.
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
    ensemble = out / "ensemble"

    say(f"1/6  Simulating {days} days of weather into {store_path}")
    if not store_path.exists():
        with progress("simulating") as update:
            write_planet(store_path, days=days, grid=GRID, seed=seed, progress=update)

    config = out / "config.yaml"
    ranks, dtype = _choices(config)
    settings = demo_config(store_path, steps=steps, seed=seed, replicas=ranks, dtype=dtype)
    on_ranks = f"in {settings.training.dtype} on {ranks} {'ranks' if ranks > 1 else 'rank'}"
    say(f"2/6  Training for {steps} steps {on_ranks} into {run}")
    _train(settings, config, run, ranks)

    of_members = ensemble_config(settings)
    say(
        f"3/6  Training it on as an ensemble, for {of_members.training.steps} steps of "
        f"{MEMBERS} members {on_ranks} into {ensemble}"
    )
    _train(of_members, out / "ensemble.yaml", ensemble, ranks, source=run)

    store = Store.open(store_path)
    test = periods(store.times).test
    if test is None:
        raise UserError(f"{store_path} has no times left to test on: simulate more --days")
    inits = initial_times(store.times, test)
    say(f"4/6  Forecasting ten days from {len(inits)} initial times into {forecasts}")
    if not forecasts.exists():
        with progress("forecasting") as update:
            forecast(
                run,
                store_path,
                _listed(inits),
                FORECAST_STEPS,
                forecasts,
                overrides=[IN_FLOAT32],
                progress=update,
            )

    most = most_ranks()
    if most > 1:
        again = out / f"forecast-{most}-ranks.zarr"
        if not again.exists():
            words = ["forecast", str(run), "--store", str(store_path), "--init", str(inits[0])]
            words += ["--steps", str(FORECAST_STEPS), "--out", str(again), f"--{IN_FLOAT32}"]
            start_ranks(program(*words), most, remedy="continue with the same command")
        first, last = largest_differences(forecasts, again)
        say(
            f"     The first of them, made again on {most} ranks, differs by at most {first:.0e} "
            f"of a variable's standard deviation after the first step, {last:.0e} after the last"
        )

    say(f"5/6  Scoring them into {out / 'scores'}")
    with progress("verifying") as update:
        verification = verify(forecasts, store_path, out=out / "scores", progress=update)
    print(verification.render())
    few = inits[::ENSEMBLE_EVERY]
    say(
        f"     Scoring {FORECAST_MEMBERS} members from {len(few)} of the initial times as they "
        f"are forecast, into {out / 'ensemble-scores'}"
    )
    with progress("forecasting") as update:
        scored = forecast(
            ensemble,
            store_path,
            _listed(few),
            FORECAST_STEPS,
            truth=store_path,
            scores=out / "ensemble-scores",
            members=FORECAST_MEMBERS,
            progress=update,
        )
    if scored.verification is not None:
        print(scored.verification.render())

    say(f"6/6  Writing the reports {out / 'report.html'} and {out / 'ensemble.html'}")
    make_report(out / "scores", out / "report.html")
    make_report(out / "ensemble-scores", out / "ensemble.html")
    say(
        f"Done in {(time.monotonic() - start) / 60:.0f} minutes. "
        f"Open {out / 'report.html'}; pictures and tables are in {out / 'scores'}."
    )


def _choices(config: Path) -> tuple[int, ProductType]:
    """Replicas and arithmetic: those of before an interruption, or what suits this machine."""
    if config.exists():
        before = read_config(config)
        return before.parallel.data, before.training.dtype
    return min(most_ranks(), num_cores()), faster_arithmetic()


def _train(
    settings: Config, config: Path, run: Path, ranks: int, *, source: Path | None = None
) -> None:
    """Train on so many ranks, with the weights of ``source`` at first; go on with what is there."""
    write_config(settings, config)
    words = ["train", str(config), "--out", str(run), *["--resume"] * run.exists()]
    if source is not None and not run.exists():
        words += ["--from", str(source)]
    start_ranks(program(*words), ranks, remedy="continue with the same command")


def _listed(times: np.ndarray) -> str:
    return ",".join(str(time) for time in times)


def most_ranks() -> int:
    """The number of ranks that the demonstration may run on: two, or one where one GPU is all."""
    import torch

    return min(MOST_RANKS, torch.cuda.device_count()) if torch.cuda.is_available() else MOST_RANKS


def faster_arithmetic() -> ProductType:
    """The type in which this machine multiplies faster, by a short measurement.

    A processor without instructions for bfloat16 is several times slower in it.
    """
    import torch

    from weathermixer.planning.device_timing import product_rate

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    narrow, wide = (product_rate(512, dtype, device) for dtype in ("bfloat16", "float32"))
    return "bfloat16" if narrow > wide else "float32"


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
