"""What training minimises: a weighted mean over the errors of normalised states.

``training.loss`` and ``training.channel_weights`` weigh an error, ``training.error`` says what an
error of a given size costs. All of it is one weight per channel and latitude, ``(channel, latitude,
1)``, by which that cost is multiplied before the mean is taken over everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weathermixer.config import Training
from weathermixer.data.channels import Channel, parse_channel
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.statistics import cell_area_weights
from weathermixer.training.ensemble import Ensemble

ErrorFunction: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The loss of one step, of a prediction, its target and the weights."""

_SINGLE = Ensemble()

# arXiv 2507.05753, the factors by which an error is multiplied before it is squared.
_PUBLISHED_FACTORS = {
    "geopotential": 3.0,
    "specific_humidity": 0.6,
    "temperature": 1.5,
    "u_component_of_wind": 0.9,
    "v_component_of_wind": 0.9,
    "mean_sea_level_pressure": 6.0,
    "10m_u_component_of_wind": 3.08,
    "10m_v_component_of_wind": 3.08,
    "2m_temperature": 12.0,
}
_FACTOR_LEVELS_HPA = (50, 100, 150, 200, 250, 300, 400, 500)
_LEVEL_FACTORS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def loss_weights(training: Training, normalisation: Normalisation) -> NDArray[np.float64]:
    """Weights ``(channel, latitude, 1)`` of what the error of a normalised state costs.

    With *p* = 1 for an absolute error and for the CRPS, else 2, and ``channel_weights`` *w*, 1
    where unset:

    ``increment``: ``w · area / (step_std / std)^p``, so that each channel's error counts in units
    of its change over a step (of its own spread where it is only predicted), and each square metre
    alike. ``area``: ``w · area``, in units of a
    channel's standard deviation. ``published``: ``w · (cos φ / mean cos φ · factor)^p``, since
    there the error itself is multiplied.
    """
    power = 1 if training.error in ("absolute", "crps") else 2
    area = cell_area_weights(normalisation.latitude) * len(normalisation.latitude)
    match training.loss:
        case "increment":
            weights = area / normalisation.increment_scale[:, None] ** power
        case "area":
            weights = np.tile(area, (len(normalisation.channels), 1))
        case "published":
            weights = _published_multipliers(normalisation) ** power
    chosen = [training.channel_weight(name) for name in normalisation.channels]
    return (weights * np.array(chosen)[:, None])[:, :, None]


def error_function(
    training: Training, thresholds: Tensor, ensemble: Ensemble = _SINGLE
) -> ErrorFunction:
    """The loss of one step that ``training.error`` asks for.

    ``thresholds`` are those of :func:`huber_thresholds`, which only that error looks at; only the
    CRPS looks at the ``ensemble``.
    """
    match training.error:
        case "squared":
            return weighted_mse
        case "absolute":
            return weighted_mae
        case "huber":
            return partial(weighted_huber, thresholds=thresholds)
        case "crps":
            return ensemble.crps


def huber_thresholds(training: Training, normalisation: Normalisation) -> NDArray[np.float64]:
    """Thresholds ``(channel, latitude, 1)`` of the error of a normalised state.

    ``huber_threshold`` is in units of the error that the weighting makes of it.
    """
    shape = (len(normalisation.channels), len(normalisation.latitude))
    match training.loss:
        case "increment":
            units = np.broadcast_to(normalisation.increment_scale[:, None], shape)
        case "area":
            units = np.ones(shape)
        case "published":
            units = 1.0 / _published_multipliers(normalisation)
    return (training.huber_threshold * units)[:, :, None]


def _published_multipliers(normalisation: Normalisation) -> NDArray[np.float64]:
    """By what the publication multiplies an error, ``(channel, latitude)``."""
    cosine = np.cos(np.deg2rad(normalisation.latitude))
    factors = [published_factor(parse_channel(name)) for name in normalisation.channels]
    multipliers: NDArray[np.float64] = cosine / cosine.mean() * np.array(factors)[:, None]
    return multipliers


def published_factor(channel: Channel) -> float:
    """The factor by which the publication multiplies a channel's error.

    It (arXiv 2507.05753) gives factors on 13 levels; on others they are interpolated linearly in
    pressure, and constant above 50 hPa. Precipitation, for which it has none, counts once.
    """
    factor = _PUBLISHED_FACTORS.get(channel.variable, 1.0)
    if channel.level_hpa is None:
        return factor
    return factor * float(np.interp(channel.level_hpa, _FACTOR_LEVELS_HPA, _LEVEL_FACTORS))


def weighted_mse(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """The loss: the mean over everything of ``weights · (prediction − target)²``.

    ``prediction`` and ``target (batch, channel, latitude, longitude)``, ``weights (channel,
    latitude, 1)``. The mean is taken in the type of the weights, float32 or wider.
    """
    error = prediction.to(weights.dtype) - target.to(weights.dtype)
    return (weights * error.square()).mean()


def weighted_mae(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """The mean over everything of ``weights · |prediction − target|``, as :func:`weighted_mse`."""
    error = prediction.to(weights.dtype) - target.to(weights.dtype)
    return (weights * error.abs()).mean()


def weighted_huber(
    prediction: Tensor, target: Tensor, weights: Tensor, thresholds: Tensor
) -> Tensor:
    """The mean over everything of ``weights · ρ(prediction − target)``, as :func:`weighted_mse`.

    With thresholds *δ* ``(channel, latitude, 1)``, ``ρ(e)`` is ``e²`` where ``|e| ≤ δ`` and
    ``δ (2 |e| − δ)`` beyond: twice the function of Huber (1964,
    https://doi.org/10.1214/aoms/1177703732), so that small errors count as squared ones.
    """
    error = prediction.to(weights.dtype) - target.to(weights.dtype)
    # With c = clamp(e, −δ, δ), ρ(e) = 2 c (e − c / 2), and its slope is 2 c: that of c taken for a
    # constant, so that nothing else is kept for the backward pass.
    clamped = error.detach().clamp(-thresholds, thresholds)
    return (2.0 * weights * (clamped * error.sub(clamped, alpha=0.5))).mean()


def rollout_loss(
    model: Callable[..., Tensor],
    recent: Sequence[Tensor],
    targets: Tensor,
    static: Tensor,
    weights: Tensor,
    *,
    forcings: Tensor | None = None,
    share: float = 1.0,
    error: ErrorFunction = weighted_mse,
    noise: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Forecast step by step, each from the one before, and average the steps' losses.

    ``recent`` are the states ``(batch, channel, latitude, longitude)`` that the network is given at
    first, the newest first, ``targets (batch, rollout, channel, latitude, longitude)`` those that
    forecasts are compared with, and ``forcings (batch, rollout, forcing, latitude, longitude)`` go
    with the steps, where there are some; gradients flow through all steps. Where these are a rank's
    part of the states, ``share`` of all values, the result is its part of the mean, which the
    ranks' parts add up to. ``error`` is the loss of one step. Of an ensemble, recent states and
    forcings are those of members, ``(batch · members, ...)``, as is their ``noise (batch · members,
    rollout, noise)``. Also returns the forecast states, step by step.
    """
    losses, forecast = [], []
    for step, target in enumerate(targets.unbind(1)):
        given = (static,) if forcings is None else (static, forcings[:, step])
        drawn = {} if noise is None else {"noise": noise[:, step]}
        forecast.append(model(*recent, *given, **drawn))
        recent = [forecast[-1], *recent[:-1]]
        losses.append(error(forecast[-1], target, weights))
    return torch.stack(losses).mean() * share, forecast


def recent_and_targets(states: Tensor, input_times: int) -> tuple[list[Tensor], Tensor]:
    """The states of a batch that the network is given, the newest first, and those that follow.

    ``states (batch, input times + rollout, channel, latitude, longitude)``; the latter are
    ``(batch, rollout, channel, latitude, longitude)``.
    """
    return list(states[:, :input_times].unbind(1))[::-1], states[:, input_times:]
