"""Orders of magnitude of the channels, to compare a store with and to make synthetic states from.

Rounded means and standard deviations of ERA5, after those published with the Aurora model (Bodnar
et al. 2025, https://doi.org/10.1038/s41586-025-09005-y). Never used to normalise anything.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from weathermixer.data.channels import LEVELS_HPA, Channel


class Typical(NamedTuple):
    """The ``mean`` of a channel over the globe and the years, and ``std``, in the channel's units.

    ``std`` is the standard deviation.
    """

    mean: float
    std: float


# Each pair of rows: means, then standard deviations, at LEVELS_HPA from the highest level down.
_ON_LEVELS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "geopotential": (
        (1.99e5, 1.58e5, 1.33e5, 1.15e5, 1.01e5, 8.9e4, 7.0e4, 5.4e4, 4.1e4, 2.9e4, 1.37e4, 7e3,
         740.0),
        (5900, 5500, 5800, 5800, 5500, 5100, 4200, 3400, 2700, 2100, 1500, 1200, 1100),
    ),
    "specific_humidity": (
        (2.7e-6, 2.6e-6, 5.3e-6, 1.9e-5, 5.8e-5, 1.3e-4, 3.9e-4, 8.5e-4, 1.5e-3, 2.4e-3, 4.6e-3,
         6e-3, 7e-3),
        (3.6e-7, 5.7e-7, 3.8e-6, 2.3e-5, 7.4e-5, 1.7e-4, 5.1e-4, 1.1e-3, 1.8e-3, 2.5e-3, 4.1e-3,
         5.1e-3, 5.9e-3),
    ),
    "temperature": (
        (212, 208, 213, 218, 223, 229, 242, 253, 261, 267, 275, 277, 281),
        (10, 13, 9, 7, 9, 11, 13, 13, 13, 15, 16, 16, 17),
    ),
    "u_component_of_wind": (
        (5.7, 10, 14, 14, 13, 12, 8.8, 6.6, 4.8, 3.3, 1.4, 0.6, 0),
        (15, 14, 16, 18, 18, 17, 14, 12, 10, 9.2, 8.2, 7.9, 6.1),
    ),
    "v_component_of_wind": (
        (0.0,) * len(LEVELS_HPA),
        (7.1, 7.5, 9.6, 12, 13, 13, 11, 9.2, 7.8, 6.9, 6.3, 6.5, 5.3),
    ),
}  # fmt: skip
_AT_SURFACE = {
    "mean_sea_level_pressure": Typical(1.01e5, 1300.0),
    "10m_u_component_of_wind": Typical(0.0, 5.5),
    "10m_v_component_of_wind": Typical(0.0, 4.8),
    "2m_temperature": Typical(279.0, 21.0),
}


def typical(channel: Channel) -> Typical:
    """Typical values of a prognostic channel; between the usual levels, linear in log pressure."""
    if channel.level_hpa is None:
        return _AT_SURFACE[channel.variable]
    levels, at = np.log(LEVELS_HPA), np.log(channel.level_hpa)
    means, stds = _ON_LEVELS[channel.variable]
    return Typical(float(np.interp(at, levels, means)), float(np.interp(at, levels, stds)))
