"""From the bytes of a YAML file to plain values, with whatever is wrong in them.

Plain scalars mean what they mean in YAML 1.2: ``1e-4`` is a number, ``0500`` is 500, and ``yes``,
``12:30`` and ``2020-01-01`` are text. No tag makes anything but plain values, so that reading
executes nothing. What a key means is for ``settings.py`` to know.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from weathermixer.config.problems import Problem, shown
from weathermixer.errors import UserError

Keys = tuple[str, ...]
"""The keys on the way to a value, such as ``("training", "steps")``."""

_LARGEST_BYTES = 1024**2
# Aliases let a small file stand for a huge or an endless one; a configuration is neither.
_MOST_VALUES = 10_000
_DEEPEST = 10
_DIGITS = 300

_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"
_INTEGER = re.compile(r"[-+]?[0-9]+(_[0-9]+)*|0o[0-7]+|0x[0-9a-fA-F]+")
_DECIMAL = re.compile(
    r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_TRUTH = re.compile("true|True|TRUE|false|False|FALSE")
_NOTHING = re.compile("~|null|Null|NULL|")

_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class Unreadable(Exception):
    """A text that holds no values at all, with the problem that says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.sentence())
        self.problem = problem


class _Loader(yaml.SafeLoader):
    """Composes nodes, whose plain scalars it tells apart as YAML 1.2 does."""


_Loader.yaml_implicit_resolvers = {}
for _name, _pattern in (
    ("null", _NOTHING),
    ("bool", _TRUTH),
    ("int", _INTEGER),
    ("float", _DECIMAL),
    ("merge", re.compile("<<")),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_pattern.pattern})$"), None)


def read_text(path: Path, *, kind: str = "configuration") -> str:
    """Read the text of a file in UTF-8, or in what its byte order mark says.

    ``kind`` is what a message calls the file.

    Raises UserError where there is no such file or it may not be read, Unreadable where it is no
    text.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        remedy = "correct the path"
        if isinstance(error, IsADirectoryError):
            remedy = "give the YAML file"
        elif str(path).startswith("--"):
            remedy = "write CONFIG before its settings"
        raise UserError(f"the {kind} {path} cannot be read ({error.strerror}): {remedy}") from error
    encoding = next(
        (name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8"
    )
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise _unreadable(
            f"{path}, line {line}",
            f"byte {error.start} of the file, 0x{content[error.start]:02X}, is not "
            f"{encoding.removesuffix('-sig').upper()} ({error.reason})",
            f"save the file as UTF-8, if it is a {kind}",
        ) from error
    if len(content) > _LARGEST_BYTES:
        raise _unreadable(
            str(path), "the file is larger than 1 MiB", f"give the YAML file of a {kind}"
        )
    return text


def parse_yaml(
    text: str, source: str, *, verbatim: Collection[Keys], below: Keys = ()
) -> tuple[Any, list[Problem]]:
    """Read the plain values of one YAML document, and what is wrong with some of them.

    ``source`` names the text in messages; it is the value of the keys ``below``, which are none for
    a file. Values under the keys in ``verbatim`` are text whatever they look like. Names of
    sections and settings are text too. Raises Unreadable where the text is not YAML.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise _unreadable(
            f"{source}, line {line}",
            f"the character U+{ord(text[error.position]):04X} cannot be part of YAML",
            "remove it, or save the file as UTF-8 if it is in another encoding",
        ) from error
    except yaml.MarkedYAMLError as error:
        raise _not_yaml(error, source) from error
    except RecursionError as error:
        raise _unreadable(source, "is nested too deeply", "write sections and keys") from error
    reader = _ValueReader(source, verbatim)
    values = None if node is None else reader.value(node, below)
    return values, reader.problems


class _ValueReader:
    """Makes plain values of nodes, and notes the problems on the way."""

    def __init__(self, source: str, verbatim: Collection[Keys]) -> None:
        self.problems: list[Problem] = []
        self._source = source
        self._verbatim = verbatim
        self._count = 0

    def value(self, node: Node, keys: Keys, depth: int = 0) -> Any:
        """The scalar, list or dictionary that a node stands for."""
        self._count += 1
        if self._count > _MOST_VALUES or depth > _DEEPEST:
            raise _unreadable(
                f"{self._source}, line {_line(node)}",
                "what the file stands for is too large or nested too deeply",
                "write sections and keys, without aliases of aliases",
            )
        if isinstance(node, ScalarNode):
            return self._scalar(node, keys)
        if isinstance(node, SequenceNode) and node.tag == _TAG + "seq":
            return [self.value(child, keys, depth + 1) for child in node.value]
        if isinstance(node, MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, keys, depth)
        return self._refuse_tag(node, keys)

    def _mapping(self, node: MappingNode, keys: Keys, depth: int) -> dict[Any, Any]:
        merged: dict[Any, Any] = {}
        own: dict[Any, Any] = {}
        lines: dict[Any, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self._note(keys, key_node, "a key is a list or a table", "write a name")
                continue
            key = key_node.value if len(keys) < 2 else self._scalar(key_node, keys)
            line = _line(key_node)
            earlier = lines.get(str(key), lines.get(key))
            if earlier is not None:
                self._note_repeated((*keys, str(key)), earlier, line)
            # Under both, so that 0, 0.0 and '0' are seen to be the same.
            lines |= {key: line, str(key): line}
            if key_node.tag == _MERGE:
                merged = self._merged(value_node, keys, depth) | merged
            else:
                own[key] = self.value(value_node, (*keys, str(key)), depth + 1)
        return merged | own

    def _merged(self, node: Node, keys: Keys, depth: int) -> dict[Any, Any]:
        """What ``<<`` brings into a mapping: a mapping, or several, the first of which wins."""
        sources = node.value if isinstance(node, SequenceNode) else [node]
        merged: dict[Any, Any] = {}
        for source in sources:
            values = self.value(source, keys, depth + 1)
            if isinstance(values, dict):
                merged = values | merged
            else:
                self._note(keys, source, "'<<' merges what is no table", "merge tables alone")
        return merged

    def _scalar(self, node: ScalarNode, keys: Keys) -> Any:
        text = node.value
        match node.tag.removeprefix(_TAG):
            case "null" if _NOTHING.fullmatch(text):
                return None
            case "null" | "bool" | "int" | "float" if keys in self._verbatim:
                return text
            case "bool" if _TRUTH.fullmatch(text):
                return text.lower() == "true"
            case "int" if _INTEGER.fullmatch(text) and len(text) <= _DIGITS:
                digits = text.replace("_", "")
                return int(digits, {"0x": 16, "0o": 8}.get(digits[:2], 10))
            case "float" | "int" if _DECIMAL.fullmatch(text):
                return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
            case "str" | "merge":
                return text
            case "null" | "bool" | "int" | "float" as kind:
                self._note(keys, node, f"{shown(text)} is no {kind}", "remove the tag")
                return text
        return self._refuse_tag(node, keys)

    def _refuse_tag(self, node: Node, keys: Keys) -> None:
        tag = node.tag.replace(_TAG, "!!")
        self._note(keys, node, f"the tag {tag} makes no plain value", "remove the tag")

    def _note_repeated(self, keys: Keys, first: int, second: int) -> None:
        lines = f"line {first}" if first == second else f"lines {first} and {second}"
        what = f"is set twice, in {lines} of {self._source}"
        self.problems.append(Problem("error", ".".join(keys), what, "keep one of the two"))

    def _note(self, keys: Keys, node: Node, what: str, remedy: str) -> None:
        where = ".".join(keys) or self._source
        self.problems.append(Problem("error", where, f"{what} (line {_line(node)})", remedy))


def _line(node: Node) -> int:
    return node.start_mark.line + 1


def _unreadable(where: str, what: str, remedy: str) -> Unreadable:
    return Unreadable(Problem("error", where, what, remedy))


def _not_yaml(error: yaml.MarkedYAMLError, source: str) -> Unreadable:
    mark = error.problem_mark or error.context_mark
    where = f"{source}, line {mark.line + 1}" if mark else source
    what = " ".join(filter(None, (error.context, error.problem)))
    if "'\\t'" in what:
        return _unreadable(where, "a tab indents a line, or begins a value", "use spaces instead")
    if "single document" in what:
        return _unreadable(where, "a second document begins with '---'", "keep one document")
    if "mapping values are not allowed" in what:
        return _unreadable(
            where,
            "is not valid YAML (a colon where none can stand)",
            "indent keys alike, each as 'key: value', and quote a value with a colon in it",
        )
    return _unreadable(
        where,
        f"is not valid YAML ({' '.join(what.split())})",
        "correct it; values with special characters need quotes",
    )
