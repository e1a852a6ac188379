"""A tiny store that the training tests share, and ranks to train on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ranks import POOL, Pool
from waves import write_waves


@pytest.fixture(scope="session")
def waves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_waves(tmp_path_factory.mktemp("waves") / "waves.zarr")


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """Ranks that tests send work to."""
    yield POOL
    POOL.close()
