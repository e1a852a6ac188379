"""Block bootstraps one resample at a time, in plain Python and float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from scipy.stats import norm, t


def circular_block_interval(
    pairs: Sequence[tuple[float, float]],
    difference: Callable[[Sequence[tuple[float, float]]], float],
    *,
    length: int,
    resamples: int,
    draw: Callable[[int], int],
) -> tuple[float, float]:
    """The interval of a difference over resamples of ``pairs``, which are in order of time.

    Politis and Romano (1992): blocks of ``length`` from any start, round the end, laid one after
    the other and cut to as many pairs as there are. ``draw(n)`` is one of 0 … n − 1.
    """
    count = len(pairs)
    values = []
    for _ in range(resamples):
        resample: list[tuple[float, float]] = []
        while len(resample) < count:
            start = draw(count)
            resample += [pairs[(start + step) % count] for step in range(length)]
        values.append(difference(resample[:count]))
    values.sort()
    outside = (1.0 - expanded_confidence(count / length)) / 2.0
    last = resamples - 1
    return values[round(outside * last)], values[round((1.0 - outside) * last)]


def expanded_confidence(count: float) -> float:
    """The share of resamples that a 95% interval of ``count`` values takes in.

    Hesterberg (2015): as many standard deviations of a normal distribution as Student's has, and
    the bootstrap's, which divides by n, is too small by sqrt((n − 1) / n).
    """
    deviations = t.ppf(0.975, count - 1.0) * math.sqrt(count / (count - 1.0))
    return float(norm.cdf(deviations) - norm.cdf(-deviations))


def difference_of_roots(pairs: Sequence[tuple[float, float]]) -> float:
    """The root of the mean of the first less that of the second."""
    ours, theirs = (math.sqrt(math.fsum(each) / len(pairs)) for each in zip(*pairs, strict=True))
    return ours - theirs


def difference_of_means(pairs: Sequence[tuple[float, float]]) -> float:
    """The mean of the first less that of the second."""
    return math.fsum(a - b for a, b in pairs) / len(pairs)
