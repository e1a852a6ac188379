"""From pressure levels to sigma layers: the inverse of ``vertical.py``.

A forecast by the planet's physics begins here, as a forecast centre begins one from another
centre's analysis. What ``vertical.py`` makes of a column's layers is linear in them once surface
pressure is known; the layers are those from which it makes what the levels hold, in the sense of
least squares. From as many layers as the levels were made of, they come back as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from weathermixer.data.channels import LEVELS_HPA, PRESSURE_VARIABLES
from weathermixer.data.making import vertical
from weathermixer.data.making.planet_simulation import CHANNELS

Fields = NDArray[np.float64]

# A kelvin weighs as much as this: what half a kelvin in all layers makes of 500 hPa is 100 m² s⁻².
# Winds are in balance with geopotential, so it weighs more than temperature.
_GEOPOTENTIAL_PER_KELVIN = 30.0  # m² s⁻²
# The weight of plain interpolation beside that of a level. Over mountains, the top layer is hardly
# seen in any level, and would take up all that does not fit elsewhere.
_WEIGHT_OF_INTERPOLATION = 0.1

_LOG_LEVELS = np.log(100.0 * np.asarray(LEVELS_HPA, dtype=np.float64))


class LayerFields(NamedTuple):
    """An atmosphere on sigma layers: fields ``(layer, latitude, longitude)`` in SI units.

    The highest layer comes first; ``surface_pressure (latitude, longitude)``.
    """

    temperature: Fields
    humidity: Fields
    u_wind: Fields
    v_wind: Fields
    surface_pressure: Fields


def layers_from_levels(
    state: NDArray[np.floating],
    surface_geopotential: NDArray[np.floating],
    layer_x: Sequence[float],
) -> LayerFields:
    """The layers at ``layer_x`` (ln σ) that look most like a state on pressure levels.

    ``state (channel, latitude, longitude)`` has the planet's channels; ``surface_geopotential
    (latitude, longitude)`` is of the ground on which the layers are to lie, in m² s⁻².
    """
    num_fields = len(PRESSURE_VARIABLES) * len(LEVELS_HPA)
    exact = np.asarray(state, dtype=np.float64)
    on_levels = exact[:num_fields].reshape(-1, len(LEVELS_HPA), *exact.shape[1:])
    fields = dict(zip(PRESSURE_VARIABLES, on_levels, strict=True))
    sea_level_pressure = exact[CHANNELS.index("mean_sea_level_pressure")]
    surface = np.asarray(surface_geopotential, dtype=np.float64)
    temperature, geopotential = fields["temperature"], fields["geopotential"]
    pressure = surface_pressure(sea_level_pressure, temperature[-1], surface)
    x = _LOG_LEVELS[:, None, None] - np.log(pressure)

    plain = _matrix(lambda layers: vertical.interpolate(layers, layer_x, x, np), layer_x)
    warm = _matrix(lambda layers: vertical.temperature_at(layers, layer_x, x, np), layer_x)
    high = _matrix(lambda layers: vertical.geopotential_at(layers, 0.0, layer_x, x, np), layer_x)

    def fitted(matrix: Fields, levels: Fields, first: Fields) -> Fields:
        return _fit(matrix, levels, _interpolate_levels(first, layer_x, pressure))

    return LayerFields(
        temperature=fitted(
            np.concatenate([warm, high / _GEOPOTENTIAL_PER_KELVIN]),
            np.concatenate([temperature, (geopotential - surface) / _GEOPOTENTIAL_PER_KELVIN]),
            temperature,
        ),
        surface_pressure=pressure,
        **{
            name: fitted(plain, fields[variable], fields[variable])
            for name, variable in (
                ("humidity", "specific_humidity"),
                ("u_wind", "u_component_of_wind"),
                ("v_wind", "v_component_of_wind"),
            )
        },
    )


def surface_pressure(
    sea_level_pressure: Fields, temperature_1000: Fields, surface_geopotential: Fields
) -> Fields:
    """Pressure in Pa at the ground, from that at sea level and temperature in K at 1000 hPa.

    Undoes ``vertical.mean_sea_level_pressure``, exactly where 1000 hPa lies below the lowest layer:
    there temperature rises at the standard lapse rate from the ground through 1000 hPa to the sea.
    """
    exponent = vertical.GAS_CONSTANT * vertical.LAPSE_RATE / vertical.GRAVITY
    at_sea = temperature_1000 * (sea_level_pressure / 1.0e5) ** exponent
    ratio = 1.0 - vertical.LAPSE_RATE * surface_geopotential / (vertical.GRAVITY * at_sea)
    return sea_level_pressure * ratio ** (1.0 / exponent)


def _matrix(function: Callable[[Fields], Fields], layer_x: Sequence[float]) -> Fields:
    """A linear function of a column's layers as ``(level, latitude, longitude, layer)``."""
    return np.stack([function(column) for column in np.eye(len(layer_x))], axis=-1)


def _interpolate_levels(levels: Fields, layer_x: Sequence[float], pressure: Fields) -> Fields:
    """Levels ``(level, latitude, longitude)`` interpolated to layers, linearly in ln p."""
    x = np.asarray(layer_x)[:, None, None] + np.log(pressure)
    return vertical.interpolate(levels, _LOG_LEVELS.tolist(), x, np)


def _fit(matrix: Fields, levels: Fields, first: Fields) -> Fields:
    """Minimise ``|A y − levels|² + w² |y − first|²`` for each column's layers ``y``."""
    misfit = levels - np.einsum("krcl,lrc->krc", matrix, first)
    normal = np.einsum("krcl,krcm->rclm", matrix, matrix)
    normal += _WEIGHT_OF_INTERPOLATION**2 * np.eye(matrix.shape[-1])
    right = np.einsum("krcl,krc->rcl", matrix, misfit)
    change = np.linalg.solve(normal, right[..., None])[..., 0]
    return first + np.moveaxis(change, -1, 0)
