"""What is said of progress and waits, and when."""

from __future__ import annotations

import time

import pytest

from weathermixer import console
from weathermixer.console import muted, progress, say, waiting_for


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_SECONDS_TO_A_WORD", 0.1)
    monkeypatch.setattr(console, "_SECONDS_BETWEEN_WORDS", 0.3)
    monkeypatch.setattr(console._Speech, "waits", {})


def wait_for_text(capfd: pytest.CaptureFixture[str], text: str, times: int = 1) -> str:
    """Return what was said once it holds ``text`` so often."""
    said, end = "", time.monotonic() + 60.0
    while said.count(text) < times:
        assert time.monotonic() < end, said
        said += capfd.readouterr().err
        time.sleep(0.02)
    return said


def test_a_wait_is_explained_then_now_and_then(capfd: pytest.CaptureFixture[str]) -> None:
    with waiting_for("the archive to be opened"):
        said = wait_for_text(capfd, "waiting for the archive to be opened, ", times=2)
    assert all(line.endswith(" s so far") for line in said.splitlines())


def test_a_short_wait_is_not_spoken_of(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_SECONDS_TO_A_WORD", 60.0)
    with waiting_for("nothing"):
        pass
    assert capfd.readouterr().err == ""


def test_many_waits_of_a_kind_are_spoken_of_as_one(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_SECONDS_BETWEEN_WORDS", 600.0)
    for _ in range(3):
        with waiting_for("a chunk"):
            time.sleep(0.3)
    assert capfd.readouterr().err.count("waiting for a chunk") <= 1


def test_a_wait_says_what_is_missing_by_then(capfd: pytest.CaptureFixture[str]) -> None:
    missing = ["3 ranks"]
    with waiting_for(lambda: missing[0]):
        wait_for_text(capfd, "waiting for 3 ranks")
        missing[0] = "1 rank"
        wait_for_text(capfd, "waiting for 1 rank,")


def test_progress_that_does_not_move_is_spoken_of(capfd: pytest.CaptureFixture[str]) -> None:
    with progress("simulating") as update:
        wait_for_text(capfd, "simulating: 0 s so far")
        update(1, 2)
        wait_for_text(capfd, "simulating: 1 of 2")
        wait_for_text(capfd, " s so far")


def test_who_is_muted_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with muted(), waiting_for("something"), progress("counting") as update:
        update(1, 1)
        say("a word")
        time.sleep(0.3)
    assert capfd.readouterr().err == ""
    say("a word")
    assert capfd.readouterr().err == "a word\n"
