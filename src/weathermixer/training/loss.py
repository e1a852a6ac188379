"""What training minimises: a weighted mean square error of normalised states.

Both losses are one weight per channel and latitude, ``(channel, latitude, 1)``, by which the
squared error is multiplied before the mean is taken over everything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weathermixer.data.channels import Channel, parse_channel
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.statistics import cell_area_weights

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


def loss_weights(
    kind: Literal["increment", "published"], normalisation: Normalisation
) -> NDArray[np.float64]:
    """Weights ``(channel, latitude, 1)`` of the squared error of a normalised state.

    ``increment``: ``area / (step_std / std)²``, so that each channel's error counts in units of
    its change over a step, and each square metre alike. ``published``: ``(cos φ / mean cos φ ·
    factor)²``.
    """
    if kind == "increment":
        area = cell_area_weights(normalisation.latitude) * len(normalisation.latitude)
        weights = area / normalisation.increment_scale[:, None] ** 2
    else:
        cosine = np.cos(np.deg2rad(normalisation.latitude))
        factors = [published_factor(parse_channel(name)) for name in normalisation.channels]
        weights = np.square(cosine / cosine.mean() * np.array(factors)[:, None])
    return weights[:, :, None]


def published_factor(channel: Channel) -> float:
    """The factor by which the publication multiplies a channel's error.

    It (arXiv 2507.05753) gives factors on 13 levels; on others they are interpolated linearly in
    pressure, and constant above 50 hPa.
    """
    factor = _PUBLISHED_FACTORS[channel.variable]
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


def rollout_loss(
    model: Callable[[Tensor, Tensor], Tensor],
    states: Tensor,
    static: Tensor,
    weights: Tensor,
    *,
    share: float = 1.0,
    error: Callable[[Tensor, Tensor, Tensor], Tensor] = weighted_mse,
    start: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Forecast step by step, each from the one before, and average the steps' losses.

    ``states (batch, rollout + 1, channel, latitude, longitude)``, the first of them the initial
    one unless there is another to ``start`` from; gradients flow through all steps. Where these
    are a rank's part of the states, ``share`` of all values, the result is its part of the mean,
    which the ranks' parts add up to. ``error`` is the loss of one step. Also returns the forecast
    states, step by step.
    """
    forecast = [states[:, 0] if start is None else start]
    losses = []
    for target in states.unbind(1)[1:]:
        forecast.append(model(forecast[-1], static))
        losses.append(error(forecast[-1], target, weights))
    return torch.stack(losses).mean() * share, forecast[1:]
