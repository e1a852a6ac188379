"""What the network is given at each step of a forecast: states of a store, and forcings."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weathermixer.config import Data
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.forcings import Forcings
from weathermixer.data.states import States
from weathermixer.data.time_steps import to_timedelta
from weathermixer.errors import UserError


def input_windows(
    source: States, initial_times: NDArray[np.datetime64], data: Data
) -> list[list[int]]:
    """For each initial time, the indices of the states that the network is given, the newest first.

    Raises UserError, naming the time, where one of them is absent.
    """
    back = to_timedelta(data.step_hours) * np.arange(data.input_times)
    windows = []
    for time in initial_times:
        try:
            windows.append([source.index_of(time - each) for each in back])
        except UserError as error:
            if data.input_times == 1:
                raise
            raise UserError(
                f"a forecast from {time} takes the states of {data.input_times} times, "
                f"{data.step_hours:g} h apart, and {error}"
            ) from error
    return windows


def recent_states(
    given: Normalisation,
    initial_states: Iterable[Iterable[NDArray[np.float32]]],
    precision: type[np.floating],
    like: Tensor,
) -> list[Tensor]:
    """The normalised states ``(batch, channel, latitude, longitude)`` of each input time."""
    normalised = [
        [torch.from_numpy(given.normalise(state.astype(precision, copy=False))) for state in states]
        for states in initial_states
    ]
    return [torch.stack(of_time).to(like) for of_time in zip(*normalised, strict=True)]


def forcings_at(
    forcings: Forcings, times: NDArray[np.datetime64], precision: type[np.floating]
) -> NDArray[np.floating]:
    """The forcings ``(time, forcing, latitude, longitude)`` of steps that begin at these times."""
    fields = np.empty((len(times), *forcings.shape), dtype=precision)
    for slot, time in zip(fields, times, strict=True):
        forcings.fill(slot, time)
    return fields
