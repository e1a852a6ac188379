"""The planet itself: SPEEDY physics on a spectral dynamical core, as one compiled function.

SPEEDY (F. Molteni 2003, Climate Dynamics 20, 175–191) is a physics package of intermediate
complexity: convection, clouds, radiation with seasons but without hours, surface fluxes over
prescribed, monthly sea and land surface temperatures. ``jcm`` has it in JAX, on the primitive
equations of ``dinosaur``. This module and ``planet_boundary.py`` alone import them, and need the
extra ``planet``.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import jax_datetime as jdt  # type: ignore[import-untyped]
import numpy as np
from dinosaur import spherical_harmonic
from jcm.date import DateData, to_datetime
from jcm.diffusion import DiffusionFilter
from jcm.dycore.dinosaur.dycore import DinosaurDycore
from jcm.model import Model
from jcm.physics.speedy.speedy_terms import speedy_physics
from jcm.physics_interface import compute_physics_step_gridpoint
from numpy.typing import NDArray

from weathermixer.data.channels import LEVELS_HPA
from weathermixer.data.making import vertical
from weathermixer.data.making.planet_boundary import (
    forcing_on,
    gaussian_grid,
    land_fraction,
    planet_coordinates,
    surface_geopotential,
    terrain_on,
)

Carry = Any
"""Everything that the simulation goes on from: a pytree of arrays."""

OUTPUT_HOURS = 6

# Physics at steps of an hour kicks gravity waves of 3 to 6 hours, which nobody could forecast at
# steps of six: about 24 m² s⁻² in geopotential at 500 hPa (16 at steps of half an hour, for twice
# the time). A state is therefore the mean of the four hourly ones around its time, from 1.5 hours
# before to 1.5 after. That leaves 9 m² s⁻², and 99.5 % of the six-hourly changes of wind.
_STEP_SECONDS = 3600
_STEPS = OUTPUT_HOURS * 3600 // _STEP_SECONDS
_AVERAGED_STEPS = 4
_HALF_WINDOW = np.timedelta64((_AVERAGED_STEPS - 1) * _STEP_SECONDS // 2, "s")

# jcm's own diffusion, of second and fourth order, damps the storms too at this resolution; eighth
# order spares all but the smallest scales.
_DIFFUSION_ORDER = 4  # of the Laplacian
_DIFFUSION_SECONDS = 2.4 * 3600

# Centred differences of humidity, which falls a thousandfold upward, go below zero near the top,
# and no process of SPEEDY makes up for that: after a year the stratosphere has minus 4e-5. So what
# is negative is filled up; and the two layers that SPEEDY calls the stratosphere lose, as if by
# freezing, what then rises into them.
_STRATOSPHERE_LAYERS = 2
_STRATOSPHERE_HUMIDITY = 3.0e-6  # kg kg⁻¹, as observed
_DRYING_SECONDS = 10 * 86400.0

_REFERENCE_PRESSURE = 1.0e5  # Pa, in which jcm counts surface pressure
_SEA_LEVEL_PRESSURE = 101150.0  # Pa, about the Earth's mean
_STANDARD_TEMPERATURE = 288.15  # K at sea level, standard atmosphere (ISO 2533:1975)
_NEAR_SURFACE_SIGMA = 0.99  # where SPEEDY puts its near-surface air
_NEAR_SURFACE_WIND = 0.95  # ratio of the near-surface wind to the lowest layer's, likewise


class PlanetModel:
    """The planet, seen on a Gaussian grid. Fields of jcm are ``(..., longitude, latitude)``."""

    def __init__(self, grid: tuple[int, int], outputs_per_call: int) -> None:
        """Build the planet seen on ``grid`` (rows × columns); it is compiled when first advanced.

        A call of ``advance`` simulates ``outputs_per_call`` times 6 hours.
        """
        coords = planet_coordinates()
        diffusion = DiffusionFilter(
            *(_DIFFUSION_SECONDS, _DIFFUSION_ORDER) * 3,  # vorticity, temperature, divergence
        )
        self._terrain = terrain_on(coords)
        self._dycore = DinosaurDycore(coords, self._terrain, _STEP_SECONDS, diffusion=diffusion)
        # Checkpoints are for derivatives; nothing here is differentiated.
        self._model = Model(self._dycore, physics=speedy_physics(checkpoint_terms=False))
        self._forcing = forcing_on(coords)
        self._grid = gaussian_grid(grid)
        self._land = land_fraction(self._grid)
        self._surface = surface_geopotential(self._grid, self._terrain, coords)
        self._advance = jax.jit(
            lambda carry: jax.lax.scan(self._output, carry, None, length=outputs_per_call)
        )

    def start(self, time: np.datetime64, seed: int) -> Carry:
        """Begin at ``time``: isothermal air at rest, with a bump in pressure by ``seed``."""
        # Compiled in one piece: operation by operation, JAX would take several seconds.
        state, memory = jax.jit(self._rest, static_argnums=0)(seed)
        clock = to_datetime(str(time.astype("datetime64[s]") + _HALF_WINDOW))
        carry = state, memory, clock, jnp.int32(0)
        # Python's numbers among the leaves would be of another type than those that come back from
        # the compiled function, which would then be compiled again.
        return self.rebuild(carry, self.leaves(carry))

    def _rest(self, seed: int) -> tuple[Any, Any]:
        """The spectral state at the start, and what the physics remembers between steps.

        The air has the Earth's mass: pressure falls up the mountains as in the standard atmosphere.
        jcm's own start has sea level pressure on top of them, 18 hPa too much in all.
        """
        state = self._model.initial_state(random_seed=seed)
        horizontal = self._dycore.coords.horizontal
        height = horizontal.to_nodal(self._dycore.primitive.orography)
        fall = jnp.log(1.0 - vertical.LAPSE_RATE * height / _STANDARD_TEMPERATURE)
        fall *= vertical.GRAVITY / (vertical.GAS_CONSTANT * vertical.LAPSE_RATE)
        log_pressure = fall + np.log(_SEA_LEVEL_PRESSURE / _REFERENCE_PRESSURE)
        state = state.replace(
            log_surface_pressure=state.log_surface_pressure + horizontal.to_modal(log_pressure)
        )
        return state, self._model.initial_physics_carry()

    def advance(self, carry: Carry) -> tuple[Carry, NDArray[np.float32]]:
        """Simulate ``outputs_per_call`` times 6 hours: the carry at their end, and the states.

        States are ``(output, channel, latitude, longitude)`` in SI units, one every 6 hours, the
        first 6 hours after the carry's own time.
        """
        carry, states = self._advance(carry)
        return carry, np.asarray(states)

    def leaves(self, carry: Carry) -> list[NDArray[Any]]:
        """The arrays of a carry, in a fixed order, to be written to a file."""
        return [np.asarray(leaf) for leaf in jax.tree.leaves(carry)]

    def rebuild(self, like: Carry, leaves: list[NDArray[Any]]) -> Carry:
        """A carry with the arrays that ``leaves`` gave, in the structure of the carry ``like``."""
        return jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(leaf) for leaf in leaves])

    def _output(self, carry: Carry, _: None) -> tuple[Carry, jax.Array]:
        """Simulate six hours: the carry at their end, and channels of the mean state around it."""

        def one_step(carry: tuple[Carry, Any], weight: jax.Array) -> tuple[tuple[Carry, Any], None]:
            going, mean = carry
            going = self._step(going)
            now = going[0].replace(sim_time=None)
            return (going, jax.tree.map(lambda total, x: total + weight * x, mean, now)), None

        weights = np.zeros(_STEPS, dtype=np.float32)
        weights[-_AVERAGED_STEPS:] = 1.0 / _AVERAGED_STEPS
        nothing = jax.tree.map(jnp.zeros_like, carry[0].replace(sim_time=None))
        (carry, mean), _ = jax.lax.scan(one_step, (carry, nothing), weights)
        return carry, self._channels(mean)

    def _step(self, carry: Carry) -> Carry:
        """Take a time step: physics in the columns, then dynamics from there (Lie splitting)."""
        state, memory, clock, count = carry
        columns = self._dycore.to_physics_state(state)
        tendency, memory = compute_physics_step_gridpoint(
            columns,
            self._forcing.select(DateData(clock, count, _STEP_SECONDS)),
            self._terrain,
            memory,
            physics=self._model.physics,
            time_step=float(_STEP_SECONDS),
        )
        tendency = tendency.copy(
            specific_humidity=tendency.specific_humidity
            + _humidity_repair(columns.specific_humidity)
        )
        clock = clock + jdt.Timedelta(seconds=jnp.int32(_STEP_SECONDS))
        return self._dycore.step(state, tendency), memory, clock, count + 1

    def _channels(self, state: Any) -> jax.Array:
        """The 69 channels ``(channel, latitude, longitude)`` of a spectral state.

        Evaluating the harmonics gives the same planet on any grid. Humidity keeps the small
        negative values that a truncated series has, as reanalyses do: clipping would lose some of
        what the next states grow from.
        """
        to_nodal = self._grid.to_nodal
        reference = self._dycore.primitive.reference_temperature[:, None, None]
        temperature = to_nodal(state.temperature_variation) + reference
        humidity = to_nodal(state.tracers["specific_humidity"])
        winds = spherical_harmonic.vor_div_to_uv_nodal(
            self._grid, state.vorticity, state.divergence
        )
        pressure = _REFERENCE_PRESSURE * jnp.exp(to_nodal(state.log_surface_pressure))[0]
        surface = self._surface

        layers = self._layers()
        levels = jnp.log(100.0 * jnp.asarray(LEVELS_HPA, jnp.float32))
        x = levels[:, None, None] - jnp.log(pressure)
        near_surface = [
            vertical.mean_sea_level_pressure(temperature, surface, pressure, layers),
            *(_NEAR_SURFACE_WIND * wind[-1] for wind in winds),
            self._near_surface_temperature(temperature, surface, layers),
        ]
        fields = [
            vertical.geopotential_at(temperature, surface, layers, x, jnp),
            vertical.interpolate(humidity, layers, x, jnp),
            vertical.temperature_at(temperature, layers, x, jnp),
            *(vertical.interpolate(wind, layers, x, jnp) for wind in winds),
            jnp.stack(near_surface),
        ]
        return jnp.swapaxes(jnp.concatenate(fields), -1, -2)

    def _layers(self) -> list[float]:
        """``ln σ`` of the layers' centres, highest layer first."""
        bounds = np.asarray(self._dycore.coords.vertical.boundaries, dtype=np.float64)
        centres = (bounds[1:] + bounds[:-1]) / 2
        assert (np.diff(centres) > 0).all()
        return [float(centre) for centre in np.log(centres)]

    def _near_surface_temperature(
        self, temperature: jax.Array, surface: jax.Array, layers: list[float]
    ) -> jax.Array:
        """SPEEDY's own near-surface air temperature, K (``suflux.f90``; jcm's ``t0``).

        The lapse rate of the two lowest layers is continued, where temperature falls with height;
        over land to the ground, over sea on to sea level, in the proportion of the two.
        """
        below, above = layers[-1], layers[-2]
        share = (np.log(_NEAR_SURFACE_SIGMA) - below) / (below - above)
        excess = share * jnp.maximum(temperature[-1] - temperature[-2], 0.0)
        to_sea = -surface * excess / (vertical.GAS_CONSTANT * 288.0 * below)
        return temperature[-1] + excess + (1.0 - self._land) * to_sea


def _humidity_repair(humidity: jax.Array) -> jax.Array:
    """A tendency that repairs ``humidity (layer, longitude, latitude)``, kg kg⁻¹ s⁻¹; see above."""
    filled = jnp.maximum(humidity, 0.0)
    repair = (filled - humidity) / _STEP_SECONDS
    drying = (_STRATOSPHERE_HUMIDITY - filled[:_STRATOSPHERE_LAYERS]) / _DRYING_SECONDS
    return repair.at[:_STRATOSPHERE_LAYERS].add(drying)
