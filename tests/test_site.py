"""The site that `make docs` made: as its files stand, and in a browser, also one of a phone.

`make test-site` names the folder of the site in ``WEATHERMIXER_SITE``.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PHONE = {"width": 390, "height": 844}
# Words of the scheme, of scores, of a setting, of a command and of the code, and where they stand.
SOUGHT = {
    "spread-skill": "store.html",
    "all-gather": "glossary.html",
    "small_scales": "settings.html",
    "inspect": "commands.html",
    "TrainedModel": "python.html",
    "Muon": "recipe.html",
}


@pytest.fixture(scope="session")
def site() -> Path:
    folder = os.environ.get("WEATHERMIXER_SITE")
    if not folder:
        pytest.skip("WEATHERMIXER_SITE is unset: it names a built site, as in make test-site")
    if not (Path(folder) / "index.html").is_file():
        pytest.fail(f"there is no site in {folder}: make docs makes one")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[Path, str]:
    """Every page's source."""
    return {path: path.read_text(encoding="utf-8") for path in sorted(site.rglob("*.html"))}


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Says nothing of what was asked for."""


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where a browser finds the site: search fetches excerpts, which it cannot from files."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_every_link_leads_somewhere(site: Path, pages: dict[Path, str]) -> None:
    files = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    names = {path: path.relative_to(site).as_posix() for path in pages}
    anchors = {
        names[path]: {"", *re.findall(r'\sid="([^"]*)"', text)} for path, text in pages.items()
    }
    dead = []
    for path, text in pages.items():
        for address in set(re.findall(r'<a\b[^>]*\shref="([^"]*)"', text)):
            parts = urlsplit(urljoin(names[path], unescape(address)))
            # Other versions are beside this one only where it is published.
            if parts.scheme or parts.path.endswith("versions.html"):
                continue
            target, anchor = unquote(parts.path), unquote(parts.fragment)
            if target not in files or anchor not in anchors.get(target, {""}):
                dead.append(f"{names[path]}: {address}")
    assert dead == []


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, str]) -> None:
    loaded = r'<(?:img|script|source|iframe)\b[^>]*\ssrc="([^"]*)"|<link\b([^>]*)>'
    lacking = []
    for path, text in pages.items():
        for source, link in re.findall(loaded, text):
            is_navigation = re.search(r'rel="(?:next|prev|index|search)"', link)
            address = source or "".join(re.findall(r'href="([^"]*)"', link))
            parts = urlsplit(unescape(address))
            is_there = parts.scheme == "data" or (path.parent / unquote(parts.path)).is_file()
            if not is_navigation and not is_there:
                lacking.append(f"{path.relative_to(site)}: {address}")
    assert lacking == []


def test_the_pages_are_one_book(site: Path, pages: dict[Path, str]) -> None:
    """Going on from the first page, one comes by every guide, each with a title of its own."""
    read = [site / "index.html"]
    while following := re.search(r'<link rel="next"[^>]*href="([^"]*)"', pages[read[-1]]):
        read.append((read[-1].parent / following[1]).resolve())
    guides = [*DOCS.glob("*.md"), *DOCS.glob("notebooks/*.ipynb")]
    expected = {site / path.relative_to(DOCS).with_suffix(".html") for path in guides}
    assert expected <= set(read)
    titles = Counter(re.findall(r"<title>(.*?)</title>", pages[path])[0] for path in expected)
    assert [title for title, count in titles.items() if count > 1] == []


def test_no_page_shows_its_markup(pages: dict[Path, str]) -> None:
    """What Markdown and reST are written in has become something, but in code."""
    code = re.compile(r"<(pre|code|script|style|math|title)\b.*?</\1>|<[^>]*>", re.DOTALL)
    marks = re.compile(r"\]\([\w./#-]+\)|```|:\w+:`|<!--|\$\\|\\\(|\*\*\w")
    shown = {
        path.name: found
        for path, text in pages.items()
        if "_modules" not in path.parts
        if (found := marks.findall(unescape(code.sub(" ", text.partition("<body")[2]))))
    }
    assert shown == {}


@pytest.fixture
def phone(browser: Any, address: str) -> Iterator[tuple[Any, list[str]]]:
    """A page as wide as a phone, and what goes wrong on it."""
    context = browser.new_context(viewport=PHONE)
    page, wrong = context.new_page(), list[str]()
    page.on("console", lambda message: wrong.append(f"{page.url} says {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"{page.url} fails: {error}"))

    def note(request: Any) -> None:
        if not request.url.startswith((address, "data:")):
            wrong.append(f"{page.url} fetches {request.url}")

    def note_failure(request: Any) -> None:
        # What the next page cuts off, such as an icon on its way, is not lacking.
        if request.failure != "net::ERR_ABORTED":
            wrong.append(f"{page.url} lacks {request.url}: {request.failure}")

    page.on("request", note)
    page.on("requestfailed", note_failure)
    yield page, wrong
    context.close()


def test_every_page_opens_on_a_phone(
    site: Path, pages: dict[Path, str], address: str, phone: tuple[Any, list[str]]
) -> None:
    """Nothing is complained of or fetched, no page is wider than the phone, and all can be read."""
    page, wrong = phone
    names = [path.relative_to(site).as_posix() for path in pages]
    # Pages of sources are all alike: a dozen of them.
    sources = [name for name in names if name.startswith("_modules/")]
    for name in sorted({*names} - {*sources} | {*sources[:: max(len(sources) // 12, 1)]}):
        page.goto(f"{address}/{name}")
        wrong += [f"{name}: {one}" for one in page.evaluate(_UNREADABLE)]
    assert wrong == []


@pytest.mark.parametrize(("word", "found"), SOUGHT.items(), ids=SOUGHT)
def test_search_finds(address: str, phone: tuple[Any, list[str]], word: str, found: str) -> None:
    page, wrong = phone
    page.goto(f"{address}/search.html?q={word}")
    page.wait_for_selector(f'#search-results a[href*="{found}"]', timeout=20_000)
    assert wrong == []


# What cannot be read: a page or its text that is wider than the screen, letters below 11 pixels
# (but in indices and formulas, which are smaller than their line), pictures that are not shown.
_UNREADABLE = """() => {
  const found = [];
  for (const selector of ["html", "body", ".main", ".content", "article"]) {
    const element = document.querySelector(selector);
    if (element && element.scrollWidth > Math.max(element.clientWidth, innerWidth))
      found.push(`${selector} is ${element.scrollWidth} pixels wide`);
  }
  const words = document.createTreeWalker(document.querySelector("article") ?? document.body, 4);
  const small = new Set();
  while (words.nextNode()) {
    const element = words.currentNode.parentElement;
    if (!words.currentNode.data.trim() || !element.checkVisibility()) continue;
    if (element.closest("sup, sub, math, svg, script, style")) continue;
    const size = parseFloat(getComputedStyle(element).fontSize);
    if (size < 11) small.add(`"${words.currentNode.data.trim().slice(0, 30)}" has ${size} pixels`);
  }
  found.push(...[...small].slice(0, 5));
  for (const picture of document.images)
    if (picture.complete && !picture.naturalWidth) found.push(`${picture.src} is not shown`);
  return found;
}"""
