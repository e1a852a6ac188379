"""The simulated Earth: its way from sigma layers to channels, and a few of its days."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from weathermixer.data.channels import implausibility, parse_channel
from weathermixer.data.making import planet, planet_simulation, vertical
from weathermixer.data.making.planet import grid_coordinates, simulate, static_fields, write_planet
from weathermixer.data.statistics import cell_area_weights
from weathermixer.data.store.store_writer import TIMES_PER_BLOCK
from weathermixer.errors import UserError

SIGMA = np.array([0.025, 0.095, 0.2, 0.34, 0.51, 0.685, 0.835, 0.95])
LAYERS = np.log(SIGMA).tolist()
LEVELS_PA = 100.0 * np.array([50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000.0])
GRID = (32, 64)


def columns(count: int, seed: int = 0) -> tuple[Any, Any, Any]:
    """Rough, random columns: temperature ``(layer, column)``, surface pressure, geopotential."""
    random = np.random.default_rng(seed)
    temperature = 220.0 + 70.0 * SIGMA[:, None] + random.normal(0.0, 8.0, (len(SIGMA), count))
    height = random.uniform(-300.0, 5000.0, count)
    pressure = 101325.0 * np.exp(-height / 8000.0) * random.uniform(0.95, 1.05, count)
    return temperature, pressure, vertical.GRAVITY * height


def standard_temperature(pressure: Any) -> Any:
    """ISO 2533:1975 up to 11 km, with the planet's gravity and gas constant."""
    exponent = vertical.GAS_CONSTANT * 0.0065 / vertical.GRAVITY
    return 288.15 * (pressure / 101325.0) ** exponent


def test_interpolation_is_linear_in_log_pressure_and_constant_beyond() -> None:
    temperature, pressure, _ = columns(20)
    x = np.log(LEVELS_PA)[:, None] - np.log(pressure)
    found = vertical.interpolate(temperature, LAYERS, x, np)
    for column in range(20):
        expected = np.interp(x[:, column], LAYERS, temperature[:, column])
        np.testing.assert_allclose(found[:, column], expected, rtol=1e-13)


def test_geopotential_is_the_hydrostatic_integral_of_the_temperature() -> None:
    temperature, pressure, surface = columns(40)
    x = np.log(LEVELS_PA)[:, None] - np.log(pressure)
    found = vertical.geopotential_at(temperature, surface, LAYERS, x, np)
    # Trapezia from the surface to each level, in steps of about a ten-thousandth of ln p.
    for level in range(len(LEVELS_PA)):
        fine = np.linspace(0.0, x[level], 40_001)
        profile = vertical.temperature_at(temperature, LAYERS, fine, np)
        integral = -np.trapezoid(profile, fine, axis=0)
        expected = surface + vertical.GAS_CONSTANT * integral
        np.testing.assert_allclose(found[level], expected, atol=0.02)


def test_an_isothermal_column_has_the_textbook_thickness() -> None:
    temperature = np.full((len(SIGMA), 1), 250.0)
    x = np.log(np.array([[50000.0], [25000.0]]) / 101325.0)
    lower, upper = vertical.geopotential_at(temperature, np.zeros(1), LAYERS, x, np)[:, 0]
    assert upper - lower == pytest.approx(vertical.GAS_CONSTANT * 250.0 * np.log(2.0), rel=1e-12)


@pytest.mark.parametrize("height", [-400.0, 0.0, 1200.0, 4800.0])
def test_the_standard_atmosphere_is_found_again_on_levels_above_and_below_ground(
    height: float,
) -> None:
    exponent = vertical.GAS_CONSTANT * 0.0065 / vertical.GRAVITY
    pressure = np.array([101325.0 * (1.0 - 0.0065 * height / 288.15) ** (1.0 / exponent)])
    temperature = standard_temperature(SIGMA[:, None] * pressure)
    surface = np.array([vertical.GRAVITY * height])
    x = np.log(LEVELS_PA[5:])[:, None] - np.log(pressure)
    expected = standard_temperature(LEVELS_PA[5:])
    # Between layers, a profile linear in height is not quite linear in ln p.
    np.testing.assert_allclose(
        vertical.temperature_at(temperature, LAYERS, x, np)[:, 0], expected, atol=0.7
    )
    np.testing.assert_allclose(
        vertical.geopotential_at(temperature, surface, LAYERS, x, np)[:, 0],
        vertical.GRAVITY * (288.15 - expected) / 0.0065,
        atol=60.0,
    )
    sea_level = vertical.mean_sea_level_pressure(temperature, surface, pressure, LAYERS)
    assert sea_level[0] == pytest.approx(101325.0, rel=1e-9)


def test_geopotential_is_zero_at_mean_sea_level_pressure() -> None:
    temperature, pressure, surface = columns(100)
    surface = np.abs(surface)
    sea_level = vertical.mean_sea_level_pressure(temperature, surface, pressure, LAYERS)
    x = np.log(sea_level / pressure)[None]
    zero = vertical.geopotential_at(temperature, surface, LAYERS, x, np)
    np.testing.assert_allclose(zero, 0.0, atol=1e-6)


def test_no_level_jumps_when_surface_pressure_changes() -> None:
    temperature, _, _ = columns(1)
    # 850 hPa passes from between two layers to below the ground.
    pressure = np.linspace(1.05e5, 0.8e5, 2001)
    x = np.log(85000.0) - np.log(pressure)[None]
    wide = np.broadcast_to(temperature, (len(SIGMA), pressure.size))
    for field, largest in (
        (vertical.temperature_at(wide, LAYERS, x, np), 0.05),
        (vertical.geopotential_at(wide, np.zeros(1), LAYERS, x, np), 15.0),
    ):
        assert np.abs(np.diff(field[0])).max() < largest


def test_single_precision_is_enough() -> None:
    temperature, pressure, surface = columns(50)
    x = np.log(LEVELS_PA)[:, None] - np.log(pressure)
    exact = vertical.geopotential_at(temperature, surface, LAYERS, x, np)
    single = vertical.geopotential_at(
        temperature.astype(np.float32), surface.astype(np.float32), LAYERS,
        x.astype(np.float32), np,
    )  # fmt: skip
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, exact, atol=0.5)


def test_the_grid_is_that_of_real_analyses() -> None:
    folder = os.environ.get("WEATHERMIXER_TEST_DATA")
    if folder is None:
        pytest.skip("WEATHERMIXER_TEST_DATA, the folder of real analyses, is unset")
    latitude, longitude = grid_coordinates(GRID)
    with xr.open_dataset(Path(folder) / "era5_64x32_19590102T00.nc") as real:
        np.testing.assert_allclose(latitude, real.latitude, atol=1e-4)
        np.testing.assert_allclose(longitude, real.longitude, atol=1e-4)


def test_a_grid_coarser_than_the_simulation_is_refused() -> None:
    with pytest.raises(UserError, match="16x32: choose 32x64 or finer"):
        simulate(days=1, grid=(16, 32))


@pytest.mark.parametrize(("days", "processes"), [(1, 1), (1, 4), (10, 2), (1460, 2), (731, 3)])
def test_members_share_the_days_but_no_time_and_no_block(days: int, processes: int) -> None:
    members = planet._share(days, processes)
    assert len(members) <= processes
    times = np.concatenate([member.times for member in members])
    assert len(times) == 4 * days
    assert (np.diff(times) >= np.timedelta64(6, "h")).all()
    for before, after in itertools.pairwise(members):
        assert before.indices.stop == after.indices.start
        assert after.indices.start % TIMES_PER_BLOCK == 0
        assert after.times[0] - before.times[-1] > np.timedelta64(6, "h")


def test_without_jcm_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("planet_model", "planet_boundary"):
        monkeypatch.delitem(sys.modules, f"weathermixer.data.making.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(UserError, match=r"pip install 'weathermixer\[planet\]'"):
        static_fields(GRID)


@pytest.fixture(scope="module")
def jcm() -> None:
    """Compiling the planet takes half a minute; the tests below do it once."""
    pytest.importorskip("jcm", reason="the simulated planet needs the extra 'planet'")


@pytest.fixture(scope="module")
def days(jcm: None) -> list[tuple[np.datetime64, Any]]:
    return list(simulate(days=6, seed=5, spin_up_days=4))


def test_land_and_mountains_are_the_earths(jcm: None) -> None:
    for grid in (GRID, (64, 128)):
        latitude, longitude = grid_coordinates(grid)
        land, soil, geopotential = static_fields(grid)
        weights = cell_area_weights(latitude)[:, None] / grid[1]
        assert (land * weights).sum() == pytest.approx(0.29, abs=0.03)
        row, column = np.abs(latitude - 32).argmin(), np.abs(longitude - 90).argmin()
        assert geopotential[row, column] > 9.81 * 3500.0  # Tibet
        assert (geopotential * weights).sum() == pytest.approx(2300.0, abs=300.0)
        assert set(np.unique(soil)) <= {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}
        assert ((soil > 0) == (land >= 0.5)).all()


@pytest.mark.exhaustive
def test_states_come_every_six_hours_and_are_plausible(days: list[Any]) -> None:
    times = np.array([time for time, _ in days])
    assert times[0] == np.datetime64("2001-01-01T00")
    assert (np.diff(times) == np.timedelta64(6, "h")).all()
    assert len(days) == 24
    for _, state in days:
        assert state.shape == (69, *GRID)
        assert state.dtype == np.float32
        for name, field in zip(planet_simulation.CHANNELS, state, strict=True):
            problem = implausibility(parse_channel(name), field)
            # A start from rest knows no storms yet, so low levels are smoother than any analysis.
            assert problem is None or "standard deviation" in problem, f"{name}: {problem}"


@pytest.mark.exhaustive
def test_sea_level_pressure_has_the_earths_mean(days: list[Any]) -> None:
    weights = cell_area_weights(grid_coordinates(GRID)[0])[:, None] / GRID[1]
    pressure = days[-1][1][planet_simulation.CHANNELS.index("mean_sea_level_pressure")]
    assert (pressure * weights).sum() == pytest.approx(101150.0, abs=500.0)


@pytest.mark.exhaustive
def test_humidity_is_negative_only_as_a_truncated_series_ripples(days: list[Any]) -> None:
    for name, field in zip(planet_simulation.CHANNELS, days[-1][1], strict=True):
        if name.startswith("specific_humidity"):
            assert field.min() > -3e-4, name


@pytest.mark.exhaustive
def test_winds_aloft_blow_with_the_geopotential(days: list[Any]) -> None:
    """Geostrophic balance in the middle latitudes: u = −(∂Φ/∂φ)/(f a)."""
    state = days[-1][1]
    latitude = np.deg2rad(grid_coordinates(GRID)[0])
    geopotential = state[planet_simulation.CHANNELS.index("geopotential_500")].mean(axis=-1)
    slope = np.gradient(geopotential.astype(np.float64), latitude)
    balanced = -slope / (2 * 7.292e-5 * np.sin(latitude) * 6.371e6)
    wind = state[planet_simulation.CHANNELS.index("u_component_of_wind_500")].mean(axis=-1)
    rows = (np.abs(np.rad2deg(latitude)) > 30) & (np.abs(np.rad2deg(latitude)) < 65)
    assert np.abs(balanced[rows]).max() > 3.0
    assert np.corrcoef(balanced[rows], wind[rows])[0, 1] > 0.9


@pytest.mark.exhaustive
def test_a_seed_gives_the_same_planet_and_a_member_another(days: list[Any]) -> None:
    again = simulate(days=1, seed=5, spin_up_days=4)
    other = simulate(days=1, seed=5, spin_up_days=4, member=1)
    for (_, first), (_, same), (time, different) in zip(days, again, other, strict=False):
        assert (first == same).all()
        assert (first != different).any()
        assert time >= np.datetime64("2002-01-01")


@pytest.mark.exhaustive
def test_a_store_that_was_interrupted_is_continued_to_the_same_states(
    days: list[Any], tmp_path: Path
) -> None:
    def write() -> Any:
        path = tmp_path / "planet.zarr"
        return write_planet(path, days=6, seed=5, spin_up_days=4, processes=1, progress=watch)

    def watch(done: int, total: int) -> None:
        seen.append((done, total))
        if done == stop:
            raise KeyboardInterrupt

    seen: list[tuple[int, int]] = []
    stop = 16 + 20  # after the spin-up, in the second block
    with pytest.raises(KeyboardInterrupt):
        write()
    assert not (tmp_path / "planet.zarr").exists()
    seen, stop = [], -1
    store = write()
    assert (40, 40) in seen
    assert store.channels == planet_simulation.CHANNELS
    assert store.static_channels == planet.STATIC_CHANNELS
    assert (store.times == np.array([time for time, _ in days])).all()
    for index, (_, state) in enumerate(days):
        assert (store.read(index) == state).all()
    assert (store.statistics.step_std > 0).all()
    assert not list((tmp_path / "planet.zarr").glob("member*"))
