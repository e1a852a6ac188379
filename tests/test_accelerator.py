"""The measurement of an accelerator runs without one, at a small size, and counts rightly."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "accelerator.py"

# The small network: two levels of five variables and four at the surface, three static fields;
# a grid of 8 × 48 in patches of 1 × 2; 48 channels, two blocks.
PROGNOSTIC, STATIC, POINTS, TOKENS, CHANNELS, BLOCKS = 14, 3, 8 * 48, 192, 48, 2


def operations() -> int:
    """Operations of all products of a step: three for each map, two for the encoder."""
    encoder = TOKENS * 2 * (PROGNOSTIC + STATIC) * CHANNELS
    tokens = 2 * TOKENS * (TOKENS // 2) * CHANNELS
    channels = 2 * TOKENS * CHANNELS * CHANNELS
    decoder = TOKENS * 2 * CHANNELS * 2 * PROGNOSTIC
    head = POINTS * 2 * PROGNOSTIC * PROGNOSTIC
    return 2 * (2 * encoder + 3 * (BLOCKS * (tokens + channels) + decoder + head))


@pytest.mark.exhaustive
@pytest.mark.parametrize("compiled", [False, True])
def test_it_measures_everything_without_an_accelerator(tmp_path: Path, compiled: bool) -> None:
    if compiled and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("torch.compile needs a C++ compiler, and none of c++, g++, clang++ is there")
    out = tmp_path / "accelerator.json"
    options = ["--device", "cpu", "--small", "--json", str(out)]
    run = subprocess.run(
        [sys.executable, str(SCRIPT), *options, *([] if compiled else ["--no-compile"])],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["machine"]["device"] == "cpu"
    assert record["small"]

    parity = {row["dtype"]: row for row in record["parity"]}
    assert list(parity) == ["float64", "float32", "tf32", "bfloat16"]
    assert all(row["within"] for row in parity.values())

    networks = record["network"]
    assert [(row["dtype"], row["compile"]) for row in networks] == [
        (dtype, compile)
        for dtype in ("tf32", "bfloat16")
        for compile in ((False, True) if compiled else (False,))
    ]
    for row in networks:
        assert row["operations"] == operations()
        assert row["seconds"]["step"] > 0.0 < row["peak_fraction"]
        assert row["tokens"] == TOKENS

    ranks: list[dict[str, Any]] = record["ranks"]
    meshes = [(2, 1), (1, 2), (4, 1), (2, 2), (1, 4), (8, 1), (4, 2), (2, 4), (1, 8)]
    layouts = [(row["layout"]["domain"], row["layout"]["tensor"]) for row in ranks]
    assert sorted(layouts) == sorted(2 * meshes)
    for row in ranks:
        ways = row["layout"]["domain"] * row["layout"]["tensor"]
        # The first rank has the most of what does not divide: 14 variables over 4 and 8 ranks.
        assert operations() <= ways * row["operations"] < 1.3 * operations()
        assert row["peak_memory_bytes"] > 0 < row["seconds"]["passes"]
