"""The page in a browser: headless Chromium, driven by Playwright."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from .conftest import Demonstration, EnsemblePage


@dataclass
class Visit:
    """A page that is shown, what it complained of and what it asked for."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def visit(browser: Any, request: pytest.FixtureRequest) -> Iterator[Visit]:
    param = dict(getattr(request, "param", {}))
    # Not an argument: that would be made first, and in vain where there is no browser.
    made: Demonstration | EnsemblePage = request.getfixturevalue(param.pop("of", "demonstration"))
    options = {"viewport": {"width": 1280, "height": 900}, **param}
    context = browser.new_context(**options)
    shown = Visit(context.new_page())
    shown.page.on("console", lambda message: shown.complaints.append(message.text))
    shown.page.on("pageerror", lambda error: shown.complaints.append(str(error)))
    shown.page.on("request", lambda request: shown.requests.append(request.url))
    shown.page.goto(made.page.as_uri())
    yield shown
    context.close()


def _shift(visit: Visit) -> float:
    """How many pixels the strip of the first shown map is moved up."""
    code = "() => -new DOMMatrix(getComputedStyle(document.querySelector('.strip')).transform).f"
    return float(visit.page.evaluate(code))


def test_nothing_is_fetched_and_nothing_goes_wrong(visit: Visit) -> None:
    visit.page.wait_for_selector("#training-charts .plot path.line")
    assert visit.complaints == []
    assert len([url for url in visit.requests if not url.startswith("data:")]) == 1


def test_lead_time_moves_the_maps_and_says_so(visit: Visit) -> None:
    page = visit.page
    first = page.inner_text("#lead-label")
    picture = page.locator(".channel:not([hidden]) .map svg").first
    before = picture.screenshot()
    assert _shift(visit) == 0.0
    assert page.is_disabled("#lead-back")

    page.focus("#lead")
    page.keyboard.press("ArrowRight")
    height = _shift(visit)
    assert height > 100.0
    second = page.inner_text("#lead-label")
    assert second != first
    assert picture.screenshot() != before
    assert second.split(",")[0].replace("\u00a0", " ") in (
        picture.get_attribute("aria-label") or ""
    ).replace("\u00a0", " ")

    page.click("#lead-on")
    assert _shift(visit) == 2.0 * height
    page.keyboard.press("Tab")
    page.click("#lead-back")
    page.click("#lead-back")
    assert _shift(visit) == 0.0
    assert page.inner_text("#lead-label") == first


def test_maps_play_and_pause(visit: Visit) -> None:
    page = visit.page
    first = page.inner_text("#lead-label")
    page.click("#lead-play")
    page.wait_for_function(
        "first => document.getElementById('lead-label').textContent !== first", arg=first
    )
    page.click("#lead-play")
    assert page.inner_text("#lead-play") == "Play"


def test_menus_change_charts_maps_and_tables(visit: Visit) -> None:
    page = visit.page
    curve = page.locator("#score-charts .plot path.line.model").first
    before = curve.get_attribute("d")
    page.select_option("#channel", label="2 m temperature")
    assert page.locator("#score-charts .plot path.line.model").first.get_attribute("d") != before
    shown = page.inner_text(".channel:not([hidden]) figcaption strong")
    page.select_option("#map-channel", index=1)
    assert page.inner_text(".channel:not([hidden]) figcaption strong") != shown
    assert page.is_visible("#panel-skill-persistence")
    page.focus("#tab-skill-persistence")
    page.keyboard.press("ArrowRight")
    assert page.is_visible("#panel-rmse")
    assert not page.is_visible("#panel-skill-persistence")


def test_a_chart_is_read_out_with_the_arrow_keys(visit: Visit) -> None:
    page = visit.page
    page.locator("#score-charts svg[role=img]").first.focus()
    page.keyboard.press("ArrowRight")
    said = page.inner_text("#score-charts .tip >> nth=0")
    assert said.startswith("6 h")
    assert "persistence:" in said
    page.keyboard.press("End")
    assert page.inner_text("#score-charts .tip >> nth=0").startswith("36 h")


@pytest.mark.parametrize("visit", [{"of": "ensemble_page"}], indirect=True, ids=["ensemble"])
def test_plumes_are_stepped_through_by_initial_time_and_place(visit: Visit) -> None:
    page = visit.page
    assert len(page.locator("#plume-charts .chart").all()) == 2
    members = page.locator("#plume-charts .chart >> nth=0").locator(".plot path.line.member")
    assert len(members.all()) == 3
    before = members.first.get_attribute("d")
    assert page.inner_text("#start-label") == "From 2001-03-01 00:00 UTC"
    page.click("#start-on")
    assert page.inner_text("#start-label") == "From 2001-03-01 06:00 UTC"
    second = members.first.get_attribute("d")
    assert second != before
    page.select_option("#place", index=1)
    assert members.first.get_attribute("d") != second
    assert "grid point 70°S 0°E" in page.inner_text("#plume-charts figcaption >> nth=0")
    page.locator("#plume-charts svg[role=img]").first.focus()
    page.keyboard.press("End")
    said = page.inner_text("#plume-charts .tip >> nth=0")
    assert " to " in said.split("3 members:")[1]
    assert page.locator("#score-charts figcaption", has_text="Rank of the truth").count() == 1
    assert visit.complaints == []


@pytest.mark.parametrize(
    "visit",
    [
        {"viewport": {"width": 390, "height": 844}},
        {"viewport": {"width": 390, "height": 844}, "of": "ensemble_page"},
    ],
    indirect=True,
    ids=["single", "ensemble"],
)
def test_a_phone_does_not_scroll_sideways(visit: Visit) -> None:
    root = "document.documentElement"
    assert visit.page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")
    assert visit.page.evaluate(f"{root}.clientWidth") == 390


@pytest.mark.parametrize(
    "visit", [{"color_scheme": "light"}, {"color_scheme": "dark"}], indirect=True, ids=["l", "d"]
)
def test_text_stands_out_in_light_and_in_dark(visit: Visit) -> None:
    selectors = ("body", ".lede", ".tile .note", ".tabs label", ".meaning", ".notes", ".facts th")
    for selector in selectors:
        if visit.page.locator(selector).count():
            ratio = visit.page.evaluate(_CONTRAST, selector)
            assert ratio >= 4.5, (selector, ratio)


def test_the_printed_page_has_every_section_and_the_first_lead_time(visit: Visit) -> None:
    page = visit.page
    page.click("#lead-on")
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.emulate_media(media="print")
    assert _shift(visit) == 0.0
    for selector in ("#panel-rmse", "#panel-skill-persistence", "#scores-shown", "#training"):
        assert page.is_visible(selector)
    assert all(figure.is_visible() for figure in page.locator(".channel").all())
    assert not page.is_visible("#lead")


def test_without_scripts_tables_and_first_maps_remain(
    browser: Any, demonstration: Demonstration
) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(demonstration.page.as_uri())
    assert page.is_visible("#panel-skill-persistence")
    assert page.is_visible(".channel >> nth=1")
    assert not page.is_visible("#lead")
    context.close()


# The contrast of WCAG 2 between an element's text and the first opaque ground behind it.
_CONTRAST = """selector => {
  const element = document.querySelector(selector);
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = parts(colour).map((one) => one / 255)
      .map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let ground = element;
  const isClear = (one) => (parts(getComputedStyle(one).backgroundColor)[3] ?? 1) === 0;
  while (ground.parentElement && isClear(ground)) ground = ground.parentElement;
  const colours = [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor];
  const [a, b] = colours.map(light);
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""
