"""Run the tutorials, and keep what they print and draw in them: ``make notebooks``.

A notebook is run in an empty folder, beside the planet that the one before it has simulated. Of
progress on a terminal the last line is kept.
"""

from __future__ import annotations

import base64
import io
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def main(paths: list[str]) -> None:
    """Run some notebooks, by their paths."""
    with tempfile.TemporaryDirectory() as folder:
        # Commands are those of this environment.
        os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        for path in paths:
            notebook = nbformat.read(path, as_version=4)
            NotebookClient(
                notebook, timeout=1800, resources={"metadata": {"path": folder}}
            ).execute()
            for cell in notebook.cells:
                _tidy(cell)
            nbformat.write(notebook, path)
            print(f"ran {Path(path).name}")


def _tidy(cell: nbformat.NotebookNode) -> None:
    """Join what a cell printed, without its progress, and leave out when it ran.

    What is shown as text as well is kept as text, and pictures in few colours, since all of it is
    kept with the code.
    """
    cell.metadata.pop("execution", None)
    kept: list[nbformat.NotebookNode] = []
    for output in cell.get("outputs", []):
        if output.output_type != "stream":
            data = output.get("data", {})
            if "text/plain" in data:
                data.pop("text/html", None)
            if "image/png" in data:
                data["image/png"] = _in_few_colours(data["image/png"])
            kept.append(output)
        elif kept and kept[-1].get("name") == output.name:
            kept[-1].text += output.text
        else:
            kept.append(output)
    for output in kept:
        if output.output_type == "stream":
            lines = _ESCAPES.sub("", output.text.replace("\r\n", "\n")).split("\n")
            said = [line.rpartition("\r")[2].rstrip() for line in lines]
            output.text = "\n".join(line for line in said if line and "━" not in line) + "\n"
    if "outputs" in cell:
        cell.outputs = [each for each in kept if each.get("text", "kept").strip()]


def _in_few_colours(png: str) -> str:
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    written = io.BytesIO()
    picture.quantize(64, dither=Image.Dither.NONE).save(written, "png", optimize=True)
    return base64.b64encode(written.getvalue()).decode()


if __name__ == "__main__":
    main(sys.argv[1:])
