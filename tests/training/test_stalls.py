"""What a step that stands still is said to wait for."""

from __future__ import annotations

import time

import pytest

from weathermixer.jigsaw.activity import Activity, Beat, RankNews
from weathermixer.training import stalls
from weathermixer.training.stalls import StallWatch, what_is_waited_for

GATHER = "all-gather over tensor (blocks.0.1.expand, forward)"


def beat(**values: object) -> Beat:
    idle = {"exchanges": 12, "steps": 16, "where": "up", "waits_for": "", "num_bytes": 0}
    return Beat(**{**idle, "waited_s": 0.0, **values})  # type: ignore[arg-type]


def waits(rank: int, seconds: float, exchange: str = GATHER) -> Beat:
    return beat(waits_for=f"rank {rank} along tensor", waited_s=seconds, exchange=exchange)


def news(*beats: Beat) -> dict[int, RankNews]:
    return {rank: RankNews(f"n{rank}", each) for rank, each in enumerate(beats)}


def test_of_ranks_that_wait_for_each_other_the_one_that_does_not_is_named() -> None:
    # 0 waits for 1, which waits for 2, which computes; 3 has only begun to wait.
    told = news(waits(1, 61.0, "all-reduce over data"), waits(2, 62.0), beat(), waits(0, 0.1))
    expected = f"rank 2 on n2 has not sent its part of the {GATHER} for 62 s"
    assert what_is_waited_for(told, 60.0) == expected
    assert what_is_waited_for(told, 70.0) is None


def test_a_rank_whose_store_hangs_is_named_before_those_that_wait_for_it() -> None:
    reading = beat(waits_alone_for="the store: state of 2010-01-01T06:00:00", waited_alone_s=64.0)
    assert what_is_waited_for(news(waits(1, 63.0), reading), 60.0) == (
        "rank 1 on n1 is waiting for the store: state of 2010-01-01T06:00:00, 64 s so far"
    )
    assert what_is_waited_for({0: RankNews("", reading)}, 60.0) == (
        "waiting for the store: state of 2010-01-01T06:00:00, 64 s so far"
    )


def test_waits_of_checkpoints_and_meetings_are_none_of_a_step() -> None:
    meeting = beat(waits_for="all others", waited_s=100.0)
    assert what_is_waited_for(news(beat(), meeting), 60.0) is None


def test_a_stall_is_said_once_and_long_steps_have_more_patience(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, here = [0.0], Activity()
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(stalls, "ACTIVITY", here)
    said: list[str] = []
    noted: list[str] = []
    watch = StallWatch(said.append, noted.append, lambda: 16, rank=0)

    class _Exchange:
        title = GATHER

        def __str__(self) -> str:
            return "rank 1 along tensor"

    with here.waiting_for(_Exchange()):
        clock[0] = 59.0
        watch.look()
        assert said == []
        clock[0] = 61.0
        watch.look()
        clock[0] = 80.0
        watch.look()
    expected = (
        f"step 17 stands still: rank 0 has waited 61 s for rank 1 along tensor, in the {GATHER}"
    )
    assert said == noted == [expected]
    assert here.waited_s == 80.0
    watch.take_note(30.0)  # an ordinary step takes so long
    here.exchanges += 1
    with here.waiting_for(_Exchange()):
        clock[0] += 119.0
        watch.look()
        assert len(said) == 1
        clock[0] += 2.0
        watch.look()
    assert len(said) == 2
