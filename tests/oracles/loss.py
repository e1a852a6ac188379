"""The losses of training and one step of AdamW, written out in float64 NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PUBLISHED = {
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
PUBLISHED_LEVELS = {
    1000: 1.0, 925: 1.0, 850: 1.0, 700: 1.0, 600: 1.0, 500: 1.0,
    400: 0.9, 300: 0.8, 250: 0.7, 200: 0.6, 150: 0.5, 100: 0.4, 50: 0.3,
}  # fmt: skip


def cost(error: Array, kind: str, threshold: float = 0.0) -> Array:
    """What errors cost, in units in which ``threshold`` is where Huber's becomes linear."""
    size = np.abs(error)
    if kind == "huber":
        return np.where(size <= threshold, size * size, 2 * threshold * size - threshold**2)
    return size**2 if kind == "squared" else size


def area_loss(
    prediction: Array,
    target: Array,
    units: Array,
    latitude: Array,
    kind: str = "squared",
    *,
    threshold: float = 0.0,
    weights: dict[int, float] | None = None,
) -> float:
    """The loss of normalised states ``(batch, channel, latitude, longitude)``, sample by sample.

    Errors are measured in ``units (channel,)`` and averaged over the sphere; ``weights`` multiply
    what those of some channels cost.
    """
    edges = np.concatenate([[90.0], (latitude[1:] + latitude[:-1]) / 2, [-90.0]])
    sines = np.sin(np.deg2rad(edges))  # latitudes run from north to south
    area = sines[:-1] - sines[1:]
    total = 0.0
    for ours, theirs in zip(prediction, target, strict=True):
        for channel in range(len(ours)):
            costs = cost((ours[channel] - theirs[channel]) / units[channel], kind, threshold)
            mean = float((costs * area[:, None]).sum() / area.sum() / costs.shape[1])
            total += (weights or {}).get(channel, 1.0) * mean
    return total / (len(prediction) * prediction.shape[1])


def increment_loss(
    prediction: Array, target: Array, std: Array, step_std: Array, latitude: Array
) -> float:
    """The area mean of the squared error in units of each channel's change over a step."""
    return area_loss(prediction, target, step_std / std, latitude)


def published_loss(
    prediction: Array,
    target: Array,
    channels: list[str],
    latitude: Array,
    kind: str = "squared",
    *,
    threshold: float = 0.0,
    weights: dict[int, float] | None = None,
) -> float:
    """The error times cosine and factor, then what that costs, then averaged over everything."""
    cosine = np.cos(np.deg2rad(latitude))
    cosine = cosine / cosine.mean()
    costs = []
    for index, name in enumerate(channels):
        variable, _, level = name.rpartition("_")
        factor = PUBLISHED[name] if name in PUBLISHED else PUBLISHED[variable]
        if name not in PUBLISHED:
            factor *= PUBLISHED_LEVELS[int(level)]
        error = (prediction - target)[:, index] * cosine[:, None] * factor
        costs.append((weights or {}).get(index, 1.0) * cost(error, kind, threshold))
    return float(np.mean(costs))


def adamw_step(
    weight: Array,
    grad: Array,
    *,
    averages: tuple[Array, Array],
    step: int,
    rate: float,
    betas: tuple[float, float],
    decay: float,
) -> tuple[Array, tuple[Array, Array]]:
    """One update, the ``step``-th (from 1), as in Loshchilov and Hutter 2019, algorithm 2."""
    first = betas[0] * averages[0] + (1 - betas[0]) * grad
    second = betas[1] * averages[1] + (1 - betas[1]) * grad**2
    unbiased = first / (1 - betas[0] ** step), second / (1 - betas[1] ** step)
    moved = weight - rate * decay * weight - rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    return moved, (first, second)
