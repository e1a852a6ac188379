from __future__ import annotations

import numpy as np
import pytest

from weathermixer.verification.figures.projection import equal_earth


def test_the_equator_and_the_poles_are_where_equal_earth_puts_them() -> None:
    x, y = equal_earth(np.array([180.0, 0.0, 180.0]), np.array([0.0, 90.0, 90.0]))
    # As published: a pole is 0.59 times as long as the equator, the map 2.05 times as wide as high.
    assert x[1] == 0.0
    assert x[2] / x[0] == pytest.approx(0.59, abs=5e-3)
    assert x[0] / y[1] == pytest.approx(2.05, abs=5e-3)
    assert y[0] == 0.0
    assert y[1] == y[2]
