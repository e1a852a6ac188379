"""Synthetic waves: exact at any time, plausible, and travelling as Rossby–Haurwitz waves do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from weathermixer.data.channels import (
    LEVELS_HPA,
    PROGNOSTIC_VARIABLES,
    STATIC_VARIABLES,
    Channel,
    channels_of,
    implausibility,
    names,
    parse_channel,
)
from weathermixer.data.making.synthetic import (
    angular_speed,
    exact_state,
    grid_coordinates,
    normalised_legendre,
    write_synthetic,
)
from weathermixer.data.statistics import cell_area_weights
from weathermixer.errors import UserError

ALL = names(channels_of(list(PROGNOSTIC_VARIABLES), LEVELS_HPA))
START = np.datetime64("2000-01-01", "s")


def test_states_of_a_store_are_the_exact_ones_on_any_number_of_processes(tmp_path: Path) -> None:
    grid = grid_coordinates((9, 16))
    for processes in (1, 2):
        path = tmp_path / f"{processes}.zarr"
        store = write_synthetic(path, times=20, grid=(9, 16), seed=3, processes=processes)
        assert store.channels == ALL
        assert store.static_channels == tuple(STATIC_VARIABLES)
        for index in (0, 7, 19):
            exact = exact_state(store.times[index], ALL, grid.latitude, grid.longitude, seed=3)
            np.testing.assert_array_equal(store.read(index), exact)
    assert store.attributes["dropped_row"] == "latitude -90"
    assert store.has_climatology
    assert store.has_statistics


@pytest.mark.parametrize("seed", range(4))
def test_every_field_is_plausible_at_every_time(seed: int) -> None:
    grid = grid_coordinates((45, 90))
    for day in (0, 40, 8000):
        state = exact_state(
            START + np.timedelta64(day, "D"), ALL, grid.latitude, grid.longitude, seed
        )
        for name, field in zip(ALL, state, strict=True):
            assert implausibility(parse_channel(name), field) is None, name


def test_static_fields_are_plausible(tmp_path: Path) -> None:
    store = write_synthetic(tmp_path / "a.zarr", times=2, grid=(32, 64), levels=(500,))
    for name, field in zip(
        store.static_channels, store.read_static(store.static_channels), strict=True
    ):
        assert implausibility(Channel(name), field) is None
        assert field.std() > 0


def test_channels_differ_and_do_not_depend_on_which_are_written() -> None:
    grid = grid_coordinates((16, 32))
    whole = exact_state(START, ALL, grid.latitude, grid.longitude)
    alone = exact_state(START, ALL[40:42], grid.latitude, grid.longitude)
    np.testing.assert_array_equal(whole[40:42], alone)
    anomaly = (alone - alone.mean(axis=(1, 2), keepdims=True)).reshape(2, -1)
    assert abs(np.corrcoef(anomaly)[0, 1]) < 0.9


@pytest.mark.parametrize("degree", range(2, 11))
def test_waves_travel_at_the_speed_of_the_linear_vorticity_equation(degree: int) -> None:
    """∂ζ/∂t = −α ∂ζ/∂λ − 2 (Ω + α) ∂ψ/∂λ with ζ = −n (n + 1) ψ, for ψ = cos(λ − c t)."""
    omega, alpha = 7.292e-5, 1.6e-6
    laplacian = -degree * (degree + 1)
    # At a zero of ψ where ∂ψ/∂λ = −1, so ∂ψ/∂t = c.
    speed = (alpha * laplacian + 2 * (omega + alpha)) / laplacian
    assert angular_speed(degree) == pytest.approx(speed, rel=1e-12)


@given(st.integers(0, 12), st.data())
def test_legendre_functions_are_scipys_with_mean_square_one(
    degree: int, data: st.DataObject
) -> None:
    order = data.draw(st.integers(0, degree))
    latitude = np.linspace(-90, 90, 61)
    ours = normalised_legendre(degree, order, np.sin(np.deg2rad(latitude)))
    theirs = scipy.special.sph_harm_y(degree, order, np.deg2rad(90 - latitude), 0.0).real
    theirs *= np.sqrt(4 * np.pi) * (-1.0) ** order * (np.sqrt(2) if order else 1.0)
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_typical_spread_is_reached() -> None:
    grid = grid_coordinates((90, 180))
    field = exact_state(START, ["temperature_500"], grid.latitude, grid.longitude)[0]
    weights = cell_area_weights(grid.latitude)
    mean = weights @ field.mean(axis=1)
    std = np.sqrt(weights @ np.square(field - mean).mean(axis=1))
    assert mean == pytest.approx(253, abs=1)
    assert 8 < std < 18


@pytest.mark.parametrize(("rows", "kept", "first"), [(181, 180, 90.0), (32, 32, 87.1875)])
def test_odd_grids_have_poles_and_lose_the_southern_one(rows: int, kept: int, first: float) -> None:
    grid = grid_coordinates((rows, 64))
    assert len(grid.latitude) == kept
    assert grid.latitude[0] == first
    assert grid.dropped_row == (rows % 2 == 1)
    assert grid.latitude.min() > -90
    np.testing.assert_allclose(np.diff(grid.longitude), 5.625)


def test_existing_store_is_not_overwritten(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "a.zarr", times=2, grid=(8, 16), levels=(500,))
    with pytest.raises(UserError, match="exists already"):
        write_synthetic(tmp_path / "a.zarr", times=2, grid=(8, 16), levels=(500,))
