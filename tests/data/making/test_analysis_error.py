"""Errors of analyses: their size, what they are drawn from, and that they can be drawn again."""

from __future__ import annotations

import numpy as np
import pytest

from support.planets import CHANNELS, LATITUDES, LONGITUDE, MEANS, SCALES, START, STEP
from weathermixer.data.making.analysis_error import AnalysisErrors
from weathermixer.data.store.store import Store
from weathermixer.data.store.store_description import StoreDescription
from weathermixer.data.store.store_writer import StoreWriter
from weathermixer.errors import UserError

LATITUDE = LATITUDES["without poles"]
NUM_TRAINING = 60


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Random walks, which stride out after the training period; a day is lacking in its middle."""
    path = tmp_path_factory.mktemp("analysis-error") / "walks.zarr"
    random = np.random.default_rng(2)
    changes = random.normal(size=(80, len(CHANNELS), len(LATITUDE), len(LONGITUDE)))
    changes[30] += 1000.0  # over the day that is lacking
    changes[NUM_TRAINING:] *= 1000.0
    states = (MEANS + SCALES * np.cumsum(changes, axis=0)).astype(np.float32)
    times = START + np.arange(80) * STEP
    times[30:] += np.timedelta64(24, "h")
    writer = StoreWriter.create(path, StoreDescription(CHANNELS, times, LATITUDE, LONGITUDE, 6.0))
    for block in writer.missing_blocks():
        for _ in writer.write_block(block, states.__getitem__):
            pass
    writer.finish((times[0], times[NUM_TRAINING - 1]))
    return Store.open(path)


def test_an_error_has_the_stated_share_of_the_six_hourly_standard_deviation(store: Store) -> None:
    errors = AnalysisErrors(store, share=0.3, seed=0)
    drawn = np.stack([errors.at(time) for time in store.times])
    assert drawn.dtype == np.float32
    size = np.sqrt((drawn.astype(np.float64) ** 2).mean(axis=(0, 2, 3)))
    # What the walk was made with, not what the store measured; and nothing of the strides.
    np.testing.assert_allclose(size, 0.3 * SCALES[:, 0, 0], rtol=0.1)
    assert np.abs(drawn.mean(axis=(0, 2, 3))).max() < 0.05 * SCALES.max()


def test_an_error_is_that_of_its_time_and_seed_whatever_else_was_drawn(store: Store) -> None:
    errors = AnalysisErrors(store, share=0.3, seed=4)
    first, second = (errors.at(time) for time in store.times[[70, 71]])
    again = AnalysisErrors(store, share=0.3, seed=4).at(store.times[71])
    assert (again == second).all()
    assert (first != second).any()
    assert (AnalysisErrors(store, share=0.3, seed=5).at(store.times[71]) != second).any()
    larger = AnalysisErrors(store, share=0.6, seed=4).at(store.times[71])
    np.testing.assert_allclose(larger, 2.0 * second, rtol=1e-4, atol=1e-3)


def test_an_error_of_size_zero_is_none(store: Store) -> None:
    assert not AnalysisErrors(store, share=0.0, seed=0).at(store.times[0]).any()


@pytest.mark.parametrize("share", [-0.1, float("nan"), float("inf")])
def test_an_impossible_size_is_refused(store: Store, share: float) -> None:
    with pytest.raises(UserError, match="choose zero or more"):
        AnalysisErrors(store, share=share, seed=0)


def test_a_training_period_without_two_states_in_a_row_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = store.times[0]
    monkeypatch.setattr(Store, "training_period", property(lambda _: (only, only)))
    with pytest.raises(UserError, match="has no two states six hours apart in its training period"):
        AnalysisErrors(store, share=0.25, seed=0)
    assert not AnalysisErrors(store, share=0.0, seed=0).at(only).any()
