"""Members of an ensemble: forecasts from one state that differ by what is drawn for each.

Draws depend on the seed, the initial time, the member and how far the forecast has come, so that it
does not matter which forecasts are computed together, or in which order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from weathermixer.console import say
from weathermixer.data.time_steps import to_seconds
from weathermixer.forecast.forecast_description import ForecastDescription
from weathermixer.forecast.rollout import Step
from weathermixer.jigsaw.dropout import Dropout, set_dropout_key
from weathermixer.jigsaw.initial import derive_key
from weathermixer.jigsaw.mesh import gather_objects, is_first_rank
from weathermixer.model.mixer import Modulation, WeatherMixer
from weathermixer.model.noise import draw_noise


def networks_of(
    model: WeatherMixer, description: ForecastDescription, *, applications: int, seed: int
) -> Callable[[Sequence[int]], Step]:
    """From places among all forecasts to the network that makes these, to be applied step by step.

    Each application advances by ``applications`` steps. Of an ensemble, it is said where all
    members will be equal. Every rank calls this, with its part of a network that has its weights.
    """
    single: Step = partial(model, applications=applications)
    if description.members is None:
        return lambda _: single
    remark = _let_members_differ(model)
    if remark is not None and is_first_rank():
        say(f"Note: {remark}")
    starts = to_seconds(description.initial_times)

    def network_of(batch: Sequence[int]) -> Step:
        places = [description.place(number) for number in batch]
        forecasts = [(int(starts[time]), member) for time, member in places]
        return _step_of_members(single, model, forecasts, seed)

    return network_of


def _step_of_members(
    single: Step, model: WeatherMixer, forecasts: Sequence[tuple[int, int]], seed: int
) -> Step:
    """A network that draws for forecasts, by their initial time in seconds and their member."""
    made = 0

    def step(*given: Tensor) -> Tensor:
        nonlocal made
        keys = [(start, member, made) for start, member in forecasts]
        noise = draw_noise(model.architecture.noise, keys, seed=seed).to(given[0])
        set_dropout_key(model, seed, made, derive_key(*forecasts[0]))
        made += 1
        return single(*given, noise=noise)

    return step


def _let_members_differ(model: WeatherMixer) -> str | None:
    """Have dropout draw as it did in training; a sentence where all members will be equal."""
    for module in model.modules():
        if isinstance(module, Dropout):
            module.train()
    modulated = any(
        bool(parameter.any())
        for module in model.modules()
        if isinstance(module, Modulation)
        for parameter in module.parameters()
    )
    if model.architecture.dropout or any(gather_objects(modulated)):
        return None
    cause = "has learned nothing of its noise" if model.architecture.noise else "has no noise"
    return (
        f"all members will be equal, since the network {cause}: train it with model.noise, "
        "training.members and training.error=crps, such as from this run with --from"
    )
