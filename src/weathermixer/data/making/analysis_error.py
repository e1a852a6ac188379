"""Errors such as an analysis has, of a stated size, drawn from what the atmosphere itself does.

The change of a state in six hours is balanced between wind and mass, smooth in the large and lively
in the small, and largest in the storm tracks: so are the errors of analyses, which white noise, or
noise in each channel apart, is not. An error is a random mix of such changes, from the training
period, as others perturb ensembles by differences of past states (Magnusson, Nycander and Källén
2009, Tellus A 61, 194–209).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from weathermixer.data.store.store import Store
from weathermixer.data.time_steps import to_seconds
from weathermixer.errors import UserError

# Enough for the sizes of two errors to differ by a sixth or so, few enough to be read in no time.
_NUM_CHANGES = 8


class AnalysisErrors:
    """Errors of a ``store``'s states: ``share`` of each channel's six-hourly standard deviation.

    ``share`` is their size over many times and the globe; ``seed`` chooses among them. Raises
    UserError where ``share`` is negative or infinite, where ``seed`` is negative, or where the
    store's training period holds no two states that follow each other.
    """

    def __init__(self, store: Store, *, share: float, seed: int) -> None:
        if not (math.isfinite(share) and share >= 0):
            raise UserError(
                f"an analysis error of {share:g} six-hourly standard deviations is impossible: "
                "choose zero or more"
            )
        if seed < 0:
            raise UserError(
                f"the seed {seed} of analysis errors is impossible: choose zero or more"
            )
        first, last = store.training_period
        times = store.times
        follows = np.diff(times) == store.step
        self._starts = np.flatnonzero(follows & (times[:-1] >= first) & (times[1:] <= last))
        if share > 0 and not len(self._starts):
            raise UserError(
                f"{store.path} has no two states six hours apart in its training period, of which "
                "analysis errors are made: simulate more days, or set the error to 0"
            )
        self._store, self._share, self._seed = store, share, seed

    def at(self, time: np.datetime64) -> NDArray[np.float32]:
        """The error ``(channel, latitude, longitude)`` of the state at a time, in SI units.

        The seed and the time determine it, whatever else was drawn.
        """
        shape = (len(self._store.channels), *self._store.grid)
        error = np.zeros(shape, dtype=np.float32)
        if self._share == 0:
            return error
        (since_1970,) = to_seconds(np.atleast_1d(time)).tolist()
        random = np.random.default_rng([self._seed, since_1970])
        for start in random.choice(self._starts, _NUM_CHANGES):
            sign = random.choice([-1.0, 1.0])
            change = self._store.read(int(start) + 1) - self._store.read(int(start))
            error += np.float32(sign * self._share / math.sqrt(_NUM_CHANGES)) * change
        return error
