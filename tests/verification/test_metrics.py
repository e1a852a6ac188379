from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from oracles import scores as oracle
from planets import LATITUDES
from weathermixer.data.statistics import cell_area_weights
from weathermixer.verification.metrics import METRICS, STATISTICS, AreaMean, Sums, statistics


def _fields(seed: int, count: int) -> NDArray[np.float32]:
    """Forecasts, truth, climatology ``(3, time, channel, latitude, longitude)`` like z500 and t."""
    random = np.random.default_rng(seed)
    means = np.array([5.5e4, 280.0])[:, None, None]
    scales = np.array([900.0, 8.0])[:, None, None]
    return (means + scales * random.normal(size=(3, count, 2, 5, 6))).astype(np.float32)


def _sum_up(fields: NDArray[np.float32], latitude: NDArray[np.float64]) -> Sums:
    sums = Sums.zero(1, fields.shape[2])
    area_mean = AreaMean(cell_area_weights(latitude))
    for forecast, truth, climatology in zip(*fields, strict=True):
        sums.add(0, statistics(forecast, truth, climatology, area_mean))
    return sums


@pytest.mark.parametrize("latitude", LATITUDES.values(), ids=LATITUDES)
def test_every_metric_equals_its_definition(latitude: NDArray[np.float64]) -> None:
    fields = _fields(0, 4)
    sums = _sum_up(fields, latitude)
    for channel in range(2):
        f, o, c = fields[:, :, channel]
        expected = {
            "rmse": oracle.rmse(f, o, latitude),
            "bias": oracle.bias(f, o, latitude),
            "acc": oracle.acc(f, o, c, latitude),
            "activity": oracle.activity(f, c, latitude),
        }
        assert expected.keys() == METRICS.keys()
        for name, value in expected.items():
            assert sums.metric(name)[0, channel] == pytest.approx(value, rel=1e-12, abs=1e-9)


def test_weights_have_mean_one_as_in_the_definition() -> None:
    for latitude in LATITUDES.values():
        shares = cell_area_weights(latitude)
        np.testing.assert_allclose(shares * len(shares), oracle.cell_weights(latitude), rtol=1e-12)


def test_a_perfect_forecast_has_no_error_and_correlation_one() -> None:
    fields = _fields(1, 3)
    fields[0] = fields[1]
    sums = _sum_up(fields, LATITUDES["without poles"])
    assert (sums.metric("rmse") == 0.0).all()
    assert (sums.metric("bias") == 0.0).all()
    np.testing.assert_allclose(sums.metric("acc"), 1.0, rtol=1e-15)


def test_the_opposite_anomaly_has_correlation_minus_one() -> None:
    fields = np.zeros((3, 1, 2, 5, 6), dtype=np.float32)
    fields[1] = np.random.default_rng(0).normal(size=fields[1].shape)
    fields[0] = -fields[1]
    sums = _sum_up(fields, LATITUDES["with poles, southward"])
    np.testing.assert_allclose(sums.metric("acc"), -1.0, rtol=1e-15)


def test_climatology_itself_has_no_activity_and_no_correlation() -> None:
    fields = _fields(1, 3)
    fields[0] = fields[2]
    sums = _sum_up(fields, LATITUDES["without poles"])
    assert (sums.metric("activity") == 0.0).all()
    assert np.isnan(sums.metric("acc")).all()
    assert (sums.metric("rmse") > 0.0).all()


def test_without_a_climatology_only_the_scores_of_anomalies_are_missing() -> None:
    f, o, _ = _fields(2, 1)
    area_mean = AreaMean(cell_area_weights(LATITUDES["with poles, northward"]))
    one = statistics(f[0], o[0], None, area_mean)
    for name, values in zip(STATISTICS, one, strict=True):
        assert np.isnan(values).all() == ("anomaly" in name)


def test_large_grids_are_taken_in_blocks_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    f, o, c = _fields(2, 1)[:, 0]
    area_mean = AreaMean(cell_area_weights(LATITUDES["with poles, northward"]))
    whole = statistics(f, o, c, area_mean)
    monkeypatch.setattr("weathermixer.verification.metrics._VALUES_PER_BLOCK", 1)
    np.testing.assert_allclose(statistics(f, o, c, area_mean), whole, rtol=1e-12)


def test_a_lead_time_without_pairs_has_no_score() -> None:
    assert np.isnan(Sums.zero(2, 3).metric("rmse")).all()


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=12),
)
def test_sums_over_any_split_of_the_pairs_merge_to_the_sums_over_all(
    seed: int, labels: list[int]
) -> None:
    latitude = LATITUDES["without poles"]
    fields = _fields(seed, len(labels))
    whole = _sum_up(fields, latitude)
    merged = Sums.zero(1, 2)
    for label in set(labels):
        merged = merged.merge(_sum_up(fields[:, np.array(labels) == label], latitude))
    assert merged.counts.tolist() == whole.counts.tolist()
    for name in METRICS:
        np.testing.assert_allclose(merged.metric(name), whole.metric(name), rtol=1e-12, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shift=st.floats(-100.0, 100.0))
def test_a_uniform_shift_of_the_forecast_shifts_its_bias_alone(seed: int, shift: float) -> None:
    latitude = LATITUDES["without poles"]
    fields = _fields(seed, 2).astype(np.float64)
    before = _sum_up(fields, latitude).metric("bias")
    fields[0] += shift
    np.testing.assert_allclose(_sum_up(fields, latitude).metric("bias"), before + shift, atol=1e-8)
