"""Scores on the way: ``verify``'s numbers of a forecast that need not be written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from support.forecast_runs import write_run
from support.planets import write_climatology
from support.ranks import Pool
from support.selection import exhaustive
from support.waves import LATITUDE, write_waves
from weathermixer.errors import UserError
from weathermixer.forecast import batches
from weathermixer.forecast.campaign import Campaign
from weathermixer.forecast.forecast import forecast
from weathermixer.forecast.forecaster import Forecaster
from weathermixer.forecast.result import ForecastResult
from weathermixer.forecast.scoring import Scorer
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.report.inputs import ReportInputs
from weathermixer.runs.run import Run, model_tensors
from weathermixer.runs.saving import save
from weathermixer.verification import results
from weathermixer.verification.verification_record import Verification
from weathermixer.verification.verify import verify

INIT, STEPS = "2001-01-12/2001-01-15/12h", 5  # whose last lead times the truth does not reach
NUM_INITS, BATCH = 8, 2
UNSCORED = 2 + 4


class Case(NamedTuple):
    """A run of three channels, its initial states, and a truth in another order, with a climate."""

    run: Path
    store: Path
    truth: Path


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("scores")
    levels = (500, 850)
    store = write_waves(folder / "waves.zarr", levels=levels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("support.waves.LATITUDE", LATITUDE[::-1].copy())
        truth = write_waves(folder / "truth.zarr", levels=levels)
    random = np.random.default_rng(2)
    normals = 270.0 + 9.0 * random.normal(size=(4, 90, 3, 8, 16))
    write_climatology(truth, normals.astype(np.float32))
    variables = ["2m_temperature", "temperature"]  # not in canonical order
    run = write_run(folder / "run", store, scale=0.05, levels=levels, variables=variables)
    return Case(run, store, truth)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_figures", lambda *_: ())


def score(case: Case, scores: Path, *, out: Path | None = None, **options: Any) -> ForecastResult:
    """Score forecasts of two initial times at once, without drawing anything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "_LARGEST_BATCH", BATCH)
        patch.setattr(results, "_figures", lambda *_: ())
        return forecast(
            case.run, case.store, INIT, STEPS, out, truth=case.truth, scores=scores, **options
        )


def score_on(mesh: Mesh, case: Case, scores: Path, out: Path | None = None) -> Verification | None:
    """What a rank does; the scores, on the first one."""
    axes = {"data": mesh.data, "domain": mesh.domain, "tensor": mesh.tensor}
    sizes = [f"parallel.{name}={axis.size}" for name, axis in axes.items()]
    return score(case, scores, out=out, overrides=sizes).verification


def score_until(
    mesh: Mesh, case: Case, scores: Path, out: Path, number: int, saves_last: Sequence[int]
) -> int:
    """The same, stopped at the end of a batch, which only some ranks have saved.

    Returns how many batches this rank has begun.
    """
    saved = 0
    begun = counted(Forecaster.states)

    def save_or_stop(self: Scorer, batch: Sequence[int]) -> None:
        nonlocal saved
        saved += 1
        if saved < number or mesh.layout.rank in saves_last:
            original(self, batch)
        if saved == number:
            raise KeyboardInterrupt

    original = Scorer.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scorer, "save", save_or_stop)
        patch.setattr(Forecaster, "states", begun)
        with suppress(KeyboardInterrupt):
            score_on(mesh, case, scores, out)
    return int(begun.calls)


def counted(function: Callable[..., Any]) -> Any:
    """The function, which counts its ``calls``."""

    def counting(*arguments: Any) -> Any:
        counting.calls += 1  # type: ignore[attr-defined]
        return function(*arguments)

    counting.calls = 0  # type: ignore[attr-defined]
    return counting


def assert_same(got: Verification, expected: Verification, rtol: float) -> None:
    """All numbers within a tolerance relative to the largest of their kind."""
    assert got.regions.keys() == expected.regions.keys()
    for name, wanted in expected.regions.items():
        scores = got.regions[name]
        assert (scores.channels, scores.lead_hours) == (wanted.channels, wanted.lead_hours)
        assert scores.pairs == wanted.pairs
        assert scores.values.keys() == wanted.values.keys()
        for source, by_metric in wanted.values.items():
            for metric, values in by_metric.items():
                assert_close(scores.values[source][metric], values, rtol)
    assert got.spectra.values.keys() == expected.spectra.values.keys()
    for source, energy in expected.spectra.values.items():
        assert_close(got.spectra.values[source], energy, rtol)
    assert got.initial_times == expected.initial_times
    assert got.num_unscored == expected.num_unscored == UNSCORED
    assert got.warnings == expected.warnings


def assert_close(got: Any, expected: Any, rtol: float) -> None:
    largest = np.max(np.abs(expected), where=np.isfinite(expected), initial=0.0)
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol * 1e-3 * largest)


def test_they_are_those_that_verify_gives_of_the_written_forecast(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "f.zarr"
    scores = score(case, tmp_path / "with fields", out=out).verification
    assert scores is not None
    expected = verify(out, case.truth, processes=1)
    assert set(expected.scores.metrics) == {"rmse", "acc", "bias", "activity"}
    assert len(expected.regions) == 4
    assert_same(scores, expected, 1e-12)
    assert scores.forecasts == {"model": str(out)}
    alone = score(case, tmp_path / "alone")
    assert alone.verification is not None
    assert_same(alone.verification, scores, 0.0)
    said = f"Note: {UNSCORED} of {NUM_INITS * STEPS} pairs of initial and lead time were left out"
    assert said in capsys.readouterr().err
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"with fields", "alone", "f.zarr"}
    assert {path.name for path in (tmp_path / "alone").iterdir()} == {"scores.json", "scores.csv"}
    # What verify prints and more; and the report finds the run that no forecast names.
    printed = alone.to_json()
    assert expected.to_json().keys() <= printed.keys()
    assert printed["forecast"] is None
    assert len(printed["initial_times"]) == NUM_INITS
    found = ReportInputs.find(tmp_path / "alone").run
    assert found is not None and found.path == case.run


def assert_those_of_verify_on(layout: Layout, pool: Pool, case: Case, folder: Path) -> None:
    scores, out = folder / f"{layout} scores", folder / f"{layout}.zarr"
    first, *others = pool.run(score_on, layout, case, scores, out)
    assert others == [None] * (layout.world_size - 1)
    assert_same(first, verify(out, case.truth, processes=1), 1e-12)


def test_two_ranks_that_hold_a_part_each_give_those_of_whole_fields(
    pool: Pool, case: Case, tmp_path: Path
) -> None:
    for layout in (Layout(domain=2), Layout(tensor=2), Layout(data=2)):
        assert_those_of_verify_on(layout, pool, case, tmp_path)


@pytest.mark.parametrize(
    "layout",
    exhaustive(Layout(domain=3), Layout(domain=2, tensor=2), Layout(data=2, domain=2)),
    ids=str,
)
def test_more_ranks_give_them_too_where_some_have_no_channel(
    layout: Layout, pool: Pool, case: Case, tmp_path: Path
) -> None:
    assert_those_of_verify_on(layout, pool, case, tmp_path)


def test_a_killed_campaign_goes_on_where_each_rank_stopped(
    pool: Pool, case: Case, tmp_path: Path
) -> None:
    """Rank 0 has one batch more in its sums than rank 1, whose fields are written already."""
    layout, scores, out = Layout(domain=2), tmp_path / "scores", tmp_path / "f.zarr"
    expected, _ = pool.run(score_on, layout, case, tmp_path / "whole")
    assert pool.run(score_until, layout, case, scores, out, 2, [0]) == [2, 2]
    partial = tmp_path / "scores.partial"
    sizes = {path.name: path.stat().st_size for path in partial.iterdir()}
    assert sizes.keys() == {"campaign.json", "sums-00000.npz", "sums-00001.npz"}
    assert pool.run(score_until, layout, case, scores, out, 2, [0, 1]) == [2, 2]
    for name, size in sizes.items():  # but for the numbers of initial times
        assert (partial / name).stat().st_size <= size + 8 * NUM_INITS
    with pytest.raises(UserError, match=r"begun with another set of weights, another mesh \(1×2×1"):
        score(case, scores)
    first, _ = pool.run(score_on, layout, case, scores, out)
    assert out.exists()
    assert not partial.exists()
    assert_same(first, expected, 0.0)


def test_killed_between_the_fields_and_the_scores_the_same_command_ends_both(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, out = tmp_path / "scores", tmp_path / "f.zarr"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Campaign, "finish", _interrupt)
        score(case, scores, out=out)
    assert out.exists()
    with pytest.raises(UserError, match=r"f\.zarr exists already"):  # of no campaign in this place
        score(case, tmp_path / "others", out=out)
    found = score(case, scores, out=out).verification
    assert found is not None
    assert_same(found, verify(out, case.truth), 1e-12)
    with pytest.raises(UserError, match=r"f\.zarr exists already"):
        score(case, scores, out=out)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_another_campaign_is_refused(case: Case, tmp_path: Path) -> None:
    scores = tmp_path / "scores"
    with pytest.raises(KeyboardInterrupt):
        score(case, scores, progress=_interrupt)
    run = Run.open(case.run)
    model = run.load_model()
    with torch.no_grad():
        next(model.parameters()).add_(0.01)
    other = run.checkpoints / "step-00000009"
    save(other, model_tensors(model))
    begun = r"begun with another checkpoint \(step-00000007\), another set of weights: go on as "
    try:
        with pytest.raises(UserError, match=begun):
            score(case, scores)
        other.rename(tmp_path / "aside")
        with pytest.raises(UserError, match=r"begun with another truth \(.*, another climatology"):
            score(case._replace(truth=case.store), scores, climatology=str(case.truth))
        assert score(case, scores).verification is not None
    finally:
        for path in run.checkpoints.glob("step-00000009"):
            path.rename(tmp_path / "aside")
    with pytest.raises(UserError, match="holds scores already: choose another place"):
        score(case, scores)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "nothing of the forecast would be kept: give --out for its fields, --scores with "),
        ({"truth": "t.zarr"}, "--truth is for scores: give --scores too"),
        ({"climatology": "c.zarr", "out": Path("f")}, "--climatology is for scores: give --scores"),
        ({"scores": Path("s")}, "--scores s needs --truth: give the store of what happened"),
        ({"scores": Path("s"), "truth": "absent.zarr"}, "there is nothing at absent.zarr"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything_is_forecast(
    asked: dict[str, Any], said: str, case: Case
) -> None:
    with pytest.raises(UserError, match=said):
        forecast(case.run, case.store, INIT, STEPS, **asked)
