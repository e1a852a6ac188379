"""From SI units to the numbers of order one that the network sees, and back.

A normalisation is made once, from a store's statistics over the training period, and belongs to a
run from then on: a forecast may start from another store, but never with other statistics.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weathermixer.console import Progress
from weathermixer.data.states import States
from weathermixer.data.statistics import Statistics, cell_area_weights, field_moments
from weathermixer.errors import UserError

_SAME_PLACE_DEGREES = 1e-3


@dataclass(frozen=True)
class Normalisation:
    """What a network must know of its data: channels, their statistics, static fields, grid.

    ``mean``, ``std`` and ``step_std`` (the standard deviation of the change over one step, or of
    the values themselves in a channel that is only predicted) are ``(channel,)`` in the channels'
    units; ``static (static_channel, latitude, longitude)`` is normalised already; ``latitude`` and
    ``longitude`` are in degrees.
    """

    channels: tuple[str, ...]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    step_std: NDArray[np.float64]
    static_channels: tuple[str, ...]
    static: NDArray[np.float32]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]

    @classmethod
    def from_store(
        cls,
        store: States,
        channels: Sequence[str],
        static_channels: Sequence[str],
        period: tuple[np.datetime64, np.datetime64],
        progress: Progress | None = None,
        *,
        diagnostic: Sequence[str] = (),
    ) -> Normalisation:
        """Make one from the statistics of some channels over a period, both of its ends inclusive.

        ``diagnostic`` are those of the channels that are only predicted. ``progress(done, total)``
        is called where states must be read for them. Raises UserError where the store lacks a
        channel or a static field, or where the period holds too few times.
        """
        statistics = store.statistics_over(period, progress)
        return cls.of(store, channels, static_channels, statistics, diagnostic=diagnostic)

    @classmethod
    def of(
        cls,
        store: States,
        channels: Sequence[str],
        static_channels: Sequence[str],
        statistics: Statistics,
        *,
        diagnostic: Sequence[str] = (),
    ) -> Normalisation:
        """Make one from the ``statistics`` of all channels of a store.

        ``diagnostic`` are those of ``channels`` that are only predicted. Raises UserError where the
        store lacks a channel or a static field.
        """
        indices = store.channel_indices(channels)
        mean = statistics.mean[indices]
        is_diagnostic = [name in diagnostic for name in channels]
        change = np.where(is_diagnostic, statistics.std[indices], statistics.step_std[indices])
        static = store.read_static(static_channels)
        weights = cell_area_weights(store.latitude)
        static_mean, static_variance = field_moments(static, None, weights)[:2]
        static_std = _spread(np.sqrt(static_variance), static_mean)
        anomaly = static - static_mean[:, None, None]
        return cls(
            channels=tuple(channels),
            mean=mean,
            std=_spread(statistics.std[indices], mean),
            step_std=_spread(change, mean),
            static_channels=tuple(static_channels),
            static=(anomaly / static_std[:, None, None]).astype(np.float32),
            latitude=store.latitude,
            longitude=store.longitude,
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Numbers of latitudes and longitudes."""
        return len(self.latitude), len(self.longitude)

    def part(self, channels: Sequence[int], static: slice, longitudes: slice) -> Normalisation:
        """The normalisation of some channels, static fields and longitudes, such as a rank's."""
        return Normalisation(
            channels=tuple(self.channels[place] for place in channels),
            mean=self.mean[channels],
            std=self.std[channels],
            step_std=self.step_std[channels],
            static_channels=self.static_channels[static],
            static=np.ascontiguousarray(self.static[static, :, longitudes]),
            latitude=self.latitude,
            longitude=self.longitude[longitudes],
        )

    def without_static(self) -> Normalisation:
        """The same without static fields, of which a rank needs its part alone."""
        return replace(self, static_channels=(), static=self.static[:0].copy())

    @property
    def increment_scale(self) -> NDArray[np.float64]:
        """Standard deviation ``(channel,)`` of the change of a normalised state over one step.

        It is 1 for a channel that is only predicted, of whose values there is no change.
        """
        return self.step_std / self.std

    def normalise(self, state: NDArray[Any], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Normalise ``state (..., channel, latitude, longitude)``: ``(state − mean) / std``.

        It is computed in the type of ``out``, and written there, or else in that of ``state``.
        """
        mean, std = self._aligned(state.dtype if out is None else out.dtype)
        result: NDArray[Any] = np.subtract(state, mean, out=out)
        result /= std
        return result

    def restore(self, state: NDArray[Any]) -> NDArray[Any]:
        """The inverse of ``normalise``: a state in SI units, in the type of the argument."""
        mean, std = self._aligned(state.dtype)
        result: NDArray[Any] = state * std
        result += mean
        return result

    def check_grid(self, store: States) -> None:
        """Raise UserError where a store's grid is not the one that the network was trained on."""
        if store.grid != self.grid:
            raise UserError(
                f"{store.path} has the grid {_size(store.grid)} (latitude × longitude), but the "
                f"network was trained on {_size(self.grid)}: prepare a store on that grid"
            )
        for name in ("latitude", "longitude"):
            here, there = getattr(self, name), getattr(store, name)
            apart = np.abs(here - there) > _SAME_PLACE_DEGREES
            if apart.any():
                first = int(np.argmax(apart))
                raise UserError(
                    f"{name} {first} of {store.path} is {there[first]:g}°, but "
                    f"{here[first]:g}° where the network was trained: prepare a store on that grid"
                )

    def save(self, path: Path) -> None:
        """Write the normalisation to an ``.npz`` file; OSError where that is impossible."""
        with path.open("wb") as file:
            np.savez(
                file,
                allow_pickle=False,
                **{field.name: np.asarray(getattr(self, field.name)) for field in fields(self)},
            )

    @classmethod
    def load(cls, path: Path) -> Normalisation:
        """Read what ``save`` wrote; UserError where the file is missing or damaged."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                values: dict[str, Any] = {field.name: arrays[field.name] for field in fields(cls)}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(
                f"the normalisation {path} cannot be read ({error}): copy the run again"
            ) from error
        for name in ("channels", "static_channels"):
            values[name] = tuple(str(channel) for channel in values[name])
        return cls(**values)

    def _aligned(self, dtype: np.dtype[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        return self.mean.astype(dtype)[:, None, None], self.std.astype(dtype)[:, None, None]


def _spread(std: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviations to divide by: 1 for fields that do not vary.

    A constant field's is not quite zero: below the resolution of float32 it is rounding.
    """
    return np.where(std > np.finfo(np.float32).eps * np.abs(mean), std, 1.0)


def _size(grid: tuple[int, int]) -> str:
    return f"{grid[0]}×{grid[1]}"
