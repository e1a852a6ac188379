"""The benchmark of host time at a thousand ranks runs, here with as few as show all of it."""

from __future__ import annotations

import pytest

from support.scripts import ROOT
from weathermixer.jigsaw.layout import Layout


@pytest.mark.exhaustive
def test_one_rank_goes_through_all_that_it_does_before_a_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from thousand_ranks import measure

    # A checkpoint of all ranks is written and loaded, and what was loaded is compared.
    rows = list(measure(Layout(data=3, domain=2, tensor=1)))
    assert [row.what.partition(" ")[0] for row in rows][-2:] == ["saving:", "loading"]
    assert all(row.taken.processor >= 0 for row in rows)
