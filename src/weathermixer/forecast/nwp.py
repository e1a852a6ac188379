"""Numerical weather prediction of the simulated planet, with the faults of a real centre's.

The planet's own physics forecasts it, from states that an analysis got somewhat wrong and with
another model than the truth's. What it writes is scored like any other forecast, and says what a
learned one is up against.
"""

from __future__ import annotations

import time as clocks
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from weathermixer.console import Progress, waiting_for
from weathermixer.credentials import without_credentials
from weathermixer.data.addresses import local_path
from weathermixer.data.making.analysis_error import AnalysisErrors
from weathermixer.data.making.planet import SOURCE, grid_coordinates
from weathermixer.data.making.planet_numerics import ANALYSIS_ERROR, IMPERFECT, PlanetNumerics
from weathermixer.data.making.planet_simulation import CHANNELS, STEP, planet_on
from weathermixer.data.store.store import Store
from weathermixer.data.time_steps import to_hours
from weathermixer.errors import UserError
from weathermixer.forecast.forecast_description import ForecastDescription
from weathermixer.forecast.initial_times import parse_initial_times
from weathermixer.forecast.result import ForecastResult
from weathermixer.forecast.writer import ForecastWriter, refuse_existing

if TYPE_CHECKING:
    from weathermixer.data.making.planet_model import PlanetModel

_SAME_DEGREES = 1e-3


@dataclass(frozen=True)
class NwpResult:
    """What was forecast, and what one forecast cost, without compiling the model once.

    ``processor_seconds`` is None where an earlier call had made all forecasts.
    """

    forecast: ForecastResult
    processor_seconds: float | None

    def to_json(self) -> dict[str, Any]:
        """The result as an object of JSON: that of the forecast, and its cost."""
        return {
            **self.forecast.to_json(),
            "processor_seconds_per_forecast": self.processor_seconds,
        }


def forecast_planet(
    store: Path | str,
    init: str,
    steps: int,
    out: Path,
    *,
    numerics: PlanetNumerics = IMPERFECT,
    analysis_error: float = ANALYSIS_ERROR,
    seed: int = 0,
    progress: Progress | None = None,
) -> NwpResult:
    """Forecast ``steps`` steps of six hours from each initial time by the planet's own physics.

    ``init`` is as :func:`parse_initial_times` reads it; ``store`` is a planet's, and has these
    times. ``analysis_error`` is the size of what is added to its states, in six-hourly standard
    deviations of each channel; ``seed`` chooses among such errors. Interrupted, the same call goes
    on with the initial times that are missing. Raises UserError for anything of this that does not
    hold, where jcm is not installed, for an ``out`` that exists or cannot be written, and for a
    forecast that becomes unstable.
    """
    if steps < 1:
        raise UserError(f"--steps {steps} is impossible: forecast at least one step")
    refuse_existing(out)
    states = Store.open(local_path(str(store)))
    _require_planet(states)
    errors = AnalysisErrors(states, share=analysis_error, seed=seed)
    initial_times = parse_initial_times(init)
    indices = [states.index_of(time) for time in initial_times]
    with waiting_for("the planet's physics to be loaded"):
        model = planet_on(states.grid, numerics)
    description = ForecastDescription(
        channels=CHANNELS,
        initial_times=initial_times,
        lead_times=np.arange(1, steps + 1) * STEP,
        latitude=states.latitude,
        longitude=states.longitude,
        attributes={
            "source": f"SPEEDY physics at T21, {numerics.layers} layers (jcm {version('jcm')})",
            "diffusion": f"order {numerics.diffusion_order}, {numerics.diffusion_hours:g} hours",
            "analysis_error": analysis_error,
            "seed": seed,
            "initial_conditions": without_credentials(str(store)),
        },
    )
    ForecastWriter.create(out, description)
    writer = ForecastWriter(out, description)

    def analysis(place: int) -> NDArray[np.float32]:
        return states.read(indices[place]) + errors.at(initial_times[place])

    seconds = _write_missing(writer, model, analysis, progress)
    writer.finish()
    lead_hours = to_hours(description.lead_times)
    result = ForecastResult(out, tuple(initial_times), tuple(lead_hours.tolist()), CHANNELS)
    return NwpResult(result, seconds)


def _write_missing(
    writer: ForecastWriter,
    model: PlanetModel,
    analysis: Callable[[int], NDArray[np.float32]],
    progress: Progress | None,
) -> float | None:
    """Write the forecasts that are missing, from the ``analysis`` at the place of each.

    Returns what one of them took, in processor seconds; None where none was missing.
    """
    times, num_leads = writer.description.initial_times, len(writer.description.lead_times)
    missing = [place for place in range(len(times)) if not writer.is_finished(place)]
    if not missing:
        return None
    with waiting_for("the planet's physics to be compiled"):
        model.begin(times[missing[0]], analysis(missing[0]))
    began = clocks.process_time()
    # One after the other: many at once, in one batched call, take as long for each.
    for place in missing:
        states = _forecast(model, times[place], analysis(place), num_leads)
        for taken in writer.write([place], states):
            if progress is not None:
                progress(place * num_leads + taken, len(times) * num_leads)
        writer.mark_finished([place])
    return (clocks.process_time() - began) / len(missing)


def _forecast(
    model: PlanetModel, time: np.datetime64, state: NDArray[np.float32], num_leads: int
) -> Iterator[NDArray[np.float32]]:
    """The states ``(1, channel, latitude, longitude)`` at each lead time of one forecast."""
    carry = model.begin(time, state)
    for lead in range(1, num_leads + 1):
        carry, state = model.forecast(carry)
        if not np.isfinite(state).all():
            raise UserError(
                f"the forecast from {time} became unstable before {to_hours(lead * STEP):g} h: "
                "choose stronger diffusion, or the truth's own layers"
            )
        yield state[None]


def _require_planet(store: Store) -> None:
    """Raise UserError where a store is no planet's, as ``write_planet`` makes them."""
    sources = store.attributes.get("sources", [])
    if [str(source).startswith(SOURCE) for source in sources] != [True]:
        problem = f"it was made from {', '.join(map(str, sources)) or 'something else'}"
    elif store.channels != CHANNELS:
        problem = "it has other channels"
    elif store.step != STEP:
        problem = f"its step is {to_hours(store.step):g} h"
    elif not _is_on_planets_grid(store):
        problem = "it is on another grid"
    else:
        return
    raise UserError(
        f"the planet's physics cannot forecast from {store.path}, since {problem}: give a store "
        "that 'weathermixer data planet' made"
    )


def _is_on_planets_grid(store: Store) -> bool:
    own = grid_coordinates(store.grid)
    return all(
        np.allclose(found, wanted, rtol=0, atol=_SAME_DEGREES)
        for found, wanted in zip((store.latitude, store.longitude), own, strict=True)
    )
