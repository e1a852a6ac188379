"""Pages of predictions are what their commands make of the machine files of the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["claims", "cards"])
def test_a_page_of_predictions_is_made_anew_the_same(name: str, tmp_path: Path) -> None:
    script = ROOT / f"benchmarks/{name}.py"
    page = tmp_path / f"{name}.md"
    run = subprocess.run(
        [sys.executable, str(script), "--out", str(page)],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert run.returncode == 0, run.stderr
    expected = (ROOT / f"docs/{name}.md").read_text(encoding="utf-8")
    assert page.read_text(encoding="utf-8") == expected
