"""A simulated Earth: the source of data that needs no download.

SPEEDY physics over real land, mountains and sea surface temperatures, at T21 with 8 layers (see
``planet_model.py``), every 6 hours on 69 channels. It has storms, jets, trade winds and seasons;
it has no hours of the day, the same sea every year, and a stratosphere of two layers. *Members* are
simulations of their own, each in other years, so that times never collide; they run side by side,
one on each core.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from weathermixer.config import Period
from weathermixer.console import Progress
from weathermixer.data.channels import STATIC_VARIABLES
from weathermixer.data.feeding.periods import periods
from weathermixer.data.making.planet_numerics import TRUTH
from weathermixer.data.making.planet_simulation import (
    CHANNELS,
    STEP,
    TIMES_PER_DAY,
    Simulation,
    import_simulation,
    spin_up_calls,
)
from weathermixer.data.partial_files import partial_path
from weathermixer.data.store.climatology import write_climatology
from weathermixer.data.store.store import Store
from weathermixer.data.store.store_description import StoreDescription
from weathermixer.data.store.store_writer import TIMES_PER_BLOCK, StoreWriter
from weathermixer.data.time_steps import to_hours
from weathermixer.errors import UserError
from weathermixer.worker_processes import Tick, default_processes, for_each

STATIC_CHANNELS = tuple(STATIC_VARIABLES)
SOURCE = "simulated Earth: SPEEDY physics"
SMALLEST_GRID = (32, 64)
SPIN_UP_DAYS = 92  # from rest; winds, rain and the stratosphere settle within 90

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
    return import_simulation("planet_boundary").static_fields(grid)


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
    return _states(Simulation(grid, member, seed), _member_times(member, days, days), spin_up_days)


def _states(
    simulation: Simulation, times: NDArray[np.datetime64], spin_up_days: int
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
        step_hours=to_hours(STEP),
        static_channels=STATIC_CHANNELS,
        static=static_fields(grid),
        attributes={
            "sources": [f"{SOURCE} at T21, {TRUTH.layers} layers (jcm {version('jcm')})"],
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
        return spin_up_calls(spin_up_days) * TIMES_PER_BLOCK + len(self.times)


def _share(days: int, processes: int) -> list[_SimulatedMember]:
    """Members of equal length, the last one shorter; none shares a block of the store."""
    blocks = -(-days * TIMES_PER_DAY // TIMES_PER_BLOCK)
    longest = -(-blocks // processes) * TIMES_PER_BLOCK // TIMES_PER_DAY
    return [
        _SimulatedMember(
            number=number,
            first=start * TIMES_PER_DAY,
            times=_member_times(number, min(longest, days - start), longest),
        )
        for number, start in enumerate(range(0, days, longest))
    ]


def _member_times(number: int, days: int, longest: int) -> NDArray[np.datetime64]:
    """Six-hourly times of a member, from a first of January that leaves room for those before."""
    year = _FIRST_YEAR + number * (longest // 365 + 1)
    start = np.datetime64(f"{year}-01-01T00", "s")
    return start + np.arange(days * TIMES_PER_DAY) * STEP


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
    simulation = Simulation(grid, member.number, seed)
    checkpoint = _checkpoint_path(out, member)
    if checkpoint.exists():
        done = simulation.load(checkpoint)
        for _ in range(spin_up_calls(spin_up_days) * TIMES_PER_BLOCK + done - member.first):
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


def _no_tick() -> None:
    """Take note of nothing: a tick for who does not count."""
