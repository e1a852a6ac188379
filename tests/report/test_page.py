"""The page without a browser: its structure, its numbers, and that nothing is loaded."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from weathermixer.report.formatting import short_lead

from .conftest import HOSTILE, Demonstration

_VOID = {"meta", "input", "image", "path", "rect", "use", "link", "br", "circle"}


class _Reader(HTMLParser):
    """Elements, their nesting, and the cells of score tables."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, dict[str, list[float | None]]] = {}
        self.heads: dict[str, list[str]] = {}
        self.texts: list[str] = []
        self._table = self._row = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.elements.append((tag, values))
        if tag not in _VOID:
            self.open.append(tag)
        if (values.get("id") or "").startswith("panel-"):
            self._table = str(values["id"]).removeprefix("panel-")
            self.tables[self._table], self.heads[self._table] = {}, []
        if tag == "td" and self._table and self._row:
            self.tables[self._table][self._row].append(None)
        if tag == "data":
            self.tables[self._table][self._row][-1] = float(str(values["value"]))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "table":
            self._table = self._row = ""

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self._table and self.open and self.open[-1] == "th" and data.strip():
            if "tbody" not in self.open:
                self.heads[self._table].append(data)
            else:
                self._row = data.strip()
                self.tables[self._table][self._row] = []


@pytest.fixture(scope="module")
def read(demonstration: Demonstration) -> _Reader:
    reader = _Reader()
    reader.feed(demonstration.text)
    reader.close()
    return reader


def test_elements_are_closed_in_order_and_sections_are_there(read: _Reader) -> None:
    assert read.open == []
    names = {values["id"] for tag, values in read.elements if tag == "section" and "id" in values}
    assert names >= {"scores", "tables", "maps", "training", "configuration"}
    assert [tag for tag, _ in read.elements].count("h1") == 1
    ids = [values["id"] for _, values in read.elements if "id" in values]
    assert len(ids) == len(set(ids))


def test_every_number_of_the_tables_is_that_of_the_scores(
    read: _Reader, demonstration: Demonstration
) -> None:
    scores = demonstration.scores
    rows = {"Temperature, 850 hPa": "temperature_850", "2 m temperature": "2m_temperature"}
    head = read.heads["rmse"][1:]
    shown = {hours for hours in scores["pairs"] if short_lead(float(hours)) in head}
    assert len(shown) == len(head) >= 2
    for label, channel in rows.items():
        expected = [scores["scores"]["rmse"][channel][hours] for hours in sorted(shown, key=float)]
        assert read.tables["rmse"][label] == expected
        baseline = scores["baselines"]["persistence"]["rmse"][channel]
        skill = [
            1.0 - ours / baseline[hours]
            for ours, hours in zip(expected, sorted(shown, key=float), strict=True)
        ]
        assert read.tables["skill-persistence"][label] == pytest.approx(skill, rel=1e-12)


def test_names_from_the_user_are_escaped(read: _Reader, demonstration: Demonstration) -> None:
    assert "<b>" not in demonstration.text
    assert any(HOSTILE in text for text in read.texts)
    assert "b" not in {tag for tag, _ in read.elements}


def test_nothing_is_loaded_from_anywhere(read: _Reader) -> None:
    for tag, values in read.elements:
        for name in ("src", "href", "srcset", "data", "poster", "action"):
            value = values.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, value)
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in read.elements}
    policy = next(
        values["content"] or ""
        for tag, values in read.elements
        if values.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_styles_load_nothing_either(demonstration: Demonstration) -> None:
    style = demonstration.text.split("<style>")[1].split("</style>")[0]
    assert not re.search(r"url\(|@import", style)


def test_pictures_have_words_and_controls_have_labels(read: _Reader) -> None:
    pictures = [values for _, values in read.elements if values.get("role") == "img"]
    assert len(pictures) == 3 * 2
    assert all("hours after 2001-01-11 00:00 UTC" in (one["aria-label"] or "") for one in pictures)
    for tag, values in read.elements:
        if tag == "input":
            labelled = {one.get("for") for _, one in read.elements}
            assert "aria-label" in values or values["id"] in labelled | {"log-scale"}


def test_a_page_is_small(demonstration: Demonstration) -> None:
    assert demonstration.page.stat().st_size < 2_000_000
