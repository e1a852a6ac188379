"""A store, as a file that Earth2Studio reads too, and runs on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import xarray as xr

from support.earth2 import (
    run_of,
)
from support.waves import write_waves
from weathermixer.earth2studio.names import earth2studio_name


@pytest.fixture(scope="module")
def waves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_waves(tmp_path_factory.mktemp("waves") / "waves.zarr", levels=(500, 850))


@pytest.fixture(scope="module")
def source(waves: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store as a file that Earth2Studio's own source reads."""
    state = xr.open_zarr(waves)["state"]
    names = [earth2studio_name(str(name)) for name in state.channel.values]
    path = tmp_path_factory.mktemp("source") / "states.nc"
    renamed = state.rename(channel="variable", latitude="lat", longitude="lon")
    renamed.assign_coords(variable=names).to_netcdf(path)
    return path


@pytest.fixture(scope="module")
def run(waves: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(waves, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def noisy_run(waves: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(waves, tmp_path_factory.mktemp("noisy"), model={"noise": 3})
