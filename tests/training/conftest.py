"""A tiny store that the training tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.waves import write_waves


@pytest.fixture(scope="session")
def waves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_waves(tmp_path_factory.mktemp("waves") / "waves.zarr")
