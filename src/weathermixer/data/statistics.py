"""Area weights, and statistics that are taken in one pass and merged in any order.

Per time and channel the area-weighted mean and variance are kept, of the field and of its change
over one step. Means and variances of equally weighted groups merge exactly (the law of total
variance), without the cancellation of sums of squares, so blocks, processes and periods all agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weathermixer.errors import UserError

MOMENTS = ("mean", "variance", "step_mean", "step_variance")
_POINTS_AT_ONCE = 32 * 1024


@dataclass(frozen=True)
class Statistics:
    """Statistics of a period, each ``(channel,)``, in the channels' units.

    ``mean`` and ``std``, the standard deviation, are of the states; ``step_std`` is the standard
    deviation of their changes over a step.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    step_std: NDArray[np.float64]


def cell_area_weights(
    latitude: NDArray[np.floating], *, south: float = -90.0, north: float = 90.0
) -> NDArray[np.float64]:
    """The share of each latitude row in the area between two latitudes, ``(latitude,)``, sum 1.

    A cell reaches to the midpoints between rows, and the outermost to ``south`` and ``north``: the
    poles, where rows are those of the whole globe. Its area is proportional to the difference of
    the sines of its bounds, as WeatherBench 2 defines it (Rasp et al. 2024,
    https://doi.org/10.1029/2023MS004019). Rows may be in any order.
    """
    if len(latitude) == 1:
        return np.ones(1)
    radians = np.deg2rad(np.asarray(latitude, dtype=np.float64))
    order = np.argsort(radians)
    ascending = radians[order]
    middle = (ascending[1:] + ascending[:-1]) / 2
    sines = np.sin(np.concatenate([[np.deg2rad(south)], middle, [np.deg2rad(north)]]))
    weights = np.empty_like(radians)
    weights[order] = np.diff(sines) / (sines[-1] - sines[0])
    return weights


def field_moments(
    state: NDArray[np.float32], before: NDArray[np.float32] | None, weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Area-weighted moments ``(moment, channel)`` of one state ``(channel, latitude, longitude)``.

    ``weights (latitude,)`` are those of ``cell_area_weights``. Without a state one step before, the
    moments of the increment are NaN.
    """
    result = np.full((len(MOMENTS), len(state)), np.nan)
    result[:2] = _mean_and_variance(state, None, weights)
    if before is not None:
        result[2:] = _mean_and_variance(state, before, weights)
    return result


def merge_moments(
    moments: NDArray[np.float64],
    times: NDArray[np.datetime64],
    period: tuple[np.datetime64, np.datetime64],
    step: np.timedelta64,
) -> Statistics:
    """Statistics of a period (inclusive) from the moments ``(time, moment, channel)`` of its times.

    An increment over ``step`` belongs to the period where both of its ends do. Standard deviations
    of zero, of constant channels, become 1 so that normalising stays defined. Raises UserError
    where the period holds no time, or no two times one step apart.
    """
    inside = (times >= period[0]) & (times <= period[1])
    if not inside.any():
        raise UserError(
            f"the training period {period[0]} to {period[1]} holds none of the {len(times)} times "
            f"from {times[0]} to {times[-1]}: correct data.train"
        )
    mean, variance = _merge(moments[inside, 0], moments[inside, 1])
    whole = inside & ~np.isnan(moments[:, 2, 0])
    whole &= times - step >= period[0]
    if not whole.any():
        raise UserError(
            f"no two times between {period[0]} and {period[1]} are exactly one step apart, so "
            "increments have no statistics: correct data.step_hours or data.train"
        )
    _, step_variance = _merge(moments[whole, 2], moments[whole, 3])
    return Statistics(mean, _root(variance), _root(step_variance))


def _mean_and_variance(
    state: NDArray[np.float32],
    before: NDArray[np.float32] | None,
    weights: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance ``(channel,)`` of a state, or of its change since the one ``before``.

    States are ``(channel, latitude, longitude)``.

    Row by row, as many at a time as stay in a processor's cache; the rows merge as times do.
    """
    channels, rows, columns = state.shape
    lines = state.reshape(-1, columns)
    earlier = None if before is None else before.reshape(-1, columns)
    row_mean = np.empty((channels, rows))
    row_variance = np.empty_like(row_mean)
    means, variances = row_mean.reshape(-1), row_variance.reshape(-1)  # views
    together = max(1, _POINTS_AT_ONCE // columns)
    for start in range(0, len(lines), together):
        part = slice(start, start + together)
        values = lines[part].astype(np.float64)
        if earlier is not None:
            values -= earlier[part]
        means[part] = values.mean(axis=1)
        values -= means[part, None]
        variances[part] = np.einsum("ij,ij->i", values, values) / columns
    mean = row_mean @ weights
    return mean, (row_variance + np.square(row_mean - mean[:, None])) @ weights


def _merge(
    means: NDArray[np.float64], variances: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mean = means.mean(axis=0)
    return mean, variances.mean(axis=0) + np.square(means - mean).mean(axis=0)


def _root(variance: NDArray[np.float64]) -> NDArray[np.float64]:
    std = np.sqrt(variance)
    return np.where(std > 0.0, std, 1.0)
