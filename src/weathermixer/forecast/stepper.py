"""A trained network that advances states in memory, in SI units, for as long as it is asked to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weathermixer.config import Config
from weathermixer.data.channels import implausibility, parse_channel
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.time_steps import to_hours, to_seconds, to_timedelta
from weathermixer.errors import UserError
from weathermixer.forecast.forecaster import instability
from weathermixer.forecast.inputs import forcings_at
from weathermixer.forecast.members import network_of_members, network_of_single
from weathermixer.forecast.rollout import Step, rollout
from weathermixer.jigsaw.mesh import Mesh, gather_objects
from weathermixer.model.architecture import architecture_of
from weathermixer.model.arithmetic import Arithmetic
from weathermixer.model.cuts import Part
from weathermixer.runs.run import Run, Weights


@dataclass(frozen=True)
class Start:
    """Where the forecasts of a batch stand: what they are from, and how far they have come.

    ``initial_times (batch,)`` are datetime64 in UTC; ``lead_time`` is since then. ``members
    (batch,)`` are the numbers of members of ensembles, for which a network with noise or dropout
    draws; without, it draws nothing.
    """

    initial_times: NDArray[np.datetime64]
    lead_time: np.timedelta64
    members: tuple[int, ...] | None = None


class Stepper(nn.Module):
    """A rank's part of a trained network, with all that it needs to take and to give SI units.

    ``to(device)`` moves all of it.
    """

    def __init__(
        self,
        run: Run,
        config: Config,
        mesh: Mesh,
        *,
        checkpoint: str = "newest",
        weights: Weights | None = None,
    ) -> None:
        """Load a checkpoint of a run, or an export; ``config`` is the run's, with overrides.

        Raises UserError as :meth:`~weathermixer.runs.run.Run.load_model` does.
        """
        super().__init__()
        path = run.require_checkpoint(checkpoint)
        self.network = run.load_model(config, mesh, path, weights)
        self._training, whole = config.training, run.normalisation
        self._arithmetic = Arithmetic.of(config.training.dtype)
        part = Part.on(mesh, architecture_of(config.data, config.model, whole.grid))
        own = part.of(whole)
        self._forcings = part.forcings_of(config.data, whole)
        self._channels, self._num_given = own.channels, part.prognostic.stop - part.prognostic.start
        self._step = to_timedelta(config.data.step_hours) * config.training.shortest_advance
        self.mean: Tensor
        self.std: Tensor
        self.static: Tensor
        self._keep(own, mesh.device)

    def _keep(self, own: Normalisation, device: torch.device) -> None:
        for name, values in (
            ("mean", own.mean[:, None, None]),
            ("std", own.std[:, None, None]),
            ("static", own.static),
        ):
            tensor = torch.from_numpy(values).to(device, self._arithmetic.states)
            self.register_buffer(name, tensor, persistent=False)

    def advance(self, states: Tensor, start: Start) -> Iterator[Tensor]:
        """The states that follow, one an application of the network, without an end.

        ``states (batch, input time, prognostic channel, latitude, longitude)``, the oldest first,
        and what is made of them, ``(batch, channel, latitude, longitude)`` in float32, are this
        rank's part in SI units. Between steps nothing is rounded. Raises UserError where a state is
        NaN or infinite.
        """
        recent = list(self._normalised(states).unbind(1))[::-1]
        del states
        given = (self._given(start, done) for done in count())
        states_made = rollout(self._network(start), recent, given)
        del recent
        for done in count(1):
            with self._arithmetic.in_force():
                made = next(states_made)
            restored = (made * self.std + self.mean).float()
            self._require_finite(restored, start, done)
            yield restored

    def _normalised(self, states: Tensor) -> Tensor:
        mean, std = self.mean[: self._num_given], self.std[: self._num_given]
        return (states.to(mean) - mean) / std

    def _given(self, start: Start, done: int) -> tuple[Tensor, Tensor]:
        """Static fields, and the forcings of an application after so many others."""
        times = start.initial_times + start.lead_time + done * self._step
        precision = np.float64 if self.static.dtype == torch.float64 else np.float32
        forcings = torch.from_numpy(forcings_at(self._forcings, times, precision))
        return self.static, forcings.to(self.static)

    def _network(self, start: Start) -> Step:
        applications = self._training.shortest_advance
        if start.members is None:
            return network_of_single(self.network, applications=applications)
        seconds = to_seconds(start.initial_times).tolist()
        return network_of_members(
            self.network,
            list(zip(seconds, start.members, strict=True)),
            applications=applications,
            seed=self._training.seed,
            made=int(start.lead_time // self._step),
        )

    def _require_finite(self, states: Tensor, start: Start, done: int) -> None:
        # A sum needs no memory of the states' size, and that of float32 cannot overflow float64.
        finite = states.sum((2, 3), dtype=torch.float64).isfinite()
        if not finite.all():
            item, channel = (~finite).nonzero()[0].tolist()
            hours = to_hours(start.lead_time + done * self._step)
            raise instability(start.initial_times[item], hours, self._channels[channel])


def require_plausible(
    states: Tensor, start: Start, channels: Sequence[str], names: Sequence[str]
) -> None:
    """Raise UserError where states are missing or, of an analysis, cannot be SI units.

    What was perturbed for a member, or forecast, may lie beyond anything observed. ``states (batch,
    input time, channel, latitude, longitude)`` are whole; ``names`` are what their channels are
    called where they come from.
    """
    is_analysis = start.members is None and not start.lead_time
    for place, name in enumerate(names):
        fields = states[:, :, place].flatten(0, 1)
        if is_analysis:
            channel = parse_channel(channels[place])
            found = [implausibility(channel, field) for field in fields.cpu().numpy()]
        else:
            bad = int((~fields.isfinite()).sum())
            found = [f"{bad} values are NaN or infinite" if bad else None]
        problem = next(filter(None, found), None)
        if problem is not None:
            raise UserError(
                f"{name} of the forecasts from {start.initial_times[0]} on "
                f"cannot be used ({problem}): give states in SI units without gaps"
            )


def next_together(states: Iterator[Tensor]) -> Tensor:
    """The next state of :meth:`Stepper.advance` on all ranks, which call this at the same time.

    Raises the UserError of any of them on each.
    """
    problem = None
    try:
        made = next(states)
    except UserError as error:
        problem = error
    for each in filter(None, gather_objects(problem)):
        raise each
    return made
