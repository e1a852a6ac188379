"""Scores on the way of ensembles, whose members have to meet: ``verify``'s of the written one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from support.ranks import Pool
from support.scored_forecasts import Case, assert_same, score, score_on, score_until, write_case
from support.selection import exhaustive
from weathermixer.errors import UserError
from weathermixer.forecast import batches
from weathermixer.forecast.forecast_description import ForecastDescription
from weathermixer.forecast.forecaster import Forecaster
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.verification import results
from weathermixer.verification.verification_record import Verification
from weathermixer.verification.verify import verify

# Groups of one initial time, two batches of one and two members.
ASKED: dict[str, Any] = {"init": "2001-01-12/2001-01-13/12h", "steps": 3, "members": 3}
NUM_INITS, NUM_LEADS, MEMBERS = 4, 3, 3


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("noisy")
    return write_case(folder, model={"noise": 2}, training={"seed": 4})


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_figures", lambda *_: ())


def on(mesh: Mesh, case: Case, scores: Path, out: Path | None = None) -> Verification | None:
    return score_on(mesh, case, scores, out, **ASKED)


def until(mesh: Mesh, case: Case, scores: Path, number: int, saves_last: list[int]) -> int:
    return score_until(mesh, case, scores, None, number, saves_last, **ASKED)


def test_they_are_those_that_verify_gives_and_members_meet_once_a_lead_time(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is made is known by its order: a state is held until the last member has one."""
    out, made, read = tmp_path / "f.zarr", [], []
    restored, begin = Forecaster.restored, Forecaster.begin

    def restore(self: Forecaster, state: Any) -> NDArray[np.float32]:
        made.append(len(state))
        return restored(self, state)

    def reading(
        self: Forecaster, group: Any, states: Callable[[int], Iterable[NDArray[np.float32]]]
    ) -> Any:
        def once(time: int) -> Iterable[NDArray[np.float32]]:
            read.append(time)
            return states(time)

        return begin(self, group, once)

    monkeypatch.setattr(Forecaster, "restored", restore)
    monkeypatch.setattr(Forecaster, "begin", reading)
    result = score(case, tmp_path / "with fields", out=out, **ASKED)
    scores = result.verification
    assert scores is not None
    assert made == [1, 2] * NUM_LEADS * NUM_INITS  # never a lead time ahead of the other batch
    assert read == list(range(NUM_INITS))
    expected = verify(out, case.truth, processes=1)
    assert {"rmse", "crps", "spread", "spread_skill"} < set(expected.scores.metrics)
    assert expected.rank_histogram is not None
    assert expected.rank_histogram.shares.shape == (NUM_LEADS, 3, MEMBERS + 1)
    assert_same(scores, expected, 1e-12, unscored=0)
    assert expected.to_json().keys() <= result.to_json().keys()
    assert result.to_json()["members"] == MEMBERS
    alone = score(case, tmp_path / "alone", **ASKED).verification
    assert alone is not None
    assert_same(alone, scores, 0.0, unscored=0)
    record = json.loads((tmp_path / "alone" / "scores.json").read_text())
    assert not [name for name in record["scores"] if name.startswith("rank_")]
    assert record["rank_histogram"].keys() == set(expected.scores.channels)


@pytest.mark.parametrize(
    "layout",
    [
        Layout(data=2),
        *exhaustive(
            Layout(domain=2),
            Layout(tensor=2),
            Layout(domain=3),
            Layout(data=2, domain=2),
        ),
    ],
    ids=str,
)
def test_a_killed_campaign_on_ranks_goes_on_to_them(
    layout: Layout, pool: Pool, case: Case, tmp_path: Path
) -> None:
    """The first rank has one initial time more in its sums than the others, where any has two."""
    first, *others = pool.run(on, layout, case, tmp_path / "whole", tmp_path / "f.zarr")
    assert others == [None] * (layout.world_size - 1)
    assert_same(first, verify(tmp_path / "f.zarr", case.truth, processes=1), 1e-12, unscored=0)
    scores = tmp_path / "scores"
    begun = pool.run(until, layout, case, scores, 2, [0])
    shares = [len(range(index, NUM_INITS, layout.data)) for index in range(layout.data)]
    assert begun == [min(2, share) for share in shares for _ in range(layout.ways)]
    if layout == Layout(data=2):
        with pytest.raises(UserError, match="begun with another set of weights, another number"):
            score(case, scores, **ASKED | {"members": 2})
    again, *_ = pool.run(on, layout, case, scores)
    assert_same(again, first, 0.0, unscored=0)


def description(*, times: int, members: int | None, channels: int, grid: tuple[int, int]) -> Any:
    step = np.timedelta64(6, "h")
    return ForecastDescription(
        channels=tuple(f"temperature_{level}" for level in range(1, channels + 1)),
        initial_times=np.datetime64("2018-01-01", "s") + np.arange(times) * step,
        lead_times=np.arange(1, 41) * step,
        latitude=np.linspace(90.0, -90.0, grid[0]),
        longitude=np.arange(float(grid[1])),
        members=members,
    )


@pytest.mark.parametrize(
    ("times", "members", "channels", "grid", "instances", "num_groups", "sizes"),
    [
        (730, 20, 69, (720, 1440), 4, 730, [1] * 20),  # of which one state fits a batch
        (730, 20, 2, (8, 16), 4, 730, [6, 7, 7]),
        (730, 3, 2, (8, 16), 1, 365, [6]),  # two initial times at once
        (2, 3, 2, (8, 16), 2, 2, [3]),  # a group for each instance
    ],
)
def test_all_members_of_an_initial_time_are_in_one_group(
    times: int,
    members: int,
    channels: int,
    grid: tuple[int, int],
    instances: int,
    num_groups: int,
    sizes: list[int],
) -> None:
    asked = description(times=times, members=members, channels=channels, grid=grid)
    groups = batches.groups_of(asked, num_instances=instances, scored=True)
    assert len(groups) == num_groups
    assert [len(batch) for batch in groups[0]] == sizes
    places = [number for group in groups for batch in group for number in batch]
    assert places == list(range(times * members))
    for group in groups:
        assert group[0].start % members == 0
        assert group[-1].stop % members == 0
