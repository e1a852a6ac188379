"""Scores on the way: ``verify``'s numbers of a forecast that need not be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from support.ranks import Pool
from support.scored_forecasts import (
    INIT,
    NUM_INITS,
    STEPS,
    UNSCORED,
    Case,
    assert_same,
    score,
    score_on,
    score_until,
    write_case,
)
from support.selection import exhaustive
from weathermixer.errors import UserError
from weathermixer.forecast.campaign import Campaign
from weathermixer.forecast.forecast import forecast
from weathermixer.jigsaw.layout import Layout
from weathermixer.report.inputs import ReportInputs
from weathermixer.runs.run import Run, model_tensors
from weathermixer.runs.saving import save
from weathermixer.verification import results
from weathermixer.verification.verify import verify


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return write_case(tmp_path_factory.mktemp("scores"))


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_figures", lambda *_: ())


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
        ({"out": Path("f"), "members": 1}, "--members 1 is no ensemble: give 2 or more, or leave"),
        ({"scores": Path("s"), "truth": "absent.zarr"}, "there is nothing at absent.zarr"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything_is_forecast(
    asked: dict[str, Any], said: str, case: Case
) -> None:
    with pytest.raises(UserError, match=said):
        forecast(case.run, case.store, INIT, STEPS, **asked)
