"""Which cases are left to `make test-all`."""

from __future__ import annotations

from typing import Any

import pytest

from support.selection import is_representative
from weathermixer.jigsaw.layout import Layout


@pytest.mark.parametrize(
    ("parameters", "stays"),
    [
        ({"layout": Layout(), "recipe": "state"}, True),
        ({"layout": Layout(data=2, tensor=2)}, True),
        ({"layout": Layout(data=2, tensor=2, rank=3)}, True),
        ({"layout": Layout(domain=3)}, False),
        ({"layout": Layout(domain=4)}, False),
        ({"layout": Layout(domain=2, tensor=2), "change": ("1x4x1", "1x2x2")}, False),
        ({"layout": Layout(domain=2, tensor=2), "change": ("2x1x1", "1x2x2")}, True),
        ({"grid": "32x64", "levels": (500, 850)}, True),
        ({}, True),
    ],
)
def test_cases_on_few_meshes_stand_for_those_on_others(
    parameters: dict[str, Any], stays: bool
) -> None:
    assert is_representative(parameters) == stays
