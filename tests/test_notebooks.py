"""The tutorials run as they stand, made small."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))
# A tenth of so many days has room for forecasts of ten.
SMALL = {"DAYS": "150", "STEPS": "20", "RANKS": "2"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all of them run, so that a planet is simulated once."""
    return tmp_path_factory.mktemp("notebooks")


def _made_small(source: str) -> str:
    return re.sub(
        r"^(\w+) = (\d+)", lambda m: f"{m[1]} = {SMALL[m[1]]}", source, flags=re.MULTILINE
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_tutorial_runs(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Commands are those of this environment.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    notebook = nbformat.read(path, as_version=4)
    (parameters,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    parameters.source = _made_small(parameters.source)
    for cell in notebook.cells:
        cell.source = cell.source.replace("--days 365", "--days 150")
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, resources=resources).execute()
    said = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    assert "Traceback" not in said
    for made in folder.iterdir():  # but for the planet, which all of them look at
        if made.name != "planet.zarr":
            shutil.rmtree(made) if made.is_dir() else made.unlink()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_tutorial_shows_what_it_drew(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    drawn = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert drawn
    ran = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert ran == list(range(1, len(ran) + 1)), "run from top to bottom"
    assert "/tmp/" not in json.dumps(notebook), "nothing of the machine that it ran on"
