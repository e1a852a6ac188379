"""A forecast: states by initial time and lead time, from this project or from others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from weathermixer.errors import UserError
from weathermixer.verification.fields import Fields, open_zarr

_DIMENSIONS = ("time", "prediction_timedelta")


@dataclass(frozen=True)
class Forecast(Fields):
    """An open forecast: ``initial_times (time,)``, ``lead_times (lead,)``, and its fields."""

    initial_times: NDArray[np.datetime64]
    lead_times: NDArray[np.timedelta64]

    @property
    def lead_hours(self) -> tuple[float, ...]:
        return tuple((self.lead_times / np.timedelta64(1, "h")).tolist())

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open a forecast; UserError where there is none, an unfinished one, or something else."""
        path = str(path)
        dataset = open_zarr(path, "forecast")
        alone = [
            name for name in _DIMENSIONS if name in dataset.coords and name not in dataset.dims
        ]
        fields = Fields.of(path, dataset.expand_dims(alone), _DIMENSIONS, "forecast")
        times, leads = (fields.dataset[name].values for name in _DIMENSIONS)
        if times.dtype.kind != "M":
            raise UserError(
                f"{path}: time is not a time of the standard (Gregorian) calendar: correct it"
            )
        if leads.dtype.kind != "m":
            raise UserError(
                f"{path}: prediction_timedelta is not a duration: give it units such as 'hours'"
            )
        for name, values in (("time", times), ("prediction_timedelta", leads)):
            if len(np.unique(values)) < len(values):
                raise UserError(f"{path} holds a {name} more than once: drop the duplicates first")
        return cls(
            **vars(fields),
            initial_times=times.astype("datetime64[s]"),
            lead_times=leads.astype("timedelta64[s]"),
        )
