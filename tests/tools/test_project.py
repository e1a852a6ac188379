"""What is said of the project in several files is the same in all of them."""

from __future__ import annotations

import itertools
import re
import tomllib

import yaml

import weathermixer
from support.scripts import ROOT


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_file_that_names_the_version_names_the_same() -> None:
    version = weathermixer.__version__
    assert tomllib.loads(text_of("pyproject.toml"))["project"]["version"] == version
    assert yaml.safe_load(text_of("CITATION.cff"))["version"] == version
    assert re.search(rf"^## {re.escape(version)} ", text_of("CHANGELOG.md"), re.MULTILINE)


def test_hooks_run_what_make_check_runs() -> None:
    checks = re.search(r"^CHECKS := (.*)$", text_of("Makefile"), re.MULTILINE)
    assert checks
    (repository,) = yaml.safe_load(text_of(".pre-commit-config.yaml"))["repos"]
    assert repository["repo"] == "local"
    commands = [hook["entry"] for hook in repository["hooks"]]
    assert commands == [f"make {check}" for check in checks[1].split()]


def test_every_tool_and_library_is_pinned() -> None:
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    asked = itertools.chain(project["dependencies"], *project["optional-dependencies"].values())
    names = {re.split(r"[\[>=]", requirement)[0].lower() for requirement in asked}
    pinned = set(re.findall(r"^([^#=]+)==", text_of("constraints.txt"), re.MULTILINE))
    assert names - {project["name"]} <= pinned
