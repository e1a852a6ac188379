"""Text files are UTF-8 whatever the locale says, so each place that opens one names its encoding."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import weathermixer

PACKAGE = Path(weathermixer.__file__).parent


@pytest.mark.parametrize("path", PACKAGE.rglob("*.py"), ids=lambda path: path.name)
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
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        texts = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        if name in ("read_text", "write_text"):
            # importlib's resources take the encoding first.
            if "utf-8" not in texts:
                yield node
        elif name == "open" and texts and set(str(texts[0])) <= set("rwax+"):
            yield node
        elif isinstance(node.func, ast.Name) and node.func.id == "open":
            yield node
