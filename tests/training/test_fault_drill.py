"""Trainings whose ranks die at random moments end as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.scripts import ROOT


@pytest.mark.exhaustive
def test_ranks_are_killed_twenty_times_and_the_weights_are_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from fault_drill import drill

    figures = drill(20, seed=1, folder=tmp_path)  # which compares the weights
    assert figures.kills == figures.restarts == len(figures.steps_lost) == 20
    assert figures.kills_while_saving >= 5
    assert any(figures.steps_lost)
