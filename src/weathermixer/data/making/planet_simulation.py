"""One member of the planet under way: begun from rest, advanced, and continued from a file.

Nothing here imports jcm before a simulation is made; ``planet_model.py`` does.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from weathermixer.data.channels import LEVELS_HPA, PROGNOSTIC_VARIABLES, channels_of, names
from weathermixer.data.making.planet_numerics import TRUTH, PlanetNumerics
from weathermixer.data.partial_files import write_error
from weathermixer.data.store.store_writer import TIMES_PER_BLOCK
from weathermixer.errors import UserError
from weathermixer.worker_processes import Tick

if TYPE_CHECKING:
    from weathermixer.data.making.planet_model import PlanetModel

CHANNELS = names(channels_of(tuple(PROGNOSTIC_VARIABLES), LEVELS_HPA))
STEP = np.timedelta64(6, "h")
TIMES_PER_DAY = 4


class Simulation:
    """A simulation under way: what it goes on from, and the last state that it wrote."""

    def __init__(self, grid: tuple[int, int], member: int, seed: int) -> None:
        self._planet = planet_on(grid, TRUTH)
        self._seed = int(np.random.SeedSequence([seed, member]).generate_state(1)[0] >> 1)
        self._carry: Any = None
        self.last_state = np.empty((len(CHANNELS), *grid), dtype=np.float32)

    def spin_up(self, first: np.datetime64, days: int, tick: Tick) -> None:
        """Simulate ``days`` from rest, to just before the ``first`` time that is wanted."""
        calls = spin_up_calls(days)
        start = first - (calls * TIMES_PER_BLOCK + 1) * STEP
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
def planet_on(grid: tuple[int, int], numerics: PlanetNumerics) -> PlanetModel:
    """The planet seen on a grid, compiled once in a process for all of its members.

    Raises UserError where jcm is not installed.
    """
    return import_simulation("planet_model").PlanetModel(grid, TIMES_PER_BLOCK, numerics)


def import_simulation(name: str) -> Any:
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


def spin_up_calls(days: int) -> int:
    """How many calls of ``Simulation.next_states`` a spin-up of so many days takes."""
    return -(-days * TIMES_PER_DAY // TIMES_PER_BLOCK)
