"""A metric that the package does not have, made of its public pieces alone."""

from __future__ import annotations

import numpy as np

from weathermixer.verification.metrics import Metric, StatePair, Statistic, Values


def absolute_error(pair: StatePair) -> Values:
    """Area means of the absolute error, ``(region, channel)``."""
    return pair.mean(np.abs(pair.error))


MAE = Metric("mae", "MAE", (Statistic("absolute_error", absolute_error),), np.positive)
