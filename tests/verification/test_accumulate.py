"""The work in batches: by processes, in any order, and no more of it in memory than a little."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.noise import LEADS, noisy
from support.planets import Planet, write_forecast
from weathermixer.verification import accumulate
from weathermixer.verification.accumulate import PairBatch, sum_batch, sum_up
from weathermixer.verification.comparison import Comparison
from weathermixer.verification.metrics import METRICS, usable_metrics
from weathermixer.verification.sums import Sums
from weathermixer.verification.verify import verify

MakePlanet = Callable[..., Planet]


def _nothing() -> None:
    pass


@pytest.fixture
def comparison(make_planet: MakePlanet, tmp_path: Path) -> Comparison:
    planet = make_planet()
    inits = planet.times[:10]  # the last ones lack some of their truth
    for number in range(2):
        states = noisy(planet, inits, seed=number)
        write_forecast(tmp_path / f"{number}.zarr", planet, states, inits, LEADS)
    return Comparison.open(tmp_path / "0.zarr", planet.truth, beside=[str(tmp_path / "1.zarr")])


def _assert_close(got: Sums, expected: Sums, rtol: float) -> None:
    assert got.counts.tolist() == expected.counts.tolist()
    for mean, wanted in zip(got.means(), expected.means(), strict=True):
        np.testing.assert_allclose(mean, wanted, rtol=rtol, atol=1e-12)


def test_two_processes_give_the_sums_of_one_bit_for_bit(
    comparison: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = sum_up(comparison, METRICS, processes=1)
    state_bytes = 4 * 5 * 6
    monkeypatch.setattr(accumulate, "_STATE_BYTES", 2 * state_bytes)
    monkeypatch.setattr(accumulate, "_LEAST_BATCH_BYTES", 20 * state_bytes)
    calls: list[tuple[int, int]] = []
    (one, pairs), (two, pairs_of_two) = (
        sum_up(comparison, METRICS, processes=number, progress=lambda *call: calls.append(call))
        for number in (1, 2)
    )
    ticks = 2 * int(comparison.pairs.sum())  # once for each variable
    assert calls[-1] == (ticks, ticks)
    for name in ("values", "energy", "counts"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    _assert_close(one, whole, 1e-12)
    assert pairs is not None
    assert pairs_of_two is not None
    np.testing.assert_array_equal(pairs.values, pairs_of_two.values)
    # Their sums are those that the scores are made of, of the forecasts over the first region.
    totals = np.nansum(pairs.values, axis=0)
    np.testing.assert_allclose(totals, one.values[:, :2, list(pairs.places), 0], rtol=1e-12)
    is_scored = np.isfinite(pairs.values).all(axis=(2, 3, 4))
    np.testing.assert_array_equal(is_scored, comparison.pairs[comparison.times])


@pytest.mark.exhaustive
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels=st.lists(st.integers(0, 3), min_size=9, max_size=9), order=st.randoms())
def test_any_split_of_the_initial_times_in_any_order_gives_the_same_scores(
    comparison: Comparison, labels: list[int], order: Any
) -> None:
    times = comparison.times
    kinds = list(set(labels))
    order.shuffle(kinds)
    chosen = np.resize(labels, len(times))
    parts = [
        sum_batch(
            comparison, METRICS, PairBatch(comparison.channels, times[chosen == kind]), _nothing
        )
        for kind in kinds
    ]
    whole = sum_batch(comparison, METRICS, PairBatch(comparison.channels, times), _nothing)
    _assert_close(reduce(Sums.merge, parts), whole, 1e-12)


def test_how_forecasts_are_read_in_blocks_makes_no_difference(
    comparison: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = sum_up(comparison, METRICS, processes=1)
    for block_bytes in (1, 1000, 3000):
        monkeypatch.setattr("weathermixer.verification.comparison.BLOCK_BYTES", block_bytes)
        monkeypatch.setattr("weathermixer.verification.truth.CACHE_BYTES", block_bytes)
        _assert_close(sum_up(comparison, METRICS, processes=1)[0], whole, 1e-12)


@pytest.mark.exhaustive
def test_memory_grows_with_neither_initial_times_nor_lead_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forecasts of 2 and of 12 MiB, and truth of 0.6 and 1.4, within the same bound."""
    monkeypatch.setattr("weathermixer.verification.comparison.BLOCK_BYTES", 256 * 1024)
    monkeypatch.setattr("weathermixer.verification.truth.CACHE_BYTES", 256 * 1024)
    for num_times, num_leads in ((4, 16), (12, 32)):
        comparison = Comparison.open(*_write_large(tmp_path / f"{num_times}", num_times, num_leads))
        batch = PairBatch(comparison.channels, comparison.times)
        meter = _Meter(every=8 * num_times)
        tracemalloc.start()
        sum_batch(comparison, usable_metrics(METRICS, has_climatology=False), batch, meter.tick)
        tracemalloc.stop()
        # A block, what is kept of the truth and its spectra, sums, fields in float64.
        assert 512 * 1024 < meter.most_bytes < 1280 * 1024


class _Meter:
    """The most memory held at a tick, but for names of files, which Python keeps for ever."""

    def __init__(self, every: int) -> None:
        self.every, self.ticks, self.most_bytes = every, 0, 0

    def tick(self) -> None:
        self.ticks += 1
        if self.ticks % self.every == 0:
            snapshot = tracemalloc.take_snapshot()
            files = tracemalloc.Filter(False, "*/pathlib*.py")
            traces = snapshot.filter_traces([files]).statistics("filename")
            self.most_bytes = max(self.most_bytes, sum(trace.size for trace in traces))


def _write_large(folder: Path, num_times: int, num_leads: int) -> tuple[Path, Path]:
    random = np.random.default_rng(5)
    step = np.timedelta64(6, "h").astype("timedelta64[ns]")
    start = np.datetime64("2001-03-01", "ns")
    grid = {"latitude": np.linspace(-88, 88, 64), "longitude": np.arange(128) * 360 / 128}
    dimensions = ("time", "prediction_timedelta", *grid)
    shape = (num_times, num_leads, 64, 128)
    coordinates = {"time": start + np.arange(num_times) * step, **grid}
    fields = random.normal(280.0, 8.0, shape).astype(np.float32)
    forecast = xr.Dataset(
        {"2m_temperature": (dimensions, fields)},
        {**coordinates, "prediction_timedelta": np.arange(1, num_leads + 1) * step},
    )
    times = start + np.arange(num_times + num_leads + 1) * step
    states = random.normal(280.0, 8.0, (len(times), 64, 128)).astype(np.float32)
    truth = xr.Dataset(
        {"2m_temperature": (("time", *grid), states)}, {**coordinates, "time": times}
    )
    options: dict[str, Any] = {"zarr_format": 2, "consolidated": True}
    forecast.chunk(time=1, prediction_timedelta=1).to_zarr(folder / "f.zarr", **options)
    truth.chunk(time=1).to_zarr(folder / "truth.zarr", **options)
    return folder / "f.zarr", folder / "truth.zarr"


def test_the_command_takes_processes_and_other_forecasts(
    make_planet: MakePlanet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    from weathermixer.cli import main

    planet = make_planet(climatology=False)
    inits = planet.times[:3]
    for name in "abc":
        write_forecast(tmp_path / f"{name}.zarr", planet, noisy(planet, inits), inits, LEADS)
    a, b, c = (str(tmp_path / f"{name}.zarr") for name in "abc")
    main(["verify", a, "--truth", str(planet.truth), "--beside", f"{b},{c}", "--processes", "1",
          "--json"])  # fmt: skip
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["beside"].keys() == {"b", "c"}
    assert printed["forecast"] == a
    assert printed["truth"] == str(planet.truth)
    assert printed == verify(a, planet.truth, beside=[b, c]).to_json()
