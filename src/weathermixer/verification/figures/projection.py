"""The Equal Earth map projection.

Equal areas on the map are equal areas on the sphere, as they are in the scores.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

# Šavrič, Patterson and Jenny 2019, "The Equal Earth map projection",
# doi:10.1080/13658816.2018.1504949
_A1, _A2, _A3, _A4 = 1.340264, -0.081106, 0.000893, 0.003796


def equal_earth(longitude: Values, latitude: Values) -> tuple[Values, Values]:
    """Project points in degrees to map coordinates x and y, in radii of the sphere.

    Formulas are those of Šavrič, Patterson and Jenny 2019, doi:10.1080/13658816.2018.1504949.
    """
    theta = np.arcsin(np.sqrt(3.0) / 2.0 * np.sin(np.deg2rad(latitude)))
    slope = 9.0 * _A4 * theta**8 + 7.0 * _A3 * theta**6 + 3.0 * _A2 * theta**2 + _A1
    x = 2.0 * np.sqrt(3.0) * np.deg2rad(longitude) * np.cos(theta) / (3.0 * slope)
    y = _A4 * theta**9 + _A3 * theta**7 + _A2 * theta**3 + _A1 * theta
    return x, y
