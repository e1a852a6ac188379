"""How the planet's equations are solved: the layers and the diffusion of a simulation.

The truth's own are the defaults; a forecast of the planet by its own physics takes others. Nothing
here needs jcm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from weathermixer.errors import UserError

# SPEEDY's convection needs the fewest; with more, thin layers at the ground need shorter steps.
_FEWEST_LAYERS, _MOST_LAYERS = 5, 8
_ORDERS = (2, 4, 6, 8)


@dataclass(frozen=True)
class PlanetNumerics:
    """Number of sigma layers, and the diffusion of vorticity, divergence and temperature.

    ``diffusion_order`` is that of the derivative (2, 4, 6 or 8), ``diffusion_hours`` the time in
    which the smallest scale falls to 1/e. jcm's default, of second and fourth order, damps the
    storms too at this resolution; eighth order spares all but the smallest scales.

    Raises UserError where the planet cannot be computed so.
    """

    layers: int = 8
    diffusion_order: int = 8
    diffusion_hours: float = 2.4

    def __post_init__(self) -> None:
        if not _FEWEST_LAYERS <= self.layers <= _MOST_LAYERS:
            raise UserError(
                f"the planet's physics cannot be computed in {self.layers} layers: choose "
                f"{_FEWEST_LAYERS} to {_MOST_LAYERS}; the truth has {_MOST_LAYERS}"
            )
        if self.diffusion_order not in _ORDERS:
            raise UserError(
                f"diffusion of order {self.diffusion_order} is impossible: "
                f"choose {', '.join(map(str, _ORDERS[:-1]))} or {_ORDERS[-1]}"
            )
        if not (math.isfinite(self.diffusion_hours) and self.diffusion_hours > 0):
            raise UserError(
                f"diffusion in {self.diffusion_hours:g} hours is impossible: choose a time "
                "above zero"
            )


TRUTH = PlanetNumerics()
"""How the planet itself is simulated."""

IMPERFECT = PlanetNumerics(layers=7, diffusion_order=4, diffusion_hours=12.0)
"""The model of a forecast, with other layers and another diffusion than the truth's."""

ANALYSIS_ERROR = 0.25
"""Size of a forecast's analysis error, in six-hourly standard deviations of each channel."""
