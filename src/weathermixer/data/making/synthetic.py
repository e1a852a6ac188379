"""States made of travelling waves, whose future is known exactly, on any grid, without simulation.

In a non-divergent atmosphere that rotates as a solid body, faster than the Earth by ``α``, a
spherical harmonic ``Yₙᵐ`` of the streamfunction keeps its shape and travels along longitude at the
angular speed

    cₙ = α − 2 (Ω + α) / (n (n + 1))

(a Rossby–Haurwitz wave; B. Haurwitz 1940, J. Marine Res. 3, 254–267). Every channel here is its
typical mean, a zonal pattern that stands still, and its own mix of such harmonics, each at its
speed. Channels are not in balance with one another: this is for tests and benchmarks.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weathermixer.console import Progress
from weathermixer.data.channels import (
    LEVELS_HPA,
    PROGNOSTIC_VARIABLES,
    STATIC_VARIABLES,
    channels_of,
    names,
    parse_channel,
)
from weathermixer.data.feeding.periods import periods
from weathermixer.data.store.climatology import write_climatology
from weathermixer.data.store.store import Store
from weathermixer.data.store.store_description import StoreDescription
from weathermixer.data.store.store_writer import StoreWriter
from weathermixer.data.store.typical import typical
from weathermixer.data.time_steps import to_timedelta
from weathermixer.worker_processes import Tick, default_processes, for_each

EARTH_ROTATION = 7.292e-5  # Ω, rad s⁻¹
SUPERROTATION = 1.6e-6  # α, rad s⁻¹: 10 m s⁻¹ at the equator

_EPOCH = np.datetime64("2000-01-01T00", "s")
_NUM_WAVES = 8
_DEGREES = (2, 10)
_ZONAL_SHARE = 0.5  # of a channel's variance
_MOST_RELATIVE_HUMIDITY_STD = 0.25  # keeps humidity, whose spread nears its mean, above zero
_PROCESS_BYTES = 300 * 1024**2
_STATES_PER_PROCESS = 8
_WORTH_A_PROCESS_BYTES = 256 * 1024**2


class EvenGrid(NamedTuple):
    """Evenly spaced rows from north to south and columns from 0 eastward, in degrees.

    They are ``latitude (row,)`` and ``longitude (column,)``. ``dropped_row`` tells whether the row
    at the south pole was left out, as of real data.
    """

    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    dropped_row: bool


def grid_coordinates(grid: tuple[int, int]) -> EvenGrid:
    """Coordinates, in degrees, of an even ``grid`` of rows × columns.

    An odd number of rows has one at each pole, as ERA5's 181 and 721; the south pole's is dropped.
    An even number has none there.
    """
    rows, columns = grid
    longitude = np.linspace(0.0, 360.0, columns, endpoint=False)
    if rows % 2:
        return EvenGrid(np.linspace(90.0, -90.0, rows)[:-1], longitude, True)
    edge = 90.0 * (1.0 - 1.0 / rows)
    return EvenGrid(np.linspace(edge, -edge, rows), longitude, False)


def exact_state(
    time: np.datetime64,
    channels: Sequence[str],
    latitude: NDArray[np.float64],
    longitude: NDArray[np.float64],
    seed: int = 0,
) -> NDArray[np.float32]:
    """The state ``(channel, latitude, longitude)`` in SI units at any time, past or future.

    It is what ``write_synthetic`` writes for the same seed, channels and coordinates in degrees.
    """
    return _State(channels, latitude, longitude, seed).at(time)


def angular_speed(degree: int) -> float:
    """Eastward angular speed of a Rossby–Haurwitz wave of degree ``n``, rad s⁻¹."""
    return SUPERROTATION - 2 * (EARTH_ROTATION + SUPERROTATION) / (degree * (degree + 1))


def write_synthetic(
    out: Path,
    *,
    times: int,
    grid: tuple[int, int] = (181, 360),
    seed: int = 0,
    variables: Sequence[str] = tuple(PROGNOSTIC_VARIABLES),
    levels: Sequence[int] = LEVELS_HPA,
    static: Sequence[str] = tuple(STATIC_VARIABLES),
    step_hours: float = 6.0,
    start: np.datetime64 = _EPOCH,
    processes: int | None = None,
    progress: Progress | None = None,
) -> Store:
    """Make a store of ``times`` states, one step apart from ``start`` on, with their climatology.

    ``progress(done, total)`` counts times, then the times of the climatology.

    Raises UserError where ``out`` exists or cannot be written.
    """
    step = to_timedelta(step_hours)
    made = grid_coordinates(grid)
    attributes: dict[str, Any] = {"sources": ["synthetic Rossby–Haurwitz waves"], "seed": seed}
    if made.dropped_row:
        attributes["dropped_row"] = "latitude -90"
    channels = names(channels_of(variables, levels))
    description = StoreDescription(
        channels=channels,
        times=start.astype("datetime64[s]") + np.arange(times) * step,
        latitude=made.latitude,
        longitude=made.longitude,
        step_hours=step_hours,
        static_channels=tuple(static),
        static=_static_fields(static, made, seed),
        attributes=attributes,
    )
    writer = StoreWriter.create(out, description)
    state_bytes = 4 * len(channels) * len(made.latitude) * len(made.longitude)
    if processes is None:
        processes = default_processes(_PROCESS_BYTES + _STATES_PER_PROCESS * state_bytes)
        processes = min(processes, 1 + state_bytes * times // _WORTH_A_PROCESS_BYTES)
    blocks = writer.missing_blocks()
    for_each(
        partial(_write_block, out, seed),
        blocks,
        processes=processes,
        ticks=sum(map(len, blocks)),
        progress=progress,
    )
    if times == 1:
        writer.finish(None)
    else:
        training = periods(description.times).train
        # The waves know no hours, so one part of the day serves all.
        write_climatology(out, training, hours=(0,), processes=processes, progress=progress)
        writer.finish(training)
    return Store.open(out)


def _write_block(out: Path, seed: int, block: range, tick: Tick) -> None:
    state, times = _state_of(out, seed)
    for _ in StoreWriter(out).write_block(block, lambda index: state.at(times[index])):
        tick()


@lru_cache(maxsize=1)
def _state_of(out: Path, seed: int) -> tuple[_State, NDArray[np.datetime64]]:
    """The waves and times of a store being written, made once in a process for all its blocks."""
    store = StoreWriter(out).partial_store()
    return _State(store.channels, store.latitude, store.longitude, seed), store.times


class _State:
    """Every channel's waves, on one grid."""

    def __init__(
        self,
        channels: Sequence[str],
        latitude: NDArray[np.float64],
        longitude: NDArray[np.float64],
        seed: int,
    ) -> None:
        self._shape = (len(channels), len(latitude), len(longitude))
        self._scales = [_mean_and_spread(name) for name in channels]
        self._mixes = [_Mix(name, latitude, longitude, seed) for name in channels]
        self._zonal = normalised_legendre(2, 0, np.sin(np.deg2rad(latitude)))[:, None]

    def at(self, time: np.datetime64) -> NDArray[np.float32]:
        seconds = (time - _EPOCH) / np.timedelta64(1, "s")
        state = np.empty(self._shape, dtype=np.float32)
        for channel, (mean, std) in enumerate(self._scales):
            waves = self._mixes[channel].after(seconds)
            pattern = np.sqrt(1.0 - _ZONAL_SHARE) * waves - np.sqrt(_ZONAL_SHARE) * self._zonal
            state[channel] = mean + std * pattern
        return state


class _Mix:
    """Several harmonics, of mean square 1 together; which ones, by seed and name alone."""

    def __init__(
        self,
        name: str,
        latitude: NDArray[np.float64],
        longitude: NDArray[np.float64],
        seed: int,
    ) -> None:
        random = np.random.default_rng([seed, zlib.crc32(name.encode())])
        degrees = random.integers(*_DEGREES, size=_NUM_WAVES, endpoint=True)
        self._orders = random.integers(1, degrees, endpoint=True)[:, None]
        amplitudes = random.uniform(0.5, 1.0, size=_NUM_WAVES)
        amplitudes /= np.sqrt(np.square(amplitudes).sum())
        self._phases = random.uniform(0.0, 2 * np.pi, size=(_NUM_WAVES, 1))
        self._speeds = np.array([[angular_speed(int(degree))] for degree in degrees])
        self._longitude = np.deg2rad(longitude)
        sine = np.sin(np.deg2rad(latitude))
        self._rows = np.stack(
            [
                amplitude * normalised_legendre(int(degree), int(order), sine)
                for degree, order, amplitude in zip(
                    degrees, self._orders[:, 0], amplitudes, strict=True
                )
            ],
            axis=1,
        )

    def after(self, seconds: float) -> NDArray[np.float64]:
        """The sum ``(latitude, longitude)`` of the harmonics, each moved for ``seconds``."""
        crests = self._phases + seconds * self._speeds
        turned: NDArray[np.float64] = self._rows @ np.cos(self._orders * (self._longitude - crests))
        return turned


def normalised_legendre(degree: int, order: int, sine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Associated Legendre function of ``sine``, the sine of latitude.

    It is so normalised that ``P cos(m λ)`` has mean square 1 over the sphere, and computed by the
    recurrence in degree (Holmes and Featherstone 2002, J. Geodesy 76, 279–299, eq. 11 to 13),
    without the Condon–Shortley phase.
    """
    cosine = np.sqrt(np.maximum(0.0, 1.0 - sine**2))
    value = np.ones_like(sine)
    for k in range(1, order + 1):
        value = value * cosine * np.sqrt((2 * k + 1) / (2 * k) if k > 1 else 3.0)
    before = np.zeros_like(sine)
    for n in range(order + 1, degree + 1):
        a = np.sqrt((2 * n - 1) * (2 * n + 1) / ((n - order) * (n + order)))
        b = np.sqrt(
            (2 * n + 1)
            * (n + order - 1)
            * (n - order - 1)
            / ((n - order) * (n + order) * (2 * n - 3))
        )
        value, before = a * sine * value - b * before, value
    return value


def _mean_and_spread(name: str) -> tuple[float, float]:
    channel = parse_channel(name)
    mean, std = typical(channel)
    if channel.variable == "specific_humidity":
        std = min(std, _MOST_RELATIVE_HUMIDITY_STD * mean)
    return mean, std


def _static_fields(static: Sequence[str], grid: EvenGrid, seed: int) -> NDArray[np.float32]:
    """Land where one mix of harmonics, standing still, is above zero."""
    height = _Mix("geopotential_at_surface", grid.latitude, grid.longitude, seed).after(0.0)
    fields = {
        "land_sea_mask": np.clip(0.5 + 2.0 * height, 0.0, 1.0),
        "soil_type": np.floor(np.clip(4.0 * height, 0.0, 7.0)),
        "geopotential_at_surface": 1.0e4 * np.maximum(height, 0.0),
    }
    return np.array([fields[name] for name in static], dtype=np.float32).reshape(
        len(static), *height.shape
    )
