from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from oracles import scores as oracle
from support.planets import LATITUDES
from weathermixer.data.grid import Grid
from weathermixer.data.statistics import cell_area_weights
from weathermixer.verification.metrics import (
    BIAS,
    METRICS,
    RMSE,
    Metric,
    Statistic,
    pair_statistics,
    score,
    statistics_of,
    usable_metrics,
)
from weathermixer.verification.regions import BOUNDS, GLOBAL, Regions
from weathermixer.verification.sums import Sums

STATISTICS = statistics_of(METRICS)
BY_NAME = {metric.name: metric for metric in METRICS}
LONGITUDE = np.arange(6.0) * 60.0


def _regions(latitude: NDArray[np.float64]) -> Regions:
    return Regions.of(Grid(latitude, LONGITUDE))


def _fields(seed: int, count: int) -> NDArray[np.float32]:
    """Forecasts, truth, climatology ``(3, time, channel, latitude, longitude)`` like z500 and t."""
    random = np.random.default_rng(seed)
    means = np.array([5.5e4, 280.0])[:, None, None]
    scales = np.array([900.0, 8.0])[:, None, None]
    return (means + scales * random.normal(size=(3, count, 2, 5, 6))).astype(np.float32)


def _zero(num_regions: int, num_leads: int = 1) -> Sums:
    return Sums.zero(num_leads, (1, len(STATISTICS), num_regions, 2), (0, num_regions, 0, 2))


def _sum_up(fields: NDArray[np.floating], latitude: NDArray[np.float64]) -> Sums:
    regions = _regions(latitude)
    sums = _zero(len(regions.names))
    for forecast, truth, climatology in zip(*fields, strict=True):
        of_pair = pair_statistics(STATISTICS, [forecast], truth, climatology, regions)
        sums.add(0, of_pair, np.empty(sums.energy.shape[1:]))
    return sums


def _metric(sums: Sums, name: str, region: int = 0) -> NDArray[np.float64]:
    """A metric of the only candidate at the only lead time, ``(channel,)``."""
    return score(BY_NAME[name], STATISTICS, sums.means()[0][0, 0, :, region])


@pytest.mark.parametrize("latitude", LATITUDES.values(), ids=LATITUDES)
def test_every_metric_equals_its_definition_in_every_region(latitude: NDArray[np.float64]) -> None:
    fields = _fields(0, 4)
    sums = _sum_up(fields, latitude)
    for region, name in enumerate(_regions(latitude).names):
        bounds = BOUNDS[name]
        for channel in range(2):
            f, o, c = fields[:, :, channel]
            expected = {
                "rmse": oracle.rmse(f, o, latitude, bounds),
                "bias": oracle.bias(f, o, latitude, bounds),
                "acc": oracle.acc(f, o, c, latitude, bounds),
                "activity": oracle.activity(f, c, latitude, bounds),
            }
            assert expected.keys() == BY_NAME.keys()
            for metric, value in expected.items():
                got = _metric(sums, metric, region)[channel]
                assert got == pytest.approx(value, rel=1e-12, abs=1e-9), (name, metric)


def test_a_row_on_a_bound_belongs_to_both_regions_and_its_cell_is_not_cut() -> None:
    latitude = np.array([90.0, 20.0, 0.0, -20.0, -90.0])
    regions = _regions(latitude)
    areas = cell_area_weights(latitude)
    inside = {
        GLOBAL: [0, 1, 2, 3, 4],
        "tropics": [1, 2, 3],
        "extratropics_north": [0, 1],
        "extratropics_south": [3, 4],
    }
    assert regions.names == tuple(inside)
    for weights, rows in zip(regions.row_weights, inside.values(), strict=True):
        expected = np.zeros(5)
        expected[rows] = areas[rows] / areas[rows].sum()
        np.testing.assert_allclose(weights, expected, rtol=1e-14)


def test_a_region_without_a_row_is_left_out() -> None:
    assert _regions(np.array([60.0, -60.0])).names == (
        "global",
        "extratropics_north",
        "extratropics_south",
    )


def test_weights_have_mean_one_as_in_the_definition() -> None:
    for latitude in LATITUDES.values():
        shares = cell_area_weights(latitude)
        np.testing.assert_allclose(shares * len(shares), oracle.cell_weights(latitude), rtol=1e-12)


def test_a_perfect_forecast_has_no_error_and_correlation_one() -> None:
    fields = _fields(1, 3)
    fields[0] = fields[1]
    sums = _sum_up(fields, LATITUDES["without poles"])
    assert (_metric(sums, "rmse") == 0.0).all()
    assert (_metric(sums, "bias") == 0.0).all()
    np.testing.assert_allclose(_metric(sums, "acc"), 1.0, rtol=1e-15)


def test_the_opposite_anomaly_has_correlation_minus_one() -> None:
    fields = np.zeros((3, 1, 2, 5, 6), dtype=np.float32)
    fields[1] = np.random.default_rng(0).normal(size=fields[1].shape)
    fields[0] = -fields[1]
    sums = _sum_up(fields, LATITUDES["with poles, southward"])
    np.testing.assert_allclose(_metric(sums, "acc"), -1.0, rtol=1e-15)


def test_climatology_itself_has_no_activity_and_no_correlation() -> None:
    fields = _fields(1, 3)
    fields[0] = fields[2]
    sums = _sum_up(fields, LATITUDES["without poles"])
    assert (_metric(sums, "activity") == 0.0).all()
    assert np.isnan(_metric(sums, "acc")).all()
    assert (_metric(sums, "rmse") > 0.0).all()


def test_without_a_climatology_only_the_scores_of_anomalies_are_missing() -> None:
    names = [metric.name for metric in usable_metrics(METRICS, has_climatology=False)]
    assert names == ["rmse", "bias"]
    assert usable_metrics(METRICS, has_climatology=True) == METRICS


def test_statistics_that_several_metrics_need_are_taken_once() -> None:
    variance = Metric("variance", "Variance", (*RMSE.statistics, *BIAS.statistics), np.subtract)
    assert statistics_of((RMSE, BIAS, variance)) == (*RMSE.statistics, *BIAS.statistics)


def test_two_of_one_name_are_refused() -> None:
    other = Statistic("error", RMSE.statistics[0].of_pair)
    with pytest.raises(ValueError, match="two different statistics are called error"):
        statistics_of((BIAS, Metric("other", "Other", (other,), np.positive)))
    with pytest.raises(ValueError, match="two metrics are called bias"):
        statistics_of((BIAS, BIAS))


def test_candidates_are_scored_as_if_alone() -> None:
    f, o, c = _fields(2, 1)[:, 0]
    regions = _regions(LATITUDES["without poles"])
    together = pair_statistics(STATISTICS, [f, c, o], o, c, regions)
    for candidate, among_others in zip((f, c, o), together, strict=True):
        (alone,) = pair_statistics(STATISTICS, [candidate], o, c, regions)
        np.testing.assert_array_equal(alone, among_others)


def test_large_grids_are_taken_in_blocks_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    f, o, c = _fields(2, 1)[:, 0]
    regions = _regions(LATITUDES["with poles, northward"])
    whole = pair_statistics(STATISTICS, [f], o, c, regions)
    monkeypatch.setattr("weathermixer.verification.metrics._VALUES_PER_BLOCK", 1)
    np.testing.assert_allclose(pair_statistics(STATISTICS, [f], o, c, regions), whole, rtol=1e-12)


def test_a_lead_time_without_pairs_has_no_score() -> None:
    means, _ = _zero(3, num_leads=2).means()
    assert np.isnan(means).all()


@settings(max_examples=50)
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
    merged = _zero(len(_regions(latitude).names))
    for label in set(labels):
        merged = merged.merge(_sum_up(fields[:, np.array(labels) == label], latitude))
    assert merged.counts.tolist() == whole.counts.tolist()
    for name in BY_NAME:
        expected = _metric(whole, name)
        np.testing.assert_allclose(_metric(merged, name), expected, rtol=1e-12, atol=1e-9)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), shift=st.floats(-100.0, 100.0))
def test_a_uniform_shift_of_the_forecast_shifts_its_bias_alone(seed: int, shift: float) -> None:
    latitude = LATITUDES["without poles"]
    fields = _fields(seed, 2).astype(np.float64)
    before = _metric(_sum_up(fields, latitude), "bias")
    fields[0] += shift
    after = _metric(_sum_up(fields, latitude), "bias")
    np.testing.assert_allclose(after, before + shift, atol=1e-8)
