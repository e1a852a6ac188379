"""Forecasts that are read beside the truth: what they have in common, and their states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weathermixer.data.archives.forecasts import Forecast
from weathermixer.data.grid import Index
from weathermixer.errors import UserError
from weathermixer.verification.pairing import Pairing
from weathermixer.verification.scores import CLIMATOLOGY, MODEL, PERSISTENCE, TRUTH
from weathermixer.verification.truth import State

BLOCK_BYTES = 128 * 1024 * 1024


@dataclass(frozen=True)
class Comparison(Pairing):
    """Forecasts that are read, and the truth, found to fit together.

    ``forecasts`` are the model's and those put beside it, by name. Channels and times are those
    that all of them have, in the model's order.
    """

    forecasts: Mapping[str, Forecast]

    @classmethod
    def open(
        cls,
        forecast: Path | str,
        truth: Path | str,
        *,
        beside: Sequence[str] = (),
        climatology: str | None = None,
    ) -> Comparison:
        """Open a forecast, others ``beside`` it and the truth, and find what they have in common.

        ``climatology`` is an archive in the place of the truth's own. Raises UserError where grids,
        channels or times do not fit together.
        """
        forecasts = {MODEL: Forecast.open(forecast)}
        for path in beside:
            forecasts[_name_of(path, forecasts)] = Forecast.open(path)
        every = list(forecasts.values())
        pairing = Pairing.of(
            truth,
            str(forecast),
            _common(every, "channels", [one.channels for one in every]).tolist(),
            _common(every, "initial times", [one.initial_times for one in every]),
            _common(every, "lead times", [one.lead_times for one in every]),
            {one.path: one.grid for one in every},
            climatology=climatology,
        )
        return cls(**vars(pairing), forecasts=forecasts)

    @property
    def forecast(self) -> Forecast:
        """The forecast of the model."""
        return self.forecasts[MODEL]

    @property
    def beside(self) -> tuple[str, ...]:
        """Names of the forecasts put beside the model's."""
        return tuple(name for name in self.forecasts if name != MODEL)

    @property
    def forecast_names(self) -> tuple[str, ...]:
        """Names of the forecasts that are compared, the model's first."""
        return tuple(self.forecasts)

    @property
    def most_members(self) -> int:
        """The most members that any of the forecasts has; 1 where none is an ensemble."""
        return max(each.members or 1 for each in self.forecasts.values())

    def warnings(self) -> Iterator[str]:
        """Sentences for the user about what of the scores will be lacking."""
        for forecast in self.forecasts.values():
            if forecast.remark is not None:
                yield forecast.remark
        own = self.forecast
        others = [name for name in own.channels if name not in self.channels]
        if others:
            yield f"{', '.join(others)}: not scored, since not every forecast has them"
        sizes = len(self.initial_times), len(self.lead_times)
        own_sizes = len(own.initial_times), len(own.lead_times)
        if sizes != own_sizes:
            yield (
                f"all forecasts have {sizes[0]} initial times and {sizes[1]} lead times in common, "
                f"of the model's {own_sizes[0]} and {own_sizes[1]}"
            )
        yield from super().warnings()

    def states(
        self, times: NDArray[np.intp], channels: Sequence[str]
    ) -> Iterator[tuple[int, int, list[State]]]:
        """Read what can be scored: indices of time and lead, and the state of each forecast.

        States are ``(channel, latitude, longitude)``, those of an ensemble ``(member, channel,
        latitude, longitude)``. No more is held than a block of ``BLOCK_BYTES``, or one state, of
        each forecast.
        """
        state_bytes = 4 * len(channels) * self.grid.shape[0] * self.grid.shape[1]
        state_bytes *= self.most_members
        most = max(1, BLOCK_BYTES // state_bytes)
        by_time, by_lead = (
            max(one.chunk_length(name, channels) for one in self.forecasts.values())
            for name in ("time", "prediction_timedelta")
        )
        # Whole chunks where they fit, since a part of one costs as much to read.
        num_leads = most // by_lead * by_lead or most
        num_times = min(by_time, most // num_leads) or 1
        for some_times in _blocks(times, num_times):
            leads = np.flatnonzero(self.pairs[some_times].any(axis=0))
            for some_leads in _blocks(leads, num_leads):
                states = [
                    self._read(one, some_times, some_leads, channels)
                    for one in self.forecasts.values()
                ]
                for i, time in enumerate(some_times):
                    for j in np.flatnonzero(self.pairs[time, some_leads]):
                        yield int(time), int(some_leads[j]), [each[i, j] for each in states]

    def fields(self, time: int, lead: int, channel: str) -> tuple[State, State]:
        """Read a channel ``(latitude, longitude)`` of the model's forecast, and of the truth.

        Of an ensemble it is that of its members, ``(member, latitude, longitude)``.
        """
        forecast = self._read(self.forecast, np.array([time]), np.array([lead]), [channel])[0, 0]
        truth = self.truth.for_channels([channel]).at(self.valid_time(time, lead))[0]
        return forecast[..., 0, :, :], truth

    def forecasts_at(
        self, time: int, channels: Sequence[str], places: Sequence[tuple[int, int]]
    ) -> State:
        """Read the model's forecasts from one initial time at grid points, by row and column.

        They are ``(place, lead, channel, member)``, those of a single forecast of one member. Held
        are whole columns of the grid, not whole fields.
        """
        leads = np.arange(len(self.lead_times))
        rows, wanted = np.array(places).T
        columns, positions = np.unique(wanted, return_inverse=True)
        values = self._read(self.forecast, np.array([time]), leads, channels, columns)[0]
        at_places = np.moveaxis(values[..., rows, positions], -1, 0)
        if self.forecast.members is None:
            return at_places[..., None]
        return np.moveaxis(at_places, 2, -1)

    def _read(
        self,
        forecast: Forecast,
        times: NDArray[np.intp],
        leads: NDArray[np.intp],
        channels: Sequence[str],
        columns: Index = slice(None),
    ) -> State:
        own_times = _positions(forecast.initial_times, self.initial_times[times])
        own_leads = _positions(forecast.lead_times, self.lead_times[leads])
        return forecast.read(channels, own_times, own_leads, self.grid, columns)


def _name_of(path: str, taken: Mapping[str, Any]) -> str:
    """A forecast's name: its file's, or the whole path where that is another's already."""
    reserved = {*taken, PERSISTENCE, CLIMATOLOGY, TRUTH}
    name = path.rstrip("/").rpartition("/")[2].removesuffix(".zarr")
    if name not in reserved:
        return name
    if path in reserved:
        raise UserError(f"{path} is put beside the forecast twice: name it once")
    return path


def _common(forecasts: Sequence[Forecast], what: str, values: Sequence[Any]) -> Any:
    """The values that all forecasts have, in the order of the first."""
    first, *others = (np.asarray(one) for one in values)
    shared = reduce(lambda kept, other: kept[np.isin(kept, other)], others, first)
    if not len(shared):
        paths = ", ".join(one.path for one in forecasts)
        raise UserError(
            f"{paths} have no {what} in common: the first has {first[0]} to {first[-1]}, "
            f"{forecasts[1].path} has {others[0][0]} to {others[0][-1]}; compare forecasts of the "
            "same"
        )
    return shared


def _positions(own: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.intp]:
    """The index of each of the wanted values, all of which are there."""
    order = np.argsort(own)
    return order[np.searchsorted(own, wanted, sorter=order)]


def _blocks(indices: NDArray[np.intp], size: int) -> Iterator[NDArray[np.intp]]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]
