"""Members of an ensemble: forecasts from one state that differ by what is drawn for each.

What is drawn of noise depends on the seed, the initial time, the member and how far the forecast
has come, so that it does not matter which forecasts are computed together, or in which order.
Dropout draws for all that are computed together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from weathermixer.data.time_steps import to_seconds
from weathermixer.forecast.forecast_description import ForecastDescription
from weathermixer.forecast.rollout import Step
from weathermixer.jigsaw.dropout import Dropout, set_dropout_key
from weathermixer.jigsaw.initial import derive_key
from weathermixer.jigsaw.mesh import gather_objects
from weathermixer.model.mixer import Modulation
from weathermixer.model.noise import draw_noise
from weathermixer.model.other_network import Network


def networks_of(
    model: Network, description: ForecastDescription, *, applications: int, seed: int
) -> Callable[[Sequence[int]], Step]:
    """From places among all forecasts to the network that makes these, to be applied step by step.

    Each application advances by ``applications`` steps. For the members of an ensemble, dropout
    draws as it does in training, in a network that is not in training otherwise.
    """
    if description.members is None:
        single = network_of_single(model, applications=applications)
        return lambda _: single
    starts = to_seconds(description.initial_times)

    def network_of(batch: Sequence[int]) -> Step:
        places = [description.place(number) for number in batch]
        forecasts = [(int(starts[time]), member) for time, member in places]
        return network_of_members(model, forecasts, applications=applications, seed=seed)

    return network_of


def network_of_single(model: Network, *, applications: int) -> Step:
    """The network of a forecast that draws nothing."""

    def step(*given: Tensor) -> Tensor:
        _let_dropout_draw(model, draws=False)
        return model(*given, applications=applications)

    return step


def network_of_members(
    model: Network,
    forecasts: Sequence[tuple[int, int]],
    *,
    applications: int,
    seed: int,
    made: int = 0,
) -> Step:
    """The network that makes members of ensembles together, by initial time and member.

    The former are seconds since 1970, the latter counted from 0; ``made`` applications have been
    made before the first.
    """

    def step(*given: Tensor) -> Tensor:
        nonlocal made
        _let_dropout_draw(model, draws=True)
        keys = [(start, member, made) for start, member in forecasts]
        noise = draw_noise(model.architecture.drawn, keys, seed=seed).to(given[0])
        set_dropout_key(model, seed, made, derive_key(*forecasts[0]))
        made += 1
        return model(*given, applications=applications, noise=noise)

    return step


def remark_on_equal_members(model: Network) -> str | None:
    """A sentence where all members will be equal or hardly differ.

    Every rank calls this, with its weights.
    """
    modulated = any(
        bool(parameter.any())
        for module in model.modules()
        if isinstance(module, Modulation)
        for parameter in module.parameters()
    )
    if model.architecture.dropout or any(gather_objects(modulated)):
        return None
    cause = "has learned nothing of its noise" if model.architecture.drawn else "has no noise"
    # Noise at each point begins small, and not as nothing.
    effect = "hardly differ" if model.architecture.local_noise else "be equal"
    return (
        f"all members will {effect}, since the network {cause}: train it with model.local_noise, "
        "training.members and training.error=crps, such as from this run with --from"
    )


def _let_dropout_draw(model: Network, *, draws: bool) -> None:
    for module in model.modules():
        if isinstance(module, Dropout):
            module.train(draws)
