"""A tiny store, and a run with random weights on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.forecast_runs import write_run
from support.waves import write_waves


@pytest.fixture(scope="session")
def waves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_waves(tmp_path_factory.mktemp("forecast-waves") / "waves.zarr")


@pytest.fixture(scope="session")
def random_run(waves: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose checkpoint changes the state: an untrained network would be persistence."""
    return write_run(tmp_path_factory.mktemp("run") / "run", waves, scale=0.05)
