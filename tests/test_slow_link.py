"""The benchmark of links: what a step takes at the least."""

from __future__ import annotations

import pytest

from support.scripts import ROOT


@pytest.mark.parametrize(
    ("computing", "moving", "expected"),
    [
        (3.0, 0.0, 3.0),  # nothing moves
        (3.0, 2.0, 3.0),  # the forward pass hides its half to the last
        (3.0, 3.0, 3.5),  # 1.5 for half of the bytes, 2.0 for two thirds of the computing
        (3.0, 4.0, 4.0),  # the backward pass hides its computing to the last
        (0.0, 4.0, 4.0),
    ],
)
def test_neither_pass_can_lend_its_time_to_the_other(
    monkeypatch: pytest.MonkeyPatch, computing: float, moving: float, expected: float
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from slow_link import least_seconds

    assert least_seconds(computing, moving) == expected
