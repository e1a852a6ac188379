"""Says which links of Markdown documents lead nowhere: ``python tools/check_links.py FILE...``.

Only what a clone of the repository can answer is looked at, so nothing is asked of any network:
whether a relative link names a file or folder of the repository, and its anchor a heading there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.anchors import anchors_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin

ROOT = Path(__file__).resolve().parents[1]


def main(names: list[str]) -> int:
    """Prints every link that leads nowhere; the exit status, 1 where there is one."""
    dead = [complaint for name in names for complaint in dead_links(Path(name).resolve())]
    print("\n".join(dead), file=sys.stderr, end="\n" if dead else "")
    return int(bool(dead))


def dead_links(document: Path, root: Path = ROOT) -> Iterator[str]:
    """A sentence for each link of a document that leads nowhere."""
    for line, address in links(document):
        parts = urlsplit(address)
        if parts.scheme or parts.netloc:
            continue
        target = (document.parent / unquote(parts.path)).resolve() if parts.path else document
        where = f"{document.relative_to(root)}:{line}: {address}"
        if not target.is_relative_to(root):
            yield f"{where} leads out of the repository"
        elif not target.exists():
            yield f"{where} names no file"
        elif parts.fragment and target.suffix == ".md" and parts.fragment not in anchors(target):
            yield f"{where} names no heading of {target.relative_to(root)}"


def links(document: Path) -> Iterator[tuple[int, str]]:
    """Line and address of each link and picture of a document."""
    for block in parse(document):
        for token in block.children or []:
            address = token.attrGet("href" if token.type == "link_open" else "src")
            if token.type in ("link_open", "image") and address:
                yield (block.map or [0])[0] + 1, str(address)


@cache
def anchors(document: Path) -> frozenset[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = (token for token in parse(document) if token.type == "heading_open")
    return frozenset(str(heading.attrGet("id")) for heading in headings)


def parse(document: Path) -> list[Token]:
    parser = MarkdownIt("commonmark").enable("table")
    parser.use(dollarmath_plugin).use(anchors_plugin, max_level=6)
    return parser.parse(document.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
