"""A network with what it is given, which turns the states of a store into forecasts in SI units."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.forcings import Forcings
from weathermixer.data.time_steps import to_hours
from weathermixer.errors import UserError
from weathermixer.forecast.forecast_description import ForecastDescription
from weathermixer.forecast.inputs import forcings_at, recent_states
from weathermixer.forecast.memory import return_freed_memory
from weathermixer.forecast.rollout import Step, rollout


@dataclass(frozen=True)
class Forecaster:
    """Makes a rank's part of the forecasts that a ``description`` describes.

    ``network_of`` gives the network that makes some of them, by their places, which takes states in
    the type and place of ``like``; ``given`` normalises the channels that it is given,
    ``normalisation`` restores those that it predicts. Of all states, channels and longitudes are
    those of this rank's part.
    """

    network_of: Callable[[Sequence[int]], Step]
    like: Tensor
    given: Normalisation
    normalisation: Normalisation
    forcings: Forcings
    description: ForecastDescription

    def begin(
        self, group: Sequence[Sequence[int]], read: Callable[[int], Iterable[NDArray[np.float32]]]
    ) -> list[Iterator[NDArray[np.float32]]]:
        """Begin batches of forecasts, by their places among all; the states of each, as they come.

        Those of a batch are ``(batch, channel, latitude, longitude)`` in SI units, by lead time;
        batches may advance by turns. ``read(time)`` gives the states ``(channel, latitude,
        longitude)`` that the network is given at an initial time, by its place, the newest first:
        it is called once for all members. Nothing here refers to a state longer than it is needed:
        at 0.25° each is a good part of a rank's memory.

        Raises UserError, while they come, at the first that is NaN or infinite anywhere.
        """
        times = {self._time(number): None for batch in group for number in batch}
        rows = dict(zip(times, range(len(times)), strict=True))
        recent = recent_states(self.given, map(read, times), self._precision, self.like)
        begun = []
        for batch in group:
            own = [rows[self._time(number)] for number in batch]
            is_all = own == list(range(len(times)))
            begun.append(self._states(batch, [state if is_all else state[own] for state in recent]))
        return begun

    def steps(self, batch: Sequence[int], recent: Sequence[Tensor]) -> Iterator[Tensor]:
        """The normalised states ``(batch, channel, latitude, longitude)`` that a batch comes to.

        ``recent`` are those that the network is given at first, the newest first, in the place and
        type of ``like``. There is one for each lead time.
        """
        static = torch.from_numpy(self.normalisation.static).to(self.like)
        places = [self._time(number) for number in batch]
        initial_times = self.description.initial_times[places]
        begins = (np.timedelta64(0, "s"), *self.description.lead_times[:-1])

        def forcings(lead: np.timedelta64) -> Tensor:
            fields = forcings_at(self.forcings, initial_times + lead, self._precision)
            return torch.from_numpy(fields).to(self.like)

        fields = ((static, forcings(lead)) for lead in begins)
        return rollout(self.network_of(batch), recent, fields)

    def restored(self, state: Tensor) -> NDArray[np.float32]:
        """A state that was made, in SI units."""
        return self.normalisation.restore(state.cpu().numpy()).astype(np.float32, copy=False)

    @property
    def _precision(self) -> type[np.floating]:
        # In the model's type before normalising, as in training.
        return np.float64 if self.like.dtype == torch.float64 else np.float32

    def _time(self, number: int) -> int:
        """The place of a forecast's initial time."""
        return self.description.place(number)[0]

    def _states(self, batch: Sequence[int], recent: list[Tensor]) -> Iterator[NDArray[np.float32]]:
        steps = self.steps(batch, recent)
        del recent
        return_freed_memory()
        for step, state in enumerate(steps):
            # Without a name, it is let go by whoever takes it, also while other batches advance.
            yield self._finite(self.restored(state), batch, step)
            return_freed_memory()

    def _finite(
        self, states: NDArray[np.float32], batch: Sequence[int], step: int
    ) -> NDArray[np.float32]:
        # A sum needs no memory of the states' size, and that of float32 cannot overflow float64.
        finite = np.isfinite(states.sum(axis=(2, 3), dtype=np.float64))
        if not finite.all():
            item, channel = np.argwhere(~finite)[0]
            hours = to_hours(self.description.lead_times[step])
            time = self._time(batch[item])
            raise instability(
                self.description.initial_times[time], hours, self.normalisation.channels[channel]
            )
        return states


def instability(initial_time: np.datetime64, hours: float, channel: str) -> UserError:
    """What is raised for a forecast that has become NaN or infinite, first in a channel."""
    return UserError(
        f"the forecast from {initial_time.astype('datetime64[s]')} is NaN or infinite at "
        f"{hours:g} h, first in {channel}: the model is unstable that far ahead, so forecast fewer "
        "steps, or train it longer or with a longer training.rollout"
    )
