"""Pages of documents that a script makes of what it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from harness import parser


def write_page(description: str, page: Path, make: Callable[[], str]) -> None:
    """The whole of such a script: make a page, and write it in its place or where ``--out`` says.

    ``description`` is what the script says of itself.
    """
    options = parser(description)
    options.add_argument("--out", type=Path, default=page, metavar="FILE", help="default: the page")
    out: Path = options.parse_args().out
    out.write_text(make(), encoding="utf-8")
    print(f"wrote {out}")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
