from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from oracles import scores as oracle
from support.planets import LATITUDES
from weathermixer.data.grid import Grid
from weathermixer.verification.regions import BOUNDS, Regions
from weathermixer.verification.spectrum import EARTH_RADIUS_M, ZonalSpectrum

LATITUDE = LATITUDES["without poles"]


def _spectrum(latitude: NDArray[np.float64], num_columns: int) -> ZonalSpectrum:
    grid = Grid(latitude, np.arange(num_columns) * 360.0 / num_columns)
    return ZonalSpectrum.of(grid, Regions.of(grid))


def _state(num_columns: int, num_channels: int = 2) -> NDArray[np.float32]:
    random = np.random.default_rng(7)
    return (280.0 + 8.0 * random.normal(size=(num_channels, 5, num_columns))).astype(np.float32)


@pytest.mark.parametrize("num_columns", [6, 7])
@pytest.mark.parametrize("latitude", LATITUDES.values(), ids=LATITUDES)
def test_spectra_equal_their_definition_in_every_region(
    latitude: NDArray[np.float64], num_columns: int
) -> None:
    state = _state(num_columns)
    spectrum = _spectrum(latitude, num_columns)
    result = spectrum(state)
    assert result.shape == (len(spectrum.regions.names), num_columns // 2 + 1, 2)
    for region, name in zip(result, spectrum.regions.names, strict=True):
        for channel in range(2):
            expected = oracle.spectrum(state[channel][None], latitude, BOUNDS[name])
            np.testing.assert_allclose(region[:, channel], expected, rtol=1e-10, atol=1e-6)


@pytest.mark.parametrize("num_columns", [6, 7, 64, 65])
def test_energy_adds_up_to_the_variance_and_the_square_of_the_mean(num_columns: int) -> None:
    """Parseval's relation, circle by circle, in float64."""
    state = _state(num_columns)
    for row, latitude in enumerate(LATITUDE):
        alone = np.array([latitude])
        (globe, *_) = _spectrum(alone, num_columns)(state[:, row : row + 1])
        circumference = 2 * np.pi * EARTH_RADIUS_M * np.cos(np.deg2rad(latitude))
        values = state[:, row].astype(np.float64)
        np.testing.assert_allclose(globe[0], circumference * values.mean(axis=-1) ** 2, rtol=1e-12)
        np.testing.assert_allclose(
            globe[1:].sum(axis=0), circumference * values.var(axis=-1), rtol=1e-12
        )


def test_a_single_wave_has_energy_at_its_wavenumber_alone() -> None:
    longitude = np.deg2rad(np.arange(64.0) * 360.0 / 64)
    state = np.broadcast_to(3.0 * np.cos(5 * longitude + 0.3), (1, 5, 64))
    (globe, *_) = _spectrum(LATITUDE, 64)(state)[..., 0]
    cosines = np.cos(np.deg2rad(LATITUDE))
    length = oracle.row_mean(2 * np.pi * EARTH_RADIUS_M * cosines, LATITUDE, oracle.GLOBE)
    assert globe[5] == pytest.approx(length * 9.0 / 2.0)
    assert np.delete(globe, 5).max() < 1e-20 * globe[5]


def test_where_longitudes_begin_and_which_way_rows_run_makes_no_difference() -> None:
    state = _state(12)
    expected = _spectrum(LATITUDE, 12)(state)
    np.testing.assert_allclose(
        _spectrum(LATITUDE, 12)(np.roll(state, 5, axis=-1)), expected, rtol=1e-9, atol=1e-6
    )
    turned = _spectrum(LATITUDE[::-1], 12)(state[:, ::-1])
    np.testing.assert_allclose(turned, expected, rtol=1e-12)


def test_columns_that_run_westward_have_the_same_spectra() -> None:
    state = _state(12)
    westward = Grid(LATITUDE, 330.0 - np.arange(12.0) * 30.0)
    spectrum = ZonalSpectrum.of(westward, Regions.of(westward))
    expected = _spectrum(LATITUDE, 12)(state)
    np.testing.assert_allclose(spectrum(state[:, :, ::-1]), expected, rtol=1e-9, atol=1e-6)


def test_a_band_round_the_globe_has_spectra_and_a_box_has_none() -> None:
    band = Grid(np.array([30.0, 35.0, 40.0]), np.arange(12.0) * 30.0)
    assert ZonalSpectrum.of(band, Regions.of(band)).num_wavenumbers == 7
    box = Grid(band.latitude, np.arange(12.0) * 5.0)
    assert ZonalSpectrum.of(box, Regions.of(box)).num_wavenumbers == 0


def test_large_grids_are_taken_in_blocks_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = _state(12, num_channels=3)
    expected = _spectrum(LATITUDE, 12)(state)
    monkeypatch.setattr("weathermixer.verification.spectrum._VALUES_PER_BLOCK", 1)
    np.testing.assert_allclose(_spectrum(LATITUDE, 12)(state), expected, rtol=1e-12)


def test_longitudes_without_even_steps_have_no_wavenumbers() -> None:
    grid = Grid(LATITUDE, np.array([0.0, 10.0, 30.0, 200.0]))
    spectrum = ZonalSpectrum.of(grid, Regions.of(grid))
    assert spectrum.num_wavenumbers == 0
    assert spectrum(_state(4)).shape == (len(spectrum.regions.names), 0, 2)
