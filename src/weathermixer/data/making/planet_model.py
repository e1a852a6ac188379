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
from jcm.physics.speedy.speedy_coords import stratosphere_mask
from jcm.physics.speedy.speedy_terms import speedy_physics
from jcm.physics_interface import compute_physics_step_gridpoint
from numpy.typing import NDArray

from weathermixer.data.channels import LEVELS_HPA
from weathermixer.data.making import vertical
from weathermixer.data.making.planet_boundary import (
    forcing_on,
    gaussian_grid,
    land_fraction,
    layer_centres,
    planet_coordinates,
    surface_geopotential,
    terrain_on,
)
from weathermixer.data.making.planet_numerics import TRUTH, PlanetNumerics
from weathermixer.data.making.vertical_fit import LayerFields, layers_from_levels

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
_OUTPUT_INTERVAL = np.timedelta64(OUTPUT_HOURS, "h")
_HALF_WINDOW = np.timedelta64((_AVERAGED_STEPS - 1) * _STEP_SECONDS // 2, "s")

# So the steps lie half an hour beside the times of states. A forecast, which begins at one, takes
# half a step first: the mean of the state and what a step makes of it, which quiets gravity waves
# too. A whole one leads to the end of the window. The four before them are not taken, and only make
# this six steps, for which the same compiled function serves.
_FIRST_PARTS = np.array([0, 0, 0, 0, 0.5, 1], dtype=np.float32)
_WHOLE_PARTS = np.ones(_STEPS, dtype=np.float32)

# Centred differences of humidity, which falls a thousandfold upward, go below zero near the top,
# and no process of SPEEDY makes up for that: after a year the stratosphere has minus 4e-5. So what
# is negative is filled up; and the layers that SPEEDY calls the stratosphere, the two highest of
# eight, lose, as if by freezing, what then rises into them.
_STRATOSPHERE_HUMIDITY = 3.0e-6  # kg kg⁻¹, as observed
_DRYING_SECONDS = 10 * 86400.0

_REFERENCE_PRESSURE = 1.0e5  # Pa, in which jcm counts surface pressure
_SEA_LEVEL_PRESSURE = 101150.0  # Pa, about the Earth's mean
_STANDARD_TEMPERATURE = 288.15  # K at sea level, standard atmosphere (ISO 2533:1975)
_NEAR_SURFACE_SIGMA = 0.99  # where SPEEDY puts its near-surface air
_NEAR_SURFACE_WIND = 0.95  # ratio of the near-surface wind to the lowest layer's, likewise


class PlanetModel:
    """The planet, seen on a Gaussian grid. Fields of jcm are ``(..., longitude, latitude)``."""

    def __init__(
        self, grid: tuple[int, int], outputs_per_call: int, numerics: PlanetNumerics = TRUTH
    ) -> None:
        """Build the planet seen on ``grid`` (rows × columns); it is compiled when first advanced.

        A call of ``advance`` simulates ``outputs_per_call`` times 6 hours.
        """
        coords = planet_coordinates(numerics.layers)
        diffusion = DiffusionFilter(
            # Of vorticity, temperature and divergence; the order is counted in Laplacians.
            *(numerics.diffusion_hours * 3600, numerics.diffusion_order // 2) * 3,
        )
        self._terrain = terrain_on(coords)
        self._dycore = DinosaurDycore(coords, self._terrain, _STEP_SECONDS, diffusion=diffusion)
        # Checkpoints are for derivatives; nothing here is differentiated.
        self._model = Model(self._dycore, physics=speedy_physics(checkpoint_terms=False))
        self._forcing = forcing_on(coords)
        self._grid = gaussian_grid(grid)
        self._land = land_fraction(self._grid)
        self._surface = surface_geopotential(self._grid, self._terrain, coords)
        self._layers = layer_centres(coords)
        self._num_stratospheric = int(stratosphere_mask(jnp.exp(jnp.asarray(self._layers))).sum())
        self._at_layers = jax.jit(self._from_layers)
        self._go_on = jax.jit(self._output)
        self._advance = jax.jit(
            lambda carry: jax.lax.scan(self._output, carry, None, length=outputs_per_call)
        )

    def start(self, time: np.datetime64, seed: int) -> Carry:
        """Begin at ``time``: isothermal air at rest, with a bump in pressure by ``seed``."""
        # Compiled in one piece: operation by operation, JAX would take several seconds.
        state, memory = jax.jit(self._rest, static_argnums=0)(seed)
        clock = to_datetime(str(time.astype("datetime64[s]") + _HALF_WINDOW))
        carry = state, memory, clock, jnp.int32(0)
        return self._as_arrays(carry)

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

    def begin(self, time: np.datetime64, state: NDArray[np.floating]) -> Carry:
        """Begin a forecast at ``time`` from a state ``(channel, latitude, longitude)``, SI units.

        The carry stands where it does after an output at ``time``: the next one is 6 hours later.
        """
        start = time.astype("datetime64[s]") + _HALF_WINDOW - _OUTPUT_INTERVAL
        carry = *self._analysed(state), to_datetime(str(start)), jnp.int32(0)
        return self._go_on(self._as_arrays(carry), _FIRST_PARTS)[0]

    def forecast(self, carry: Carry) -> tuple[Carry, NDArray[np.float32]]:
        """Go on from what ``begin`` gave for 6 hours: the carry at their end, and the state.

        The state is ``(channel, latitude, longitude)`` in SI units. This is ``advance`` by a single
        output, compiled together with ``begin``.
        """
        carry, state = self._go_on(carry, _WHOLE_PARTS)
        return carry, np.asarray(state)

    def _analysed(self, state: NDArray[np.floating]) -> tuple[Any, Any]:
        """The spectral state that is seen as ``state``, and a new memory of physics."""
        layers = layers_from_levels(state, np.asarray(self._surface).T, self._layers)
        fields = jax.tree.map(lambda field: jnp.asarray(np.swapaxes(field, -1, -2), "f4"), layers)
        return self._at_layers(fields)

    def _from_layers(self, layers: LayerFields) -> tuple[Any, Any]:
        """A spectral state, and a new memory of physics, from ``(..., longitude, latitude)``."""
        to_modal = self._grid.to_modal
        reference = self._dycore.primitive.reference_temperature[:, None, None]
        vorticity, divergence = spherical_harmonic.uv_nodal_to_vor_div_modal(
            self._grid, layers.u_wind, layers.v_wind
        )
        state = self._model.initial_state()
        log_pressure = jnp.log(layers.surface_pressure / _REFERENCE_PRESSURE)
        state = state.replace(
            vorticity=vorticity,
            divergence=divergence,
            temperature_variation=to_modal(layers.temperature - reference),
            log_surface_pressure=to_modal(log_pressure[None]),
            tracers={**state.tracers, "specific_humidity": to_modal(layers.humidity)},
        )
        return state, self._model.initial_physics_carry()

    def leaves(self, carry: Carry) -> list[NDArray[Any]]:
        """The arrays of a carry, in a fixed order, to be written to a file."""
        return [np.asarray(leaf) for leaf in jax.tree.leaves(carry)]

    def rebuild(self, like: Carry, leaves: list[NDArray[Any]]) -> Carry:
        """A carry with the arrays that ``leaves`` gave, in the structure of the carry ``like``."""
        return jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(leaf) for leaf in leaves])

    def _as_arrays(self, carry: Carry) -> Carry:
        """A carry without Python's numbers among its leaves.

        They would be of another type than those that come back from the compiled function, which
        would then be compiled again.
        """
        return self.rebuild(carry, self.leaves(carry))

    def _output(self, carry: Carry, parts: jax.Array | None) -> tuple[Carry, jax.Array]:
        """Simulate six hours: the carry at their end, and channels of the mean state around it.

        ``parts``, where there are any, are the parts of each step that the state is moved on by.
        """

        def one_step(
            carry: tuple[Carry, Any], weight_and_part: tuple[jax.Array, jax.Array | None]
        ) -> tuple[tuple[Carry, Any], None]:
            going, mean = carry
            weight, part = weight_and_part
            old, going = going[0], self._step(going)
            if part is not None:
                moved = jax.tree.map(lambda a, b: a + part * (b - a), old, going[0])
                going = (moved, *going[1:])
            now = going[0].replace(sim_time=None)
            return (going, jax.tree.map(lambda total, x: total + weight * x, mean, now)), None

        weights = np.zeros(_STEPS, dtype=np.float32)
        weights[-_AVERAGED_STEPS:] = 1.0 / _AVERAGED_STEPS
        nothing = jax.tree.map(jnp.zeros_like, carry[0].replace(sim_time=None))
        (carry, mean), _ = jax.lax.scan(one_step, (carry, nothing), (weights, parts))
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
            + _humidity_repair(columns.specific_humidity, self._num_stratospheric)
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

        layers = self._layers
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


def _humidity_repair(humidity: jax.Array, num_stratospheric: int) -> jax.Array:
    """A tendency that repairs ``humidity (layer, longitude, latitude)``, kg kg⁻¹ s⁻¹; see above."""
    filled = jnp.maximum(humidity, 0.0)
    repair = (filled - humidity) / _STEP_SECONDS
    drying = (_STRATOSPHERE_HUMIDITY - filled[:num_stratospheric]) / _DRYING_SECONDS
    return repair.at[:num_stratospheric].add(drying)
