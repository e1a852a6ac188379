"""What the site takes from the program and from scripts: all of it, and as it was said."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import click
import pytest
from markdown_it import MarkdownIt

from support.scripts import ROOT, load_script
from weathermixer.cli import commands
from weathermixer.config import settings


@pytest.fixture(scope="module")
def generated() -> ModuleType:
    return load_script("generated", "docs")


def sections(page: str) -> dict[str, str]:
    """The text below each heading of a page, by the heading without its marks."""
    found, name = {"": ""}, ""
    for line in page.splitlines():
        if line.startswith("#"):
            name = line.strip("#` ")
            assert name not in found
            found[name] = ""
        else:
            found[name] += line + "\n"
    return found


def every_command(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    for name, each in getattr(command, "commands", {}).items():
        yield from every_command(each, f"{path} {name}")


def test_every_command_has_a_section_with_every_option(generated: ModuleType) -> None:
    page = sections(generated.commands_page())
    below = dict(every_command(commands, "weathermixer"))
    del below["weathermixer"]
    assert set(page) - {""} == set(below)
    for path, command in below.items():
        for option in command.params:
            if isinstance(option, click.Option):
                assert f"`{option.opts[0]}" in page[path], (path, option.opts)


def test_every_setting_has_a_section_with_its_default(generated: ModuleType) -> None:
    page = sections(generated.settings_page())
    keys = {key for key, _, _ in settings()}
    assert keys == {name for name in page if "." in name or name == "preset"}
    for key, default, _ in settings():
        shown = "has to be set" if default == "required" else f"default: `{default or 'empty'}`"
        assert f"* {shown}\n" in page[key]
    assert "* with `preset: published`: `1, 60`" in page["model.patch"]


def test_every_script_that_can_be_run_has_a_section(generated: ModuleType) -> None:
    page = sections(generated.measurements_page())
    scripts = [
        path.name
        for path in (ROOT / "benchmarks").glob("*.py")
        if f"python benchmarks/{path.name}" in path.read_text(encoding="utf-8").split('"""')[1]
    ]
    assert set(scripts) <= set(page)


def test_pages_say_where_the_text_belongs(generated: ModuleType) -> None:
    for name in generated.PAGES:
        page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
        assert page.count(generated.PLACE) == 1


@pytest.mark.parametrize(
    "sentence",
    [
        "a table such as {2m_temperature: 3}; or *all* of <these> [default: 1e-6]",
        "total_precipitation_6hr and 2_times_ | $x$, a \\ and #1",
        "the box's corner",
    ],
)
def test_sentences_are_shown_as_they_are(generated: ModuleType, sentence: str) -> None:
    line = MarkdownIt().parse(generated.as_markdown(sentence))[1].children or []
    assert "".join(token.content for token in line) == sentence


def test_what_is_typed_is_code(generated: ModuleType) -> None:
    said = generated.as_markdown("with --out, 'bench machine' and training.error=crps, `plan` too")
    assert said == "with `--out`, `bench machine` and `training.error=crps`, `plan` too"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ({"type": "integer", "exclusiveMinimum": 0, "maximum": 10**12}, "a whole number above 0"),
        ({"type": "number", "minimum": 0, "exclusiveMaximum": 1.0}, "a number from 0 below 1"),
        ({"enum": ["a", "b", "c"], "type": "string"}, "`a`, `b` or `c`"),
        ({"anyOf": [{"const": "x", "type": "string"}, {"type": "null"}]}, "`x`, or `null`"),
        (
            {
                "anyOf": [
                    {"items": {"type": "string"}, "type": "array"},
                    {"type": ["string", "number"]},
                ]
            },
            "a list, of which each entry is text",
        ),
        (
            {"type": "object", "additionalProperties": {"type": "number", "minimum": 0}},
            "a table, of which each value is a number from 0",
        ),
    ],
)
def test_values_are_told_in_words(generated: ModuleType, kind: dict[str, Any], words: str) -> None:
    assert generated.in_words(kind) == words


def test_drawn_pictures_are_those_of_their_scripts() -> None:
    images = ROOT / "docs" / "images"
    jigsaw, model = (load_script(name, "docs/images") for name in ("jigsaw", "model"))
    drawn = {f"jigsaw-{scheme}": jigsaw.draw(scheme) for scheme in jigsaw.SCHEMES}
    for name, text in {**drawn, "model": model.draw()}.items():
        assert (images / f"{name}.svg").read_text(encoding="utf-8") == text, name
