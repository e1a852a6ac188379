"""Text files are UTF-8 whatever the locale says: each place that opens one names an encoding."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import weathermixer

PACKAGE = Path(weathermixer.__file__).parent


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.name)
def test_every_text_file_is_opened_with_an_encoding(path: Path) -> None:
    lines = [
        call.lineno
        for call in text_calls(ast.parse(path.read_text(encoding="utf-8")))
        if not any(keyword.arg == "encoding" for keyword in call.keywords)
    ]
    assert not lines, f"{path} opens text without an encoding in lines {lines}"


def text_calls(tree: ast.Module) -> Iterator[ast.Call]:
    """Calls that read, write or open a text file."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name):
            opens = node.func.id == "open"
        else:
            method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            constants = [part.value for part in node.args if isinstance(part, ast.Constant)]
            if method == "open":  # other things open as well, but not with a mode of text
                opens = bool(constants) and set(str(constants[0])) <= set("rwax+")
            else:  # importlib's resources take the encoding first
                opens = method in ("read_text", "write_text") and "utf-8" not in constants
        if opens:
            yield node
