"""anemoi-inference's own ranks hold a network together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml

from support.anemois import (
    CHANNELS,
    SHOWN,
    field,
    fields,
    initial,
    ours,
)
from support.processes import Processes


@pytest.mark.parametrize(
    ("ranks", "options"),
    [
        (2, {}),
        pytest.param(
            2,
            {"member": 2, "overrides": ["parallel.tensor=2"]},
            marks=pytest.mark.exhaustive,
        ),
        pytest.param(3, {"overrides": ["parallel.domain=3"]}, marks=pytest.mark.exhaustive),
        pytest.param(
            4,
            {"overrides": ["parallel.domain=2", "parallel.tensor=2"]},
            marks=pytest.mark.exhaustive,
        ),
    ],
)
def test_ranks_of_anemois_make_our_forecast(
    folder: Path, tmp_path: Path, processes: Processes, ranks: int, options: dict[str, Any]
) -> None:
    config = yaml.safe_load(SHOWN["yaml"][1])
    config["runner"]["parallel"].update(options)
    config |= {"device": "cpu", "output": {"netcdf": str(tmp_path / "cut.nc")}}
    (tmp_path / "ranks.yaml").write_text(yaml.safe_dump(config))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    status, _, err = processes.run(
        *torchrun, "-m", "anemoi.inference", "run", tmp_path / "ranks.yaml"
    )
    assert status == 0, err
    member = options.get("member")
    expected = ours(folder / "model", tmp_path, members=None if member is None else 3)
    if member is not None:
        expected = expected.isel(realization=member)
    made = xr.open_dataset(tmp_path / "cut.nc")
    for channel in CHANNELS:
        np.testing.assert_array_equal(fields(made, channel)[0], initial(folder, channel))
        truth = field(expected, channel)
        np.testing.assert_allclose(
            fields(made, channel)[1:], truth, rtol=0, atol=2e-5 * truth.std()
        )
