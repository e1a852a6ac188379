"""What a rank notes: bounded, added to, and harmless where it cannot be written."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from support.disk import full_disk
from weathermixer.jigsaw.activity import ACTIVITY
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.training import rank_log
from weathermixer.training.notices import Notices
from weathermixer.training.rank_log import RankLog, RankNotes


def notes_of(path: Path) -> list[str]:
    """The lines of a log without their dates."""
    return [line.partition(" ")[2] for line in path.read_text("utf-8").splitlines()]


def test_a_log_is_added_to_and_never_grows_beyond_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_log, "MOST_BYTES", 200)
    path = tmp_path / "ranks" / "rank-00003.log"
    RankLog(path, Notices(pytest.fail)).write("begun")
    log = RankLog(path, Notices(pytest.fail))
    for number in range(40):
        log.write(f"line {number}\nof two")
        assert sum(file.stat().st_size for file in path.parent.iterdir()) <= 400
    assert {file.name for file in path.parent.iterdir()} == {"rank-00003.log", "rank-00003.old.log"}
    kept = notes_of(path.with_suffix(".old.log")) + notes_of(path)
    assert kept == [f"line {number} of two" for number in range(40 - len(kept), 40)]


def test_a_full_disk_is_said_once_and_leaves_whole_lines(tmp_path: Path) -> None:
    said: list[str] = []
    log = RankLog(tmp_path / "rank-00000.log", Notices(said.append))
    log.write("before")
    with full_disk(after_bytes=40):
        for _ in range(3):
            log.write("a line that is longer than what is left")
    log.write("after")
    assert notes_of(tmp_path / "rank-00000.log") == ["before", "after"]
    (sentence,) = said
    assert "rank-00000.log cannot be written (File too large): training goes on" in sentence


def test_a_rank_notes_warnings_the_end_and_where_it_was_then(tmp_path: Path) -> None:
    notes = RankNotes(RankLog(tmp_path / "ranks" / "rank-00002.log", Notices(pytest.fail)))
    mesh = Mesh.describe(Layout(data=2, tensor=2).at(2))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        shown: list[str] = []
        warnings.showwarning = lambda message, *_: shown.append(str(message))
        notes.begin(mesh, step=4, checkpoint=Path("run/checkpoints/step-00000004"))
        warnings.warn("something is old", DeprecationWarning, stacklevel=1)
        with ACTIVITY.waiting_for("rank 3 along tensor"):
            for farewell in ACTIVITY.farewells:
                farewell("rank 3 on n2 has not answered for 15 s")
        notes.end(5, RuntimeError("it broke"))
        warnings.warn("not noted", DeprecationWarning, stacklevel=1)
    assert shown == ["something is old", "not noted"]
    begin, warned, lost, end = notes_of(tmp_path / "ranks" / "rank-00002.log")
    assert begin.startswith("rank 2 of 4 (data 1 of 2, domain 0 of 1, tensor 0 of 2) on ")
    assert begin.endswith("begins after step 4 from run/checkpoints/step-00000004")
    assert warned.startswith("DeprecationWarning: something is old (")
    assert lost.startswith(
        "the job is ended: rank 3 on n2 has not answered for 15 s; this rank was"
    )
    assert lost.endswith("waiting for rank 3 along tensor")
    assert end.startswith("ended after step 5 by RuntimeError: it broke; it was in exchange ")
