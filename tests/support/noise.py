"""Forecasts of a small planet that go wrong by degrees."""

from __future__ import annotations

from typing import Any

import numpy as np

from support.planets import SCALES, STEP, Planet

LEADS = np.arange(1, 4) * STEP


def noisy(planet: Planet, initial_times: Any, noise: float = 0.4, *, seed: int = 11) -> Any:
    """The truth at each valid time, or else the last one, with errors that grow.

    ``(time, lead, channel, latitude, longitude)``, for ``LEADS``.
    """
    random = np.random.default_rng(seed)
    states = np.empty((len(initial_times), len(LEADS), *planet.states.shape[1:]))
    for i, start in enumerate(initial_times):
        for j, lead in enumerate(LEADS):
            index = min(int((start + lead - planet.times[0]) / STEP), len(planet.times) - 1)
            error = SCALES * random.normal(size=planet.states.shape[1:])
            states[i, j] = planet.states[index] + noise * (j + 1) * error
    return states.astype(np.float32)
