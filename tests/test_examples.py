"""Examples are run, and fit the data that they are meant for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from support.selection import exhaustive
from weathermixer.check import check
from weathermixer.data.making.synthetic import write_synthetic

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
FIRST, *OTHERS = sorted(EXAMPLES.glob("*.py"))
# A small store in place of the one that an example is made for.
STORES: dict[str, dict[str, Any]] = {
    "era5-surface-1deg": {
        "grid": (13, 24),
        "times": 24,
        "step_hours": 7.0,
        "start": np.datetime64("2026-03-25", "s"),
        "static": (),
    },
    "levels-only": {"grid": (8, 16), "times": 24},
    "planet": {"grid": (8, 16), "times": 24},
    "published-025deg": {"grid": (4, 120), "times": 24},
}
# An archive of forty years is taken for a few days.
PERIODS = {
    "published-025deg": (
        "--data.train=2000-01-01/2000-01-04",
        "--data.validation=2000-01-05/2000-01-06",
    )
}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_configuration_fits_data_of_its_kind(path: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    description = dict(STORES[path.stem])
    for key in ("variables", "levels"):
        if key in settings["data"]:
            description[key] = tuple(settings["data"][key])
    write_synthetic(tmp_path / "store.zarr", processes=1, **description)
    overrides = [f"--data.store={tmp_path / 'store.zarr'}", *PERIODS.get(path.stem, ())]
    assert check(path, overrides).problems == []


@pytest.mark.parametrize("path", exhaustive(FIRST, *OTHERS), ids=lambda path: path.stem)
def test_a_network_learns_the_same_on_four_ranks_as_on_one(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4", path],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    difference = re.fullmatch(r"2 × 2 ranks differ by (\S+)\n", done.stdout)
    assert difference, done.stdout
    assert float(difference[1]) < 1e-12
