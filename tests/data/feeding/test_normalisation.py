from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from support.waves import CHANNELS, LATITUDE, LONGITUDE, START, state, write_waves
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.data.store.store import Store
from weathermixer.data.store.store_description import StoreDescription
from weathermixer.data.store.store_writer import StoreWriter
from weathermixer.errors import UserError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(write_waves(tmp_path_factory.mktemp("store") / "s.zarr", times=20))


@pytest.fixture(scope="module")
def normalisation(store: Store) -> Normalisation:
    return Normalisation.from_store(
        store, CHANNELS, ("land_sea_mask",), (store.times[2], store.times[11])
    )


def _area_mean(fields: np.ndarray) -> np.ndarray:
    edges = np.concatenate([[90.0], (LATITUDE[1:] + LATITUDE[:-1]) / 2, [-90.0]])
    weights = -np.diff(np.sin(np.deg2rad(edges)))
    return np.average(fields.mean(-1), axis=-1, weights=weights)


def test_statistics_are_those_of_the_period_alone(normalisation: Normalisation) -> None:
    states = np.stack([state(index) for index in range(2, 12)]).astype(np.float64)
    changes = np.diff(states, axis=0)
    mean = _area_mean(states).mean(0)
    np.testing.assert_allclose(normalisation.mean, mean, rtol=1e-12)
    variance = _area_mean((states - mean[:, None, None]) ** 2).mean(0)
    np.testing.assert_allclose(normalisation.std, np.sqrt(variance), rtol=1e-12)
    change = _area_mean(changes).mean(0)
    step_variance = _area_mean((changes - change[:, None, None]) ** 2).mean(0)
    np.testing.assert_allclose(normalisation.step_std, np.sqrt(step_variance), rtol=1e-10)
    np.testing.assert_allclose(
        normalisation.increment_scale, np.sqrt(step_variance / variance), rtol=1e-10
    )


def test_static_fields_are_normalised_over_the_sphere(normalisation: Normalisation) -> None:
    static = normalisation.static.astype(np.float64)
    np.testing.assert_allclose(_area_mean(static), 0.0, atol=1e-6)
    np.testing.assert_allclose(_area_mean(static**2), 1.0, rtol=1e-6)


def test_a_static_field_without_variation_becomes_zero(tmp_path: Path) -> None:
    flat = np.full((1, 8, 16), 4.0, dtype=np.float32)
    times = START + np.arange(4) * np.timedelta64(6, "h")
    writer = StoreWriter.create(
        tmp_path / "s.zarr",
        StoreDescription(CHANNELS, times, LATITUDE, LONGITUDE, 6.0, ("soil_type",), flat),
    )
    list(writer.write_block(writer.missing_blocks()[0], state))
    writer.finish((times[0], times[-1]))
    made = Normalisation.from_store(
        Store.open(tmp_path / "s.zarr"), CHANNELS, ("soil_type",), (times[0], times[-1])
    )
    np.testing.assert_allclose(made.static, 0.0, atol=1e-6)


def test_a_channel_without_variation_keeps_its_units(tmp_path: Path) -> None:
    times = START + np.arange(4) * np.timedelta64(6, "h")
    writer = StoreWriter.create(
        tmp_path / "s.zarr", StoreDescription(CHANNELS, times, LATITUDE, LONGITUDE, 6.0)
    )
    constant = np.full((2, 8, 16), 273.15, dtype=np.float32)
    list(writer.write_block(writer.missing_blocks()[0], lambda _: constant))
    writer.finish((times[0], times[-1]))
    made = Normalisation.from_store(
        Store.open(tmp_path / "s.zarr"), CHANNELS, (), (times[0], times[-1])
    )
    np.testing.assert_array_equal(made.std, 1.0)
    np.testing.assert_array_equal(made.step_std, 1.0)
    np.testing.assert_allclose(made.normalise(constant), 0.0, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-7), (np.float64, 1e-15)])
def test_restoring_undoes_normalising_in_the_type_of_the_state(
    normalisation: Normalisation, dtype: type[np.floating], tolerance: float
) -> None:
    states = np.stack([state(index) for index in range(3)]).astype(dtype)
    normal = normalisation.normalise(states)
    assert normal.dtype == dtype
    expected = (states.astype(np.float64) - normalisation.mean[:, None, None]) / normalisation.std[
        :, None, None
    ]
    np.testing.assert_allclose(normal, expected, atol=20 * 250 * tolerance)
    restored = normalisation.restore(normal)
    assert restored.dtype == dtype
    np.testing.assert_allclose(restored, states, rtol=2 * tolerance)


def test_channels_come_in_the_order_that_was_asked_for(store: Store) -> None:
    period = (store.times[0], store.times[-1])
    forward = Normalisation.from_store(store, CHANNELS, (), period)
    backward = Normalisation.from_store(store, CHANNELS[::-1], (), period)
    np.testing.assert_array_equal(backward.mean, forward.mean[::-1])
    assert backward.static.shape == (0, 8, 16)


def test_a_saved_normalisation_is_read_back_equal(
    normalisation: Normalisation, tmp_path: Path
) -> None:
    normalisation.save(tmp_path / "n.npz")
    loaded = Normalisation.load(tmp_path / "n.npz")
    for field in fields(Normalisation):
        np.testing.assert_array_equal(
            getattr(loaded, field.name), getattr(normalisation, field.name)
        )
    assert loaded.channels == CHANNELS


def test_a_damaged_file_is_named_and_a_pickle_in_it_is_not_run(
    normalisation: Normalisation, tmp_path: Path
) -> None:
    path = tmp_path / "n.npz"
    normalisation.save(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match=r"n\.npz cannot be read"):
        Normalisation.load(path)
    np.savez(path, channels=np.array([_Evil(tmp_path / "ran")], dtype=object))
    with pytest.raises(UserError, match=r"n\.npz cannot be read"):
        Normalisation.load(path)
    path.write_bytes(pickle.dumps(_Evil(tmp_path / "ran")))
    with pytest.raises(UserError, match=r"n\.npz cannot be read"):
        Normalisation.load(path)
    assert not (tmp_path / "ran").exists()


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_another_grid_is_refused(
    normalisation: Normalisation, store: Store, tmp_path: Path
) -> None:
    normalisation.check_grid(store)

    def other(latitude: np.ndarray, longitude: np.ndarray) -> Store:
        path = tmp_path / f"{len(latitude)}-{latitude[0]}-{longitude[0]}.zarr"
        times = START + np.arange(4) * np.timedelta64(6, "h")
        writer = StoreWriter.create(
            path, StoreDescription(CHANNELS, times, latitude, longitude, 6.0)
        )
        shape = (2, len(latitude), len(longitude))
        list(writer.write_block(writer.missing_blocks()[0], lambda _: np.zeros(shape, np.float32)))
        writer.finish((times[0], times[-1]))
        return Store.open(path)

    normalisation.check_grid(other(LATITUDE + 1e-4, LONGITUDE))
    with pytest.raises(UserError, match="8×16"):
        normalisation.check_grid(other(LATITUDE[:6], LONGITUDE))
    with pytest.raises(UserError, match=r"latitude 0 of .* is -78.75°, but 78.75°"):
        normalisation.check_grid(other(LATITUDE[::-1].copy(), LONGITUDE))
    with pytest.raises(UserError, match="longitude 0"):
        normalisation.check_grid(other(LATITUDE, LONGITUDE + 2.0))


def test_a_channel_that_the_store_lacks_is_named(store: Store) -> None:
    with pytest.raises(UserError, match="geopotential_500"):
        Normalisation.from_store(
            store, ("geopotential_500",), (), (store.times[0], store.times[-1])
        )
