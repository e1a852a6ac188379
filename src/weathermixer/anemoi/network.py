"""A trained network, or a rank's part of one, as the model that a runner of anemoi steps."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from weathermixer.anemoi.checkpoint import DATASET
from weathermixer.anemoi.names import anemoi_name
from weathermixer.config import Config
from weathermixer.data.time_steps import to_timedelta
from weathermixer.forecast.stepper import Start, Stepper, next_together, require_plausible
from weathermixer.jigsaw.tensors import block_of, gather
from weathermixer.job import connect_for_forecasts
from weathermixer.model.architecture import architecture_of
from weathermixer.model.cuts import Part
from weathermixer.runs.run import Run


class FlatNetwork(nn.Module):
    """A network on whole states in SI units, whose grid is one dimension of points.

    On ranks each takes its part of the states that it is given, steps it, and gathers what all have
    made. Between steps nothing is rounded to SI units, unless something changed the state.
    """

    def __init__(
        self, run: Run, config: Config, *, member: int | None, device: torch.device
    ) -> None:
        """Load a run or an export; all ranks that were started call this at the same time.

        A ``member`` is the number of one of an ensemble, for which the network draws. Raises
        UserError where it does not fit on the ranks.
        """
        super().__init__()
        self._normalisation, self._member = run.normalisation, member
        grid = run.normalisation.grid
        architecture = architecture_of(config.data, config.model, grid)
        mesh = connect_for_forecasts(config, architecture, device=device)
        self.stepper = Stepper(run, config, mesh)
        self._part, self._num_given = Part.on(mesh, architecture), architecture.prognostic
        cut = {
            1: (mesh.tensor, architecture.predicted_dimension),
            3: (mesh.domain, architecture.longitude_dimension),
        }
        self._block = block_of((1, architecture.predicted, *grid), mesh, cut)
        self._step = to_timedelta(config.data.step_hours) * config.training.shortest_advance
        self._steps: Iterator[Tensor] = iter(())
        self._newest = torch.empty(0)

    def predict_step(
        self,
        states: dict[str, Tensor],
        *,
        date: datetime,
        fcstep: int,
        step: timedelta,
        model_comm_group: Any = None,
    ) -> dict[str, Tensor]:
        """The state at ``date``, from ``states (1, time, point, variable)`` that end a step before.

        ``fcstep`` steps were made before; the result is ``(1, 1, 1, point, variable)``. All ranks
        call this with the same states. Raises UserError for first states that are missing or cannot
        be SI units, and for one that becomes NaN or infinite.
        """
        given = states[DATASET]
        with (
            # A runner is in both, and weights that a rank keeps need versions, which it would take.
            torch.inference_mode(False),
            torch.autocast(given.device.type, enabled=False),
            torch.no_grad(),
        ):
            fields = given.movedim(-1, 2).unflatten(-1, self._normalisation.grid)
            if fcstep == 0 or not torch.equal(fields[:, -1], self._newest):
                self._begin(fields, date, fcstep)
            made = gather(next_together(self._steps), self._block)
            self._newest = made[:, : self._num_given]
            # A copy: processors of a runner change what they are given in its place.
            flat = made.flatten(-2).movedim(1, -1).clone(memory_format=torch.contiguous_format)
        return {DATASET: flat[:, None, None]}

    def _begin(self, fields: Tensor, date: datetime, made: int) -> None:
        """Step from ``fields (1, time, channel, latitude, longitude)``, of a step before a date."""
        lead_time = made * self._step
        initial = np.datetime64(date, "s") - self._step - lead_time
        members = None if self._member is None else (self._member,)
        start = Start(np.array([initial]), lead_time, members)
        channels = self._normalisation.channels[: self._num_given]
        require_plausible(fields, start, channels, [anemoi_name(name) for name in channels])
        own = fields[:, :, self._part.prognostic, :, self._part.longitudes]
        self._steps = self.stepper.advance(own, start)
