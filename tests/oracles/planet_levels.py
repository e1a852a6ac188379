"""What is seen on pressure levels of columns of sigma layers, one column at a time in float64.

Temperature is linear in ln p between layers and follows the standard lapse rate below the lowest;
geopotential is its hydrostatic integral from the ground, by trapezia; sea level pressure follows
from temperature at the ground (Trenberth, Berry and Buja 1993, NCAR/TN-396+STR).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GRAVITY, GAS_CONSTANT, LAPSE_RATE = 9.81, 287.04, 0.0065
EXPONENT = GAS_CONSTANT * LAPSE_RATE / GRAVITY
LEVELS_PA = 100.0 * np.array([50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000.0])
NEAR_SURFACE_FIELDS = 3  # winds at 10 m and temperature at 2 m, which no layer is made from

Fields = NDArray[np.float64]


def column_at_levels(
    layer_x: Fields,
    temperature: Fields,
    others: Fields,
    surface_pressure: float,
    surface_geopotential: float,
) -> Fields:
    """The 69 channels of a column, by variable: z, q, t, u, v on levels, msl, and three zeros.

    ``temperature (layer,)``, ``others (3, layer)`` are humidity and winds; ``layer_x`` is ln σ.
    """

    def temperature_at(x: Fields) -> Fields:
        warming = np.exp(EXPONENT * np.maximum(x - layer_x[-1], 0.0))
        return np.interp(x, layer_x, temperature) * warming

    x = np.log(LEVELS_PA / surface_pressure)
    geopotential = []
    for level in x:
        fine = np.linspace(level, 0.0, 20_001)
        thickness = np.trapezoid(temperature_at(fine), fine)
        geopotential.append(surface_geopotential + GAS_CONSTANT * thickness)
    at_ground = temperature_at(np.zeros(1))[0]
    ratio = 1.0 + LAPSE_RATE * surface_geopotential / (GRAVITY * at_ground)
    sea_level_pressure = surface_pressure * ratio ** (1.0 / EXPONENT)
    humidity, u_wind, v_wind = (np.interp(x, layer_x, field) for field in others)
    return np.concatenate(
        [
            *(geopotential, humidity, temperature_at(x), u_wind, v_wind),
            *([sea_level_pressure], np.zeros(NEAR_SURFACE_FIELDS)),
        ]
    )
