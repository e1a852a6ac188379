"""From pressure levels back to sigma layers, against an oracle that goes the other way."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from oracles.planet_levels import GRAVITY, LEVELS_PA, column_at_levels
from weathermixer.data.channels import LEVELS_HPA
from weathermixer.data.making.vertical_fit import LayerFields, layers_from_levels

EIGHT = np.array([0.025, 0.095, 0.2, 0.34, 0.51, 0.685, 0.835, 0.95])
SEVEN = np.array([0.07, 0.2, 0.34, 0.51, 0.685, 0.835, 0.95])
GRID = (4, 10)


def atmosphere(sigma: NDArray[np.float64]) -> tuple[LayerFields, NDArray[np.float64]]:
    """Columns with inversions, jets and dry layers, over ground from a sea trench up to Tibet."""
    random = np.random.default_rng(1)
    height = np.linspace(-200.0, 5000.0, GRID[0] * GRID[1]).reshape(GRID)

    def on_layers(mean: NDArray[np.float64], spread: float) -> NDArray[np.float64]:
        return mean[:, None, None] + random.normal(0.0, spread, (len(sigma), *GRID))

    return LayerFields(
        temperature=on_layers(np.maximum(210.0, 290.0 - 100.0 * (1.0 - sigma)), 5.0),
        humidity=on_layers(0.012 * sigma**3, 0.0005),
        u_wind=on_layers(30.0 * np.sin(np.pi * sigma), 5.0),
        v_wind=on_layers(0.0 * sigma, 5.0),
        surface_pressure=101325.0 * np.exp(-height / 8000.0) * random.uniform(0.97, 1.03, GRID),
    ), GRAVITY * height


def on_levels(
    layers: LayerFields, surface: NDArray[np.float64], sigma: NDArray[np.float64]
) -> NDArray[np.float64]:
    state = np.empty((69, *GRID))
    others = np.stack([layers.humidity, layers.u_wind, layers.v_wind])
    for place in np.ndindex(*GRID):
        column = (slice(None), *place)
        state[column] = column_at_levels(
            np.log(sigma), layers.temperature[column], others[:, *column],
            float(layers.surface_pressure[place]), float(surface[place]),
        )  # fmt: skip
    return state


def test_the_levels_are_those_of_the_oracle() -> None:
    assert (100.0 * np.array(LEVELS_HPA) == LEVELS_PA).all()


def test_layers_that_the_levels_were_made_of_are_found_again() -> None:
    layers, surface = atmosphere(EIGHT)
    found = layers_from_levels(on_levels(layers, surface, EIGHT), surface, np.log(EIGHT).tolist())
    np.testing.assert_allclose(found.surface_pressure, layers.surface_pressure, rtol=1e-10)
    low = surface < GRAVITY * 1500.0
    assert low.any() and not low.all()
    # Plain interpolation, which stands in for what no level sees, moves layers by little of their
    # roughness; over mountains, the highest layer lies above all levels but one.
    for field, exact, roughness in (
        (found.temperature, layers.temperature, 5.0),
        (found.humidity, layers.humidity, 0.0005),
        (found.u_wind, layers.u_wind, 5.0),
        (found.v_wind, layers.v_wind, 5.0),
    ):
        error = (field - exact) / roughness
        assert np.sqrt(np.mean(error[1:, low] ** 2, axis=1)).max() < 0.05
        assert np.sqrt(np.mean(error[:, low] ** 2, axis=1)).max() < 0.2
        assert np.sqrt(np.mean(error[1:] ** 2, axis=(1, 2))).max() < 0.2


@pytest.mark.parametrize(
    ("sigma", "aloft"),
    [
        pytest.param(EIGHT, (1.5, 2e-5, 0.3, 0.3, 0.3), id="as many layers"),
        pytest.param(SEVEN, (30.0, 2e-4, 2.0, 2.5, 2.5), id="a single layer above 150 hPa"),
    ],
)
def test_layers_look_like_the_levels_that_they_were_made_from(
    sigma: NDArray[np.float64], aloft: tuple[float, ...]
) -> None:
    layers, surface = atmosphere(EIGHT)
    state = on_levels(layers, surface, EIGHT)
    found = layers_from_levels(state, surface, np.log(sigma).tolist())
    assert all(field.shape == (len(sigma), *GRID) for field in found[:-1])
    error = np.sqrt(np.mean((on_levels(found, surface, sigma) - state) ** 2, axis=(1, 2)))
    for row, anywhere, below_400 in zip(
        error[:65].reshape(5, 13), aloft, (4.0, 2e-5, 0.3, 0.3, 0.3), strict=True
    ):
        assert row.max() < anywhere
        assert row[6:].max() < below_400
    assert error[65] < 0.5  # Pa at sea level


def test_a_layer_that_no_level_sees_has_what_is_interpolated() -> None:
    """Above 50 hPa everything is as at 50 hPa."""
    state = np.zeros((69, 1, 1))
    heights = np.linspace(2.0e5, 0.0, 13)
    state[:13, 0, 0], state[26:39], state[39:52], state[65] = heights, 250.0, 20.0, 1.0e5
    found = layers_from_levels(state, np.zeros((1, 1)), np.log([0.001, 0.5, 0.95]).tolist())
    np.testing.assert_allclose(found.u_wind[:, 0, 0], 20.0, rtol=1e-6)
