"""The page of predictions is what its command makes of the machine files of the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.exhaustive
def test_the_page_of_predictions_is_made_anew_the_same(tmp_path: Path) -> None:
    script = ROOT / "benchmarks/claims.py"
    page = tmp_path / "claims.md"
    run = subprocess.run(
        [sys.executable, str(script), "--out", str(page)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr
    expected = (ROOT / "docs/claims.md").read_text(encoding="utf-8")
    assert page.read_text(encoding="utf-8") == expected
