"""Forecasts that are scored while they are made, for tests of what they come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from support.forecast_runs import write_run
from support.planets import write_climatology
from support.waves import LATITUDE, write_waves
from weathermixer.forecast import batches
from weathermixer.forecast.forecast import forecast
from weathermixer.forecast.forecaster import Forecaster
from weathermixer.forecast.result import ForecastResult
from weathermixer.forecast.scoring import Scorer
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.verification import results
from weathermixer.verification.verification_record import Verification

INIT, STEPS = "2001-01-12/2001-01-15/12h", 5  # whose last lead times the truth does not reach
NUM_INITS, BATCH = 8, 2
UNSCORED = 2 + 4


class Case(NamedTuple):
    """A run of three channels, its initial states, and a truth in another order, with a climate."""

    run: Path
    store: Path
    truth: Path


def write_case(folder: Path, **options: Any) -> Case:
    """Write a run with ``options``, its store and a truth."""
    levels = (500, 850)
    store = write_waves(folder / "waves.zarr", levels=levels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("support.waves.LATITUDE", LATITUDE[::-1].copy())
        truth = write_waves(folder / "truth.zarr", levels=levels)
    random = np.random.default_rng(2)
    normals = 270.0 + 9.0 * random.normal(size=(4, 90, 3, 8, 16))
    write_climatology(truth, normals.astype(np.float32))
    variables = ["2m_temperature", "temperature"]  # not in canonical order
    run = write_run(
        folder / "run", store, scale=0.05, levels=levels, variables=variables, **options
    )
    return Case(run, store, truth)


def score(case: Case, scores: Path, *, out: Path | None = None, **options: Any) -> ForecastResult:
    """Score forecasts, two at once, without drawing anything."""
    asked = {"init": INIT, "steps": STEPS, **options}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "_LARGEST_BATCH", BATCH)
        patch.setattr(results, "_figures", lambda *_: ())
        return forecast(case.run, case.store, out=out, truth=case.truth, scores=scores, **asked)


def score_on(
    mesh: Mesh, case: Case, scores: Path, out: Path | None = None, **options: Any
) -> Verification | None:
    """What a rank does; the scores, on the first one."""
    axes = {"data": mesh.data, "domain": mesh.domain, "tensor": mesh.tensor}
    sizes = [f"parallel.{name}={axis.size}" for name, axis in axes.items()]
    return score(case, scores, out=out, overrides=sizes, **options).verification


def score_until(
    mesh: Mesh,
    case: Case,
    scores: Path,
    out: Path | None,
    number: int,
    saves_last: Sequence[int],
    **options: Any,
) -> int:
    """The same, stopped at the end of a group, which only some ranks have saved.

    Returns how many groups this rank has begun.
    """
    saved = 0
    begun = counted(Forecaster.begin)

    def save_or_stop(self: Scorer, forecasts: Sequence[int]) -> None:
        nonlocal saved
        saved += 1
        if saved < number or mesh.layout.rank in saves_last:
            original(self, forecasts)
        if saved == number:
            raise KeyboardInterrupt

    original = Scorer.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scorer, "save", save_or_stop)
        patch.setattr(Forecaster, "begin", begun)
        with suppress(KeyboardInterrupt):
            score_on(mesh, case, scores, out, **options)
    return int(begun.calls)


def counted(function: Callable[..., Any]) -> Any:
    """The function, which counts its ``calls``."""

    def counting(*arguments: Any) -> Any:
        counting.calls += 1  # type: ignore[attr-defined]
        return function(*arguments)

    counting.calls = 0  # type: ignore[attr-defined]
    return counting


def assert_same(
    got: Verification, expected: Verification, rtol: float, *, unscored: int = UNSCORED
) -> None:
    """All numbers within a tolerance relative to the largest of their kind."""
    assert got.regions.keys() == expected.regions.keys()
    for name, wanted in expected.regions.items():
        scores = got.regions[name]
        assert (scores.channels, scores.lead_hours) == (wanted.channels, wanted.lead_hours)
        assert scores.pairs == wanted.pairs
        assert scores.values.keys() == wanted.values.keys()
        for source, by_metric in wanted.values.items():
            assert scores.values[source].keys() == by_metric.keys()
            for metric, values in by_metric.items():
                assert_close(scores.values[source][metric], values, rtol)
    assert got.spectra.values.keys() == expected.spectra.values.keys()
    for source, energy in expected.spectra.values.items():
        assert_close(got.spectra.values[source], energy, rtol)
    assert (got.rank_histogram is None) == (expected.rank_histogram is None)
    if got.rank_histogram is not None and expected.rank_histogram is not None:
        assert_close(got.rank_histogram.shares, expected.rank_histogram.shares, rtol)
    assert got.initial_times == expected.initial_times
    assert got.num_unscored == expected.num_unscored == unscored
    assert got.warnings == expected.warnings


def assert_close(got: Any, expected: Any, rtol: float) -> None:
    """Arrays within a tolerance relative to the value, or to a thousandth of the largest."""
    largest = np.max(np.abs(expected), where=np.isfinite(expected), initial=0.0)
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol * 1e-3 * largest)
