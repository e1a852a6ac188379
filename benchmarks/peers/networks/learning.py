"""Training a network of the comparison for a given processor time, and forecasting with it.

Each function is the work of a process of its own, whose peak memory and processor time are then
those of one training. All of it is the library's loop, in which only the network differs; it
computes with one thread.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise, repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import yaml

from peers.networks import NETWORKS
from weathermixer.config import Config, read_config
from weathermixer.config.lengths import longest_at, shortest_at
from weathermixer.data.feeding.periods import periods
from weathermixer.data.feeding.samples import training_period, validation_period
from weathermixer.data.opening import open_states
from weathermixer.errors import UserError
from weathermixer.forecast.forecast import forecast
from weathermixer.forecast.rollout import rollout
from weathermixer.jigsaw.weights import kept_weights
from weathermixer.planning.machine import ProductType
from weathermixer.runs.run import Run
from weathermixer.training.divergence import Diverged
from weathermixer.training.loop import TrainingLoop
from weathermixer.training.notices import Notices
from weathermixer.verification.scores import CLIMATOLOGY, PERSISTENCE

CONFIG = Path(__file__).parents[3] / "examples" / "planet.yaml"
WEATHERMIXER = "weathermixer"
LEAD_HOURS = (6, 24, 72, 120, 240)
TUNING_LEAD = 72  # hours, at which validations tell learning rates apart
TIMINGS, TIMED_STEPS = 4, 2
FIRST_APPLICATIONS = 4  # of a network, before it is timed

Schedule = int | str | dict[int, int | str]


@dataclass(frozen=True)
class Learned:
    """What a training came to.

    ``processor_seconds`` are those of its steps alone, ``forecast_seconds`` those of the network in
    a forecast of ten days. ``validation`` is the RMSE at 72 h relative to climatology's, in the
    mean over channels; ``relative_rmse {baseline: {lead hours: …}}`` that of forecasts of the test
    period. What was not asked for, or is not finite, is None or absent.
    """

    steps: int
    processor_seconds: float
    parameters: int
    peak_memory_bytes: int
    validation: float | None = None
    relative_rmse: Mapping[str, Mapping[str, float]] | None = None
    forecast_seconds: float | None = None


@dataclass(frozen=True)
class Recipe:
    """The configuration of the comparison for a ``network``, on a store.

    ``dtype`` is that of products: the one in which the machine multiplies faster, for all networks.
    """

    store: Path
    network: str
    dtype: ProductType

    def config(self, *settings: str) -> Config:
        """The file's configuration with these settings, on one rank."""
        own = [
            f"--data.store={self.store}",
            f"--training.dtype={self.dtype}",
            "--parallel.data=1",
            "--parallel.domain=1",
            "--parallel.tensor=1",
            "--logging.tensorboard=false",
            "--checkpoint.best=null",
        ]
        if self.network != WEATHERMIXER:  # which alone has these parts
            own += ["--training.edge_learning_rate=null", "--training.learning_rates={}"]
        return read_config(CONFIG, settings, base_overrides=own)

    def stretched(self, steps: int, *, factor: float, seed: int) -> Config:
        """The same recipe in so many steps, with all learning rates multiplied by ``factor``.

        Validations are those that tell learning rates apart.
        """
        given = self.config().training
        stretch = steps / given.steps
        changed: dict[str, Any] = {
            "steps": steps,
            "seed": seed,
            "validation_leads": [TUNING_LEAD],
            "validation_scores": ["rmse"],
            "rollout": _stretched(given.rollout, stretch),
            "latent_rollout": _stretched(given.latent_rollout, stretch),
            "warmup_steps": min(round(given.warmup_steps * stretch), steps - 1),
            "learning_rate": given.learning_rate * factor,
            "learning_rates": {part: rate * factor for part, rate in given.learning_rates.items()},
        }
        if given.edge_learning_rate is not None:
            changed["edge_learning_rate"] = given.edge_learning_rate * factor
        for name in ("cooldown_steps", "cycle_steps"):
            if getattr(given, name) is not None:
                changed[name] = max(1, round(getattr(given, name) * stretch))
        return self.config(*(_setting(name, value) for name, value in changed.items()))

    @property
    def builder(self) -> Any:
        """What is given to the loop: nothing for WeatherMixer."""
        return NETWORKS.get(self.network)


def seconds_per_step(recipe: Recipe) -> float:
    """Processor seconds of a step, in the mean over the recipe's rollouts.

    Of each length the least of several timings counts: what else the machine does takes time too.
    All samples were read before, as in a training after its first epoch.
    """
    torch.set_num_threads(1)
    training = recipe.config().training
    total = 0.0
    for first, stop in pairwise([*training.stages, training.steps]):
        latent = longest_at(training.latent_rollout, first)
        lengths = range(
            shortest_at(training.rollout, first), longest_at(training.rollout, first) + 1
        )
        seconds = [_least_seconds(recipe, rollout, latent) for rollout in lengths]
        total += statistics.fmean(seconds) * (stop - first) / training.steps
    return total


def _least_seconds(recipe: Recipe, rollout: int, latent: int) -> float:
    lengths = _setting("rollout", rollout), _setting("latent_rollout", latent)
    config = recipe.config(*lengths, _period_of_few(recipe.config(*lengths)))
    means = []
    with TemporaryDirectory() as folder, _loop(config, folder, recipe) as loop:
        for _ in range(1 + TIMINGS):  # the first also begins everything, and reads all samples
            begin = time.process_time()
            for _ in range(TIMED_STEPS):
                loop.step()
            means.append((time.process_time() - begin) / TIMED_STEPS)
    return min(means[1:])


def _period_of_few(config: Config) -> str:
    """The setting that has as many samples to learn from as one timing takes."""
    data, training = config.data, config.training
    states = open_states(data.store, data)
    first, last = training_period(data, states)
    times = states.times[(states.times >= first) & (states.times <= last)]
    stop = times[: TIMED_STEPS * training.instance_batch + training.window_length(data)][-1]
    return f"--data.train={first}/{stop}"


def learn(recipe: Recipe, steps: int, factor: float, seed: int, num_forecasts: int) -> Learned:
    """Train, and validate; score ten-day forecasts from all over the test period, if any."""
    torch.set_num_threads(1)
    config = recipe.stretched(steps, factor=factor, seed=seed)
    with TemporaryDirectory() as folder:
        with _loop(config, folder, recipe) as loop:
            learned = _train(loop)
            if learned is None:
                return Learned(steps, math.nan, 0, 0)
            learned = replace(learned, validation=_validation_error(loop))
        if not num_forecasts:
            return learned
        out = Path(folder, "run")
        return replace(
            learned,
            relative_rmse=_test_scores(recipe, config, out, num_forecasts),
            forecast_seconds=_forecast_seconds(recipe, out),
        )


def _loop(config: Config, folder: str, recipe: Recipe) -> TrainingLoop:
    return TrainingLoop.begin(
        config,
        Path(folder, "run"),
        network=recipe.builder,
        notices=Notices(lambda _: None),
    )


def _train(loop: TrainingLoop) -> Learned | None:
    """Take all steps, and save the last; None where the loss became infinite on the way."""
    begin = time.process_time()
    try:
        for _ in loop:
            pass
    except Diverged:
        return None
    seconds = time.process_time() - begin
    loop.save()
    result = loop.result()
    return Learned(loop.state.step, seconds, result.parameters, result.peak_memory_bytes[0])


def _validation_error(loop: TrainingLoop) -> float | None:
    """RMSE at 72 h relative to climatology's, over the validation period; None if infinite.

    Relative to persistence's where the store has no climatology.
    """
    try:
        relative = loop.validate().rmse_relative_to
    except UserError:  # its loss is not finite
        return None
    baseline = CLIMATOLOGY if CLIMATOLOGY in relative else PERSISTENCE
    return relative[baseline].get(f"{TUNING_LEAD}")


def _test_scores(
    recipe: Recipe, config: Config, out: Path, num_forecasts: int
) -> dict[str, dict[str, float]]:
    data = config.data
    states = open_states(data.store, data)
    others = training_period(data, states), validation_period(data, states)
    test = periods(states.times, *others).test
    if test is None:
        raise UserError(f"{recipe.store} leaves no time to test: prepare a longer one")
    steps = round(LEAD_HOURS[-1] / data.step_hours)
    (inside,) = np.nonzero((states.times >= test[0]) & (states.times <= test[1]))
    inside = inside[: len(inside) - steps]
    if not len(inside):
        raise UserError(f"the test period of {recipe.store} is shorter than ten days")
    chosen = inside[np.linspace(0, len(inside) - 1, num_forecasts).round().astype(int)]
    try:
        made = forecast(
            out,
            recipe.store,
            ",".join(str(time) for time in states.times[np.unique(chosen)]),
            steps,
            truth=recipe.store,
            scores=out.parent / "scores",
            network=recipe.builder,
        )
    except UserError as error:
        if "NaN or infinite" not in str(error):
            raise
        return {}
    assert made.verification is not None
    relative = made.verification.scores.to_json()["rmse_relative_to"]
    return {
        source: {str(lead): relative[source][str(lead)] for lead in LEAD_HOURS}
        for source in (PERSISTENCE, CLIMATOLOGY)
        if source in relative
    }


def _forecast_seconds(recipe: Recipe, out: Path) -> float:
    """Processor seconds of all applications of the network in one forecast of ten days."""
    run = Run.open(out)
    model = run.load_model(network=recipe.builder)
    a = model.architecture
    like = next(model.parameters())
    recent = [like.new_zeros(1, a.prognostic, *a.grid) for _ in range(a.input_times)]
    fields = (like.new_zeros(a.static, *a.grid), like.new_zeros(1, a.forcings, *a.grid))
    steps = round(LEAD_HOURS[-1] / run.config.data.step_hours)
    with kept_weights(model):
        for _ in rollout(model, recent, repeat(fields, FIRST_APPLICATIONS)):
            pass
        begin = time.process_time()
        for _ in rollout(model, recent, repeat(fields, steps)):
            pass
        return time.process_time() - begin


def _setting(name: str, value: object) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n...\n")
    return f"--training.{name}={text.strip()}"


def _stretched(schedule: Schedule, stretch: float) -> Schedule:
    if not isinstance(schedule, dict):
        return schedule
    return {round(start * stretch): length for start, length in schedule.items()}
