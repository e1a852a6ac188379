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

    def states(
        self, batch: Sequence[int], initial_states: Iterable[Iterable[NDArray[np.float32]]]
    ) -> Iterator[NDArray[np.float32]]:
        """Forecast states ``(batch, channel, latitude, longitude)`` in SI units, by lead time.

        ``initial_states (channel, latitude, longitude)`` are those that the network is given for
        each of ``batch``, the newest first. Nothing here refers to a state longer than it is
        needed: at 0.25° each is a good part of a rank's memory.

        Raises UserError at the first state that is NaN or infinite anywhere.
        """
        static = torch.from_numpy(self.normalisation.static).to(self.like)
        # In the model's type before normalising, as in training.
        precision = np.float64 if self.like.dtype == torch.float64 else np.float32
        places = [self.description.place(number)[0] for number in batch]
        initial_times = self.description.initial_times[places]
        begins = (np.timedelta64(0, "s"), *self.description.lead_times[:-1])

        def forcings(lead: np.timedelta64) -> Tensor:
            fields = forcings_at(self.forcings, initial_times + lead, precision)
            return torch.from_numpy(fields).to(self.like)

        fields = ((static, forcings(lead)) for lead in begins)
        steps = rollout(
            self.network_of(batch),
            recent_states(self.given, initial_states, precision, self.like),
            fields,
        )
        return_freed_memory()
        for step, state in enumerate(steps):
            restored = self.normalisation.restore(state.cpu().numpy()).astype(
                np.float32, copy=False
            )
            self._check_finite(restored, batch, step)
            yield restored
            del restored
            return_freed_memory()

    def _check_finite(self, states: NDArray[np.float32], batch: Sequence[int], step: int) -> None:
        # A sum needs no memory of the states' size, and that of float32 cannot overflow float64.
        finite = np.isfinite(states.sum(axis=(2, 3), dtype=np.float64))
        if not finite.all():
            item, channel = np.argwhere(~finite)[0]
            hours = to_hours(self.description.lead_times[step])
            time, _ = self.description.place(batch[item])
            raise UserError(
                f"the forecast from {self.description.initial_times[time]} is NaN or "
                f"infinite at {hours:g} h, first in {self.normalisation.channels[channel]}: the "
                "model is unstable that far ahead, so forecast fewer steps, or train it longer or "
                "with a longer training.rollout"
            )
