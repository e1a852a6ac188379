"""From the planet's sigma layers to pressure levels and to the sea.

One temperature profile per column serves everything, so that geopotential, temperature and mean
sea level pressure of a column always agree hydrostatically: temperature is linear in ``ln p``
between layers, isothermal above the highest, and rises at the standard lapse rate below the
lowest, into the ground where a level lies there. Every formula is continuous in ``x = ln(p/pₛ)``
and holds for all columns alike: no level jumps from one rule to another when surface pressure
changes, which a forecast model would have to learn as noise.

Written against an array module ``xp`` (``numpy`` or ``jax.numpy``), because it runs inside the
compiled simulation. Shapes: fields on layers ``(layer, ...)``, highest layer first; ``x`` of the
wanted levels ``(level, ...)``; ``layer_x (layer,)``, increasing, all negative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

Array = Any  # numpy.ndarray or jax.Array

GRAVITY = 9.81  # m s⁻², the value in the planet's dynamics
GAS_CONSTANT = 287.04  # J kg⁻¹ K⁻¹, of dry air, likewise
LAPSE_RATE = 0.0065  # K m⁻¹, of the standard atmosphere (ISO 2533:1975)

# d ln T / d ln p below the lowest layer: hydrostatic balance at a constant dT/dz.
_LAPSE_EXPONENT = GAS_CONSTANT * LAPSE_RATE / GRAVITY


def interpolate(field: Array, layer_x: Sequence[float], x: Array, xp: ModuleType) -> Array:
    """Interpolate ``field (layer, ...)`` linearly to ``x (level, ...)``; constant beyond layers."""
    result = field[0] + xp.zeros_like(x)
    for upper in range(len(layer_x) - 1):
        width = layer_x[upper + 1] - layer_x[upper]
        share = xp.clip((x - layer_x[upper]) / width, 0.0, 1.0)
        result = result + share * (field[upper + 1] - field[upper])
    return result


def temperature_at(temperature: Array, layer_x: Sequence[float], x: Array, xp: ModuleType) -> Array:
    """Temperature in K at ``x (level, ...)``, below the lowest layer at the standard lapse rate."""
    depth = xp.maximum(x - layer_x[-1], 0.0)
    return interpolate(temperature, layer_x, x, xp) * xp.exp(_LAPSE_EXPONENT * depth)


def geopotential_at(
    temperature: Array,
    surface_geopotential: Array,
    layer_x: Sequence[float],
    x: Array,
    xp: ModuleType,
) -> Array:
    """Geopotential in m² s⁻² at ``x (level, ...)``.

    ``Φ(x) = Φₛ + R ∫ₓ⁰ T dx'`` with the temperature of ``temperature_at``, integrated exactly. At
    the layers' own centres it is the geopotential that the dynamics use (which take the lowest half
    layer as isothermal), up to an offset of about 20 m² s⁻² that varies by 0.07 per kelvin. The air
    is dry, as in the dynamics: winds are in balance with this geopotential, not with one of
    virtual temperature.
    """
    bottom = layer_x[-1]
    depth = xp.maximum(x - bottom, 0.0)
    integral = (
        temperature[-1]
        * (math.exp(-_LAPSE_EXPONENT * bottom) - xp.exp(_LAPSE_EXPONENT * depth))
        / _LAPSE_EXPONENT
    )
    for upper in range(len(layer_x) - 1):
        width = layer_x[upper + 1] - layer_x[upper]
        share = xp.clip((x - layer_x[upper]) / width, 0.0, 1.0)
        integral = integral + 0.5 * width * (
            temperature[upper] * (1.0 - share) ** 2 + temperature[upper + 1] * (1.0 - share**2)
        )
    integral = integral + temperature[0] * xp.maximum(layer_x[0] - x, 0.0)
    return surface_geopotential + GAS_CONSTANT * integral


def mean_sea_level_pressure(
    temperature: Array,
    surface_geopotential: Array,
    surface_pressure: Array,
    layer_x: Sequence[float],
) -> Array:
    """Pressure in Pa where ``geopotential_at`` is zero; ``temperature (layer, ...)`` in K.

    ``pₛ (1 + ΓΦₛ/(g T*))^(g/RΓ)``, with ``T*`` the temperature of the profile at the surface
    (Trenberth, Berry and Buja 1993, NCAR/TN-396+STR, without their cases for hot and cold
    plateaus: each would be a kink in time).
    """
    at_surface = temperature[-1] * math.exp(-_LAPSE_EXPONENT * layer_x[-1])
    ratio = 1.0 + LAPSE_RATE * surface_geopotential / (GRAVITY * at_surface)
    return surface_pressure * ratio ** (1.0 / _LAPSE_EXPONENT)
