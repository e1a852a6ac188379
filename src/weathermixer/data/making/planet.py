"""A simulated Earth: the source of data that needs no download.

SPEEDY physics over real land, mountains and sea surface temperatures, at T21 with 8 layers (see
``planet_model.py``), every 6 hours on 69 channels. It has storms, jets, trade winds and seasons;
it has no hours of the day, the same sea every year, and a stratosphere of two layers. *Members* are
simulations of their own, each in other years, so that times never collide; they run side by side,
one on each core.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from weathermixer.config import Period
from weathermixer.console import Progress
from weathermixer.data.channels import (
    LEVELS_HPA,
    PROGNOSTIC_VARIABLES,
    STATIC_VARIABLES,
    channels_of,
    names,
)
from weathermixer.data.feeding.periods import periods
from weathermixer.data.store.climatology import write_climatology
from weathermixer.data.store.store import Store, partial_path, write_error
from weathermixer.data.store.store_description import StoreDescription
from weathermixer.data.store.store_writer import TIMES_PER_BLOCK, StoreWriter
from weathermixer.data.time_steps import to_hours
from weathermixer.errors import UserError
from weathermixer.worker_processes import Tick, default_processes, for_each

if TYPE_CHECKING:
    from weathermixer.data.making.planet_model import PlanetModel

CHANNELS = names(channels_of(tuple(PROGNOSTIC_VARIABLES), LEVELS_HPA))
STATIC_CHANNELS = tuple(STATIC_VARIABLES)
SMALLEST_GRID = (32, 64)
SPIN_UP_DAYS = 92  # from rest; winds, rain and the stratosphere settle within 90

_STEP = np.timedelta64(6, "h")
_TIMES_PER_DAY = 4
_FIRST_YEAR = 2001
_PROCESS_BYTES = 1536 * 1024**2


def grid_coordinates(grid: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Latitudes and longitudes, in degrees, of a Gaussian ``grid`` of rows × columns.

    They run from south to north, and from 0 eastward. Raises UserError for grids coarser than the
    simulation.
    """
    if grid[0] < SMALLEST_GRID[0] or grid[1] < SMALLEST_GRID[1]:
        raise UserError(
            f"the planet cannot be seen on a grid of {grid[0]}x{grid[1]}: "
            f"choose {SMALLEST_GRID[0]}x{SMALLEST_GRID[1]} or finer"
        )
    sines: NDArray[np.float64] = np.polynomial.legendre.leggauss(grid[0])[0]
    return np.rad2deg(np.arcsin(sines)), np.linspace(0.0, 360.0, grid[1], endpoint=False)


def static_fields(grid: tuple[int, int]) -> NDArray[np.float32]:
    """The planet's own static fields ``(static_channel, latitude, longitude)``, on a grid.

    They are those of ``STATIC_CHANNELS``. Raises UserError as ``grid_coordinates`` does, and where
    jcm is not installed.
    """
    grid_coordinates(grid)
    return _import_simulation("planet_boundary").static_fields(grid)


def simulate(
    *,
    days: int,
    grid: tuple[int, int] = SMALLEST_GRID,
    member: int = 0,
    seed: int = 0,
    spin_up_days: int = SPIN_UP_DAYS,
) -> Iterator[tuple[np.datetime64, NDArray[np.float32]]]:
    """Simulate a member, and yield its time and state every 6 hours after its spin-up.

    A state is ``(channel, latitude, longitude)``, of the 69 ``CHANNELS`` in SI units. The member
    starts on the first of January, in a year that leaves room for the members before it. The same
    seed and member give the same states on the same machine. Raises UserError as ``static_fields``
    does.
    """
    grid_coordinates(grid)
    return _states(_Simulation(grid, member, seed), _member_times(member, days, days), spin_up_days)


def _states(
    simulation: _Simulation, times: NDArray[np.datetime64], spin_up_days: int
) -> Iterator[tuple[np.datetime64, NDArray[np.float32]]]:
    simulation.spin_up(times[0], spin_up_days, _no_tick)
    for start in range(0, len(times), TIMES_PER_BLOCK):
        yield from zip(times[start:], simulation.next_states(), strict=False)


def write_planet(
    out: Path,
    *,
    days: int,
    grid: tuple[int, int] = SMALLEST_GRID,
    seed: int = 0,
    train: Period | None = None,
    processes: int | None = None,
    spin_up_days: int = SPIN_UP_DAYS,
    progress: Progress | None = None,
) -> Store:
    """Make a store of ``days`` simulated days, with climatology: one member for each process.

    Statistics and climatology are those of ``train``, by default the first four fifths of the
    times. ``progress(done, total)`` counts six-hourly states, those of the spin-up included, then
    the times of the climatology. Interrupted, even killed, the same call continues.

    Raises UserError where jcm is not installed, the grid is too coarse, or ``out`` exists.
    """
    latitude, longitude = grid_coordinates(grid)
    if days < 1:
        raise UserError(f"{days} days cannot be simulated: ask for one or more")
    if processes is None:
        processes = default_processes(_PROCESS_BYTES)
    members = _share(days, processes)
    description = StoreDescription(
        channels=CHANNELS,
        times=np.concatenate([member.times for member in members]),
        latitude=latitude,
        longitude=longitude,
        step_hours=to_hours(_STEP),
        static_channels=STATIC_CHANNELS,
        static=static_fields(grid),
        attributes={
            "sources": [f"simulated Earth: SPEEDY physics at T21, 8 layers (jcm {version('jcm')})"],
            "seed": seed,
            "members": len(members),
            "spin_up_days": spin_up_days,
        },
    )
    writer = StoreWriter.create(out, description)
    missing = writer.missing_blocks()
    wanting = [m for m in members if any(block[0] in m.indices for block in missing)]
    for_each(
        partial(_write_member, out, grid, seed, spin_up_days),
        wanting,
        processes=processes,
        ticks=sum(member.num_states(spin_up_days) for member in wanting),
        progress=progress,
    )
    for member in members:
        _checkpoint_path(out, member).unlink(missing_ok=True)
    training = periods(description.times, train).train
    # Without hours of the day, one part of it serves all.
    write_climatology(out, training, hours=(0,), processes=processes, progress=progress)
    writer.finish(training)
    return Store.open(out)


@dataclass(frozen=True)
class _SimulatedMember:
    """One simulation of several: its number, and where its ``times`` stand among the store's."""

    number: int
    first: int
    times: NDArray[np.datetime64]

    @property
    def indices(self) -> range:
        return range(self.first, self.first + len(self.times))

    def num_states(self, spin_up_days: int) -> int:
        return _spin_up_calls(spin_up_days) * TIMES_PER_BLOCK + len(self.times)


def _share(days: int, processes: int) -> list[_SimulatedMember]:
    """Members of equal length, the last one shorter; none shares a block of the store."""
    blocks = -(-days * _TIMES_PER_DAY // TIMES_PER_BLOCK)
    longest = -(-blocks // processes) * TIMES_PER_BLOCK // _TIMES_PER_DAY
    return [
        _SimulatedMember(
            number=number,
            first=start * _TIMES_PER_DAY,
            times=_member_times(number, min(longest, days - start), longest),
        )
        for number, start in enumerate(range(0, days, longest))
    ]


def _member_times(number: int, days: int, longest: int) -> NDArray[np.datetime64]:
    """Six-hourly times of a member, from a first of January that leaves room for those before."""
    year = _FIRST_YEAR + number * (longest // 365 + 1)
    start = np.datetime64(f"{year}-01-01T00", "s")
    return start + np.arange(days * _TIMES_PER_DAY) * _STEP


def _spin_up_calls(days: int) -> int:
    return -(-days * _TIMES_PER_DAY // TIMES_PER_BLOCK)


def _write_member(
    out: Path,
    grid: tuple[int, int],
    seed: int,
    spin_up_days: int,
    member: _SimulatedMember,
    tick: Tick,
) -> None:
    """Simulate a member, from its checkpoint where it has one, and write its blocks."""
    writer = StoreWriter(out)
    simulation = _Simulation(grid, member.number, seed)
    checkpoint = _checkpoint_path(out, member)
    if checkpoint.exists():
        done = simulation.load(checkpoint)
        for _ in range(_spin_up_calls(spin_up_days) * TIMES_PER_BLOCK + done - member.first):
            tick()
    else:
        done = member.first
        simulation.spin_up(member.times[0], spin_up_days, tick)
    for block in writer.blocks():
        if block[0] not in member.indices or block[0] < done:
            continue
        states = dict(zip(block, simulation.next_states(), strict=False))
        states[block[0] - 1] = simulation.last_state
        for _ in writer.write_block(block, states.__getitem__):
            tick()
        simulation.last_state = states[block[-1]]
        simulation.save(checkpoint, block.stop)


def _checkpoint_path(out: Path, member: _SimulatedMember) -> Path:
    return partial_path(out) / f"member-{member.number}.npz"


class _Simulation:
    """A simulation under way: what it goes on from, and the last state that it wrote."""

    def __init__(self, grid: tuple[int, int], member: int, seed: int) -> None:
        self._planet = _planet(grid)
        self._seed = int(np.random.SeedSequence([seed, member]).generate_state(1)[0] >> 1)
        self._carry: Any = None
        self.last_state = np.empty((len(CHANNELS), *grid), dtype=np.float32)

    def spin_up(self, first: np.datetime64, days: int, tick: Tick) -> None:
        """Simulate ``days`` from rest, to just before the ``first`` time that is wanted."""
        calls = _spin_up_calls(days)
        start = first - (calls * TIMES_PER_BLOCK + 1) * _STEP
        self._carry = self._planet.start(start, self._seed)
        for _ in range(calls):
            self.next_states()
            for _ in range(TIMES_PER_BLOCK):
                tick()

    def next_states(self) -> NDArray[np.float32]:
        """The next ``TIMES_PER_BLOCK`` states, ``(output, channel, latitude, longitude)``."""
        self._carry, states = self._planet.advance(self._carry)
        if not np.isfinite(states).all():
            raise ArithmeticError("the simulated planet became unstable: try another seed")
        return states

    def save(self, path: Path, next_index: int) -> None:
        """Write what the simulation goes on from to a file, whole or not at all."""
        aside = path.with_suffix(".tmp.npz")
        try:
            np.savez(aside, next_index, self.last_state, *self._planet.leaves(self._carry))
            aside.replace(path)
        except OSError as error:
            raise write_error(path.parent, error) from error

    def load(self, path: Path) -> int:
        """Go on from what ``save`` wrote; returns the time index of the next state."""
        self._carry = self._planet.start(np.datetime64(0, "s"), self._seed)
        with np.load(path) as saved:
            next_index, self.last_state, *leaves = (saved[name] for name in saved.files)
        self._carry = self._planet.rebuild(self._carry, leaves)
        return int(next_index)


@lru_cache(maxsize=1)
def _planet(grid: tuple[int, int]) -> PlanetModel:
    """The planet seen on a grid, compiled once in a process for all of its members."""
    return _import_simulation("planet_model").PlanetModel(grid, TIMES_PER_BLOCK)


def _import_simulation(name: str) -> Any:
    """Import a module of this folder that needs jcm; UserError where that is not installed."""
    if "jax" not in sys.modules:
        # Arrays this small are fastest on one thread of a processor; a process for each core.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        os.environ.setdefault(
            "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        )
    try:
        return import_module(f"{__package__}.{name}")
    except ModuleNotFoundError as error:
        raise UserError(
            f"the simulated planet needs {error.name}, which is not installed: "
            "pip install 'weathermixer[planet]'"
        ) from error


def _no_tick() -> None:
    """Take note of nothing: a tick for who does not count."""
