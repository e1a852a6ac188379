"""A small truth that the tests of verification share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from support.planets import Planet, write_planet


@pytest.fixture
def make_planet(tmp_path: Path) -> Callable[..., Planet]:
    return partial(write_planet, tmp_path / "truth.zarr")
