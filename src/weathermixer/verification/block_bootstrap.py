"""How sure a mean over initial times is: a block bootstrap.

Errors of forecasts from neighbouring initial times are alike, so single ones must not be drawn as
if they were independent. Blocks of consecutive ones are (Künsch 1989, doi:10.1214/aos/1176347265),
and they run on from the last to the first, so that each time is drawn as often (Politis and Romano
1992, "A circular block-resampling procedure for stationary data").
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

CONFIDENCE = 0.95
RESAMPLES = 2000
FEWEST_BLOCKS = 5
_SEED = 1989


def block_length(num_times: int, under_way: int) -> int | None:
    """How many consecutive initial times make a block; None where there are too few to tell.

    At least the cube root of their number, in whose order the best length grows (Hall, Horowitz and
    Jing 1995, doi:10.1093/biomet/82.3.561). At most ``under_way`` forecasts have begun and not yet
    reached their lead time, and even the best ones have errors that are correlated over as many
    initial times (Diebold and Mariano 1995, doi:10.1080/07350015.1995.10524599): where it is more
    than one, blocks are at least twice as long. There have to be ``FEWEST_BLOCKS``.

    >>> block_length(730, 2), block_length(730, 20), block_length(62, 20)
    (9, 40, None)
    """
    length = max(1, round(num_times ** (1.0 / 3.0)))
    if under_way > 1:
        length = max(length, 2 * under_way)
    return length if num_times >= FEWEST_BLOCKS * length else None


def resampled_counts(
    num_times: int, length: int, *, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """How often each of a series of times is in each resample, ``(resample, time)``.

    The same numbers each time; every row adds up to ``num_times``.
    """
    generator = np.random.default_rng(_SEED)
    starts = generator.integers(num_times, size=(resamples, -(-num_times // length)))
    drawn = (starts[..., None] + np.arange(length)) % num_times
    drawn = drawn.reshape(resamples, -1)[:, :num_times]
    places = drawn + num_times * np.arange(resamples)[:, None]
    counts = np.bincount(places.ravel(), minlength=resamples * num_times)
    return counts.reshape(resamples, num_times).astype(np.float64)


def percentile_interval(values: NDArray[np.float64], num_blocks: float) -> NDArray[np.float64]:
    """The bounds ``(2, ...)`` of an interval of what ``values (resample, ...)`` estimate.

    Between percentiles that lie further apart the fewer blocks there are, since a bootstrap of few
    is too sure: the expanded ones of Hesterberg 2015, doi:10.1080/00031305.2015.1089789.
    """
    tail = float(stdtrit(num_blocks - 1.0, (1.0 - CONFIDENCE) / 2.0))
    outside = float(ndtr(math.sqrt(num_blocks / (num_blocks - 1.0)) * tail))
    bounds: NDArray[np.float64] = np.quantile(values, (outside, 1.0 - outside), axis=0)
    return bounds
