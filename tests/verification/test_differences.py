"""Differences from forecasts beside the model's, and which of them are significant."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from oracles import bootstrap as oracle
from oracles import ensembles as of_members
from oracles import scores as of_means
from support.members import write_members
from support.noise import LEADS, noisy
from support.planets import CHANNELS, Planet, write_forecast
from weathermixer.verification.block_bootstrap import block_length, resampled_counts
from weathermixer.verification.differences import Differences, _block_length, with_intervals
from weathermixer.verification.metrics import ACC, RMSE
from weathermixer.verification.pair_series import COMPARED
from weathermixer.verification.verification_record import Verification
from weathermixer.verification.verify import verify

# Of two bounds of 2,000 resamples each, five standard deviations in units of the interval.
WITHIN = 0.12


def test_intervals_are_those_of_a_bootstrap_of_pairs_by_hand(
    make_planet: Callable[..., Planet], tmp_path: Path
) -> None:
    planet = make_planet(num_times=36)
    inits = planet.times[:33][::-1]  # forecasts may come in any order
    members = np.stack([noisy(planet, inits, 0.5, seed=seed) for seed in (1, 2)])
    single = noisy(planet, inits, 0.44, seed=3)
    write_members(tmp_path / "ensemble.zarr", planet, inits, members, "realization")
    write_forecast(tmp_path / "single.zarr", planet, single, inits, LEADS)
    beside = [str(tmp_path / "single.zarr")]
    result = verify(tmp_path / "ensemble.zarr", planet.truth, beside=beside, processes=1)
    record = result.to_json()["significance"]
    assert record["block_length"] == {"6": 3, "12": 4, "18": 6}

    draw = random.Random(4).randrange
    latitude = planet.latitude
    for channel, lead, length in ((0, 0, 3), (2, 2, 6)):
        valid = inits + LEADS[lead]
        o = [planet.at(time)[channel].astype(float) for time in valid]
        c = [planet.climatology_at(time)[channel].astype(float) for time in valid]
        x = members[:, :, lead, channel].swapaxes(0, 1).astype(float)
        f = single[:, lead, channel].astype(float)
        statistics: dict[str, list[tuple[float, float]]] = {"rmse": [], "acc": [], "crps": []}
        for time in np.argsort(inits):
            ours, theirs, truth, climate = x[time].mean(axis=0), f[time], o[time], c[time]
            rmse = [of_means.area_mean((each - truth) ** 2, latitude) for each in (ours, theirs)]
            acc = [
                of_means.acc(each[None], truth[None], climate[None], latitude)
                for each in (ours, theirs)
            ]
            statistics["rmse"].append((rmse[0], rmse[1]))
            statistics["acc"].append((acc[0], acc[1]))
            fair = of_members.fair_crps(x[time][None], truth[None], latitude)
            statistics["crps"].append((fair, of_means.area_mean(abs(theirs - truth), latitude)))
        for metric, pairs in statistics.items():
            differ = oracle.difference_of_means
            if metric == "rmse":
                differ = oracle.difference_of_roots
            got = record["beside"]["single"][metric][CHANNELS[channel]][f"{6 * (lead + 1)}"]
            assert got["difference"] == pytest.approx(differ(pairs), rel=1e-9)
            lower, upper = oracle.circular_block_interval(
                pairs, differ, length=length, resamples=2000, draw=draw
            )
            width = upper - lower
            assert got["lower"] == pytest.approx(lower, abs=WITHIN * width), metric
            assert got["upper"] == pytest.approx(upper, abs=WITHIN * width), metric
            assert got["significant"] == (got["lower"] > 0.0 or got["upper"] < 0.0)

    assert Verification.from_json(result.to_json()).to_json()["significance"] == record
    assert "RMSE against single, 95% confidence" in result.render()
    assert result.differences is not None
    result.differences.write_csv(tmp_path / "differences.csv")
    with (tmp_path / "differences.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * len(CHANNELS) * len(LEADS)
    for row in rows:
        number = record["beside"][row["beside"]][row["metric"]][row["channel"]][row["lead_hours"]]
        assert float(row["lower"]) == number["lower"]
        assert row["significant"] == str(number["significant"])


def test_blocks_of_one_give_the_intervals_of_scipy() -> None:
    generator = np.random.default_rng(6)
    statistics = generator.gamma(2.0, size=(40, 2, 3, 1))
    (result,) = with_intervals(statistics, COMPARED, 1)
    for place, metric in enumerate(COMPARED):

        def differ(ours: Any, theirs: Any, axis: int, root: bool = metric == RMSE) -> Any:
            a, b = ours.mean(axis=axis), theirs.mean(axis=axis)
            return np.sqrt(a) - np.sqrt(b) if root else a - b

        ours, theirs = statistics[:, :, place, 0].T
        expected = bootstrap(
            (ours, theirs),
            differ,
            paired=True,
            method="percentile",
            rng=generator,
            confidence_level=oracle.expanded_confidence(40.0),
        ).confidence_interval
        bounds = result[place, 0, 1:]
        assert bounds == pytest.approx(list(expected), abs=WITHIN * (expected.high - expected.low))


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_times=st.integers(10, 40),
    length=st.integers(1, 4),
    sign=st.sampled_from([-1.0, 1.0]),
)
def test_equal_forecasts_never_differ_and_a_constant_error_beyond_noise_always_does(
    seed: int, num_times: int, length: int, sign: float
) -> None:
    generator = np.random.default_rng(seed)
    other = generator.gamma(2.0, size=(num_times, 3, 5)) + 3.0
    shift = sign + generator.uniform(-0.9, 0.9, other.shape)
    statistics = np.stack([other, other, other - shift], axis=1)
    values = with_intervals(statistics, COMPARED, length)
    assert (values[0] == 0.0).all()
    differences = Differences(
        tuple("abcde"),
        (6.0,),
        (length,),
        {
            name: {metric.name: values[index, place][None] for place, metric in enumerate(COMPARED)}
            for index, name in enumerate(("equal", "shifted"))
        },
    )
    for metric in ("rmse", "acc", "crps"):
        assert not differences.significant("equal", metric).any()
        assert differences.significant("shifted", metric).all()
        larger_is_better = metric == ACC.name
        assert (differences.better("shifted", metric) == (larger_is_better == (sign > 0.0))).all()


def test_each_resample_is_of_consecutive_times_round_the_end() -> None:
    counts = resampled_counts(10, 4)
    assert (counts.sum(axis=1) == 10).all()
    np.testing.assert_array_equal(counts, resampled_counts(10, 4))
    # Two blocks of four and half a third: each resample is a sum of such runs.
    runs = {
        size: [np.roll([1] * size + [0] * (10 - size), start) for start in range(10)]
        for size in (4, 2)
    }
    possible = {tuple(a + b + c) for a in runs[4] for b in runs[4] for c in runs[2]}
    assert {tuple(row) for row in counts.astype(int).tolist()} <= possible
    # Each time is as likely; five standard deviations of the mean over resamples.
    deviation = counts.std() / np.sqrt(len(counts))
    assert counts.mean(axis=0) == pytest.approx(1.0, abs=5.0 * deviation)


def test_blocks_are_twice_as_long_as_forecasts_overlap_and_grow_with_the_cube_root() -> None:
    assert [block_length(n, 1) for n in (9, 10, 27, 1000)] == [None, 2, 3, 10]
    assert [block_length(1000, under_way) for under_way in (2, 6, 10, 100, 101)] == [
        10, 12, 20, 200, None,
    ]  # fmt: skip


def test_forecasts_under_way_are_counted_where_their_spacing_is_uneven() -> None:
    days = np.arange("2001-01-01", "2001-03-02", dtype="datetime64[D]").astype("datetime64[s]")
    starts = np.sort(np.concatenate([days, days + np.timedelta64(6, "h")]))
    # In 72 hours six begin, and as many in 66, from 00 UTC; in six hours one does.
    for hours, length in ((6, 5), (66, 12), (72, 12), (144, 24)):
        assert _block_length(starts, np.timedelta64(hours, "h")) == length
    assert _block_length(starts, np.timedelta64(150, "h")) is None


@pytest.mark.exhaustive
def test_intervals_of_dependent_errors_hold_the_truth_nearly_as_often_as_they_say() -> None:
    """Errors that overlap eight times, such as of two-day forecasts every six hours."""
    generator = np.random.default_rng(7)
    noise = generator.normal(size=(307, 2000))
    series = np.stack([noise[lag : lag + 300] for lag in range(8)]).sum(axis=0)
    statistics = np.stack([series, np.zeros_like(series)], axis=1)[:, :, None]
    length = block_length(300, 8)
    assert length == 16

    def coverage(length: int) -> float:
        bounds = with_intervals(statistics, (ACC,), length)[0, 0]
        return float(((bounds[:, 1] <= 0.0) & (bounds[:, 2] >= 0.0)).mean())

    assert 0.91 < coverage(length) < 0.96
    assert coverage(1) < 0.55
