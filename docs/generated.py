"""What pages of the site's reference take from the program itself, each time the site is built.

A page of ``PAGES`` holds `PLACE`, in which the text belongs. So commands, settings and measurements
are described once, where they are defined, and no page can fall behind them.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from weathermixer.cli import commands
from weathermixer.config import settings
from weathermixer.config.kinds import text_of
from weathermixer.config.presets import PUBLISHED
from weathermixer.config.schema import config_schema

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
PLACE = "<!-- made when the site is built -->"
# What is typed, within a sentence: options, settings, and what the help puts between quotes.
TYPED = re.compile(
    r"(`[^`]+`|--[a-z][\w.-]*|\b(?:model|data|parallel|training|checkpoint|logging)\.[a-z]\w*(?:=\w+)?"
    r"|(?<!\w)'[^' ][^']*'(?!\w)|\{[^}]*\})"
)


def commands_page() -> str:
    """A section for each command: what it does, how it is called, and what it takes."""
    context = click.Context(commands, info_name="weathermixer", **commands.context_settings)
    return "\n".join(_of_command(commands, context, level=1))


def settings_page() -> str:
    """A section for each setting of the configuration, in the order of the file."""
    return "\n".join(_of_settings())


def measurements_page() -> str:
    """A section for each script of ``benchmarks/`` that is run: what it measures, and how."""
    return "\n".join(_of_measurements())


PAGES: Mapping[str, Callable[[], str]] = {
    "commands": commands_page,
    "settings": settings_page,
    "repeating": measurements_page,
}


def as_markdown(text: str) -> str:
    """A sentence of the program as Markdown that shows it as it is, and what is typed as code."""
    parts = TYPED.split(text)
    parts[::2] = [re.sub(r"([\\`*_<>\[\]#$|])", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = ["`" + part.strip("`'") + "`" for part in parts[1::2]]
    return "".join(parts)


def _of_command(command: click.Command, context: click.Context, level: int) -> Iterator[str]:
    if level > 1:
        yield f"{'#' * level} `{context.command_path}`\n"
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        yield as_markdown(" ".join(paragraph.split())) + "\n"
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            child = click.Context(each, context, name, **each.context_settings)
            yield from _of_command(each, child, level + 1)
        return
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"```none\n{usage}\n```\n"
    for parameter in command.params:
        names, meaning = parameter.get_help_record(context) or ("", "")
        if meaning:
            yield f"`{names}`\n: {as_markdown(meaning)}\n"
    if any(parameter.name == "overrides" for parameter in command.params):
        yield "`--section.key=value`\n: A [setting](settings.md), in the place of the file's.\n"


def _of_settings() -> Iterator[str]:
    schema = config_schema()
    section = ""
    for key, default, meaning in settings():
        name, _, member = key.partition(".")
        kind = schema["properties"][name]
        if member:
            definition = schema["$defs"][name.capitalize()]
            kind = definition["properties"][member]
            if name != section:
                yield f"## {name}\n\n{as_markdown(definition['description'])}\n"
        section = name
        yield f"{'###' if member else '##'} `{key}`\n\n{as_markdown(meaning)}\n"
        yield f"* takes {in_words(kind)}"
        yield "* has to be set" if default == "required" else f"* default: `{default or 'empty'}`"
        published = PUBLISHED.get(name, {}).get(member)
        if published is not None:
            value = tuple(published) if isinstance(published, list) else published
            yield f"* with `preset: published`: `{text_of(value)}`"
        pages = list(_pages_that_name(*(f"`{key}{end}" for end in "`=:")))
        if pages:
            yield f"* more in {', '.join(pages)}"
        yield ""


def in_words(kind: Mapping[str, Any]) -> str:
    """The values that a setting takes, of its JSON Schema."""
    if "anyOf" in kind:
        # Lists may also be written as text, which the page says once.
        kinds = [each for each in kind["anyOf"] if not isinstance(each.get("type"), list)]
        return ", or ".join(dict.fromkeys(map(in_words, kinds)))
    if "enum" in kind or "const" in kind:
        *others, last = (f"`{value}`" for value in kind.get("enum", [kind.get("const")]))
        return " or ".join(filter(None, [", ".join(others), last]))
    if kind["type"] == "array":
        if "prefixItems" in kind:
            return f"a list of {len(kind['prefixItems'])}, each {in_words(kind['prefixItems'][0])}"
        return f"a list, of which each entry is {in_words(kind['items'])}"
    if kind["type"] == "object":
        return f"a table, of which each value is {in_words(kind['additionalProperties'])}"
    if kind["type"] == "string":
        return "an address" if "pattern" in kind else "a path" if "format" in kind else "text"
    if kind["type"] in ("boolean", "null"):
        return {"boolean": "`true` or `false`", "null": "`null`"}[kind["type"]]
    return _number_in_words(kind)


def _number_in_words(kind: Mapping[str, Any]) -> str:
    name = "a whole number" if kind["type"] == "integer" else "a number"
    bounds = [
        f"{words} {kind[key]:g}"
        for key, words in (
            ("minimum", "from"),
            ("exclusiveMinimum", "above"),
            ("maximum", "up to"),
            ("exclusiveMaximum", "below"),
        )
        # Bounds that only keep a mistyped number from being computed with say nothing.
        if key in kind and kind[key] < 10**12
    ]
    return " ".join([name, *bounds])


def _of_measurements() -> Iterator[str]:
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        description = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        first, *rest = description.split("\n\n")
        calls = [part for part in rest if re.match(r"    (python|torchrun) ", part)]
        if calls:
            yield f"## `{path.name}`\n\n{as_markdown(' '.join(first.split()))}\n"
            yield f"```shell\n{inspect.cleandoc(calls[0])}\n```\n"
            pages = ", ".join(_pages_that_name(path.name))
            yield f"Results: {pages}\n" if pages else ""


def _pages_that_name(*words: str) -> Iterator[str]:
    """Links to the guides in which one of these words stands."""
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if any(word in text for word in words):
            yield f"[{text.removeprefix('# ').partition(chr(10))[0]}]({page.name})"


def fill(app: Sphinx, name: str, source: list[str]) -> None:
    """Puts into a page what belongs there."""
    if name in PAGES:
        assert PLACE in source[0], f"docs/{name}.md does not say where its text belongs: {PLACE}"
        source[0] = source[0].replace(PLACE, PAGES[name]())


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls before it begins."""
    app.connect("source-read", fill)
    return {"parallel_read_safe": True}
