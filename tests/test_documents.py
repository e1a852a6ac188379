"""What documents tell a reader to type works, and what they show comes out.

Commands run in a scratch folder, with small archives under the names of the samples that documents
speak of, and fewer, smaller steps. What cannot be run in seconds is looked at: options of a
synopsis exist, and so do targets of make.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from markdown_it import MarkdownIt

from support.standins import write_archive_of_everything, write_snapshot, write_surface_sample
from weathermixer.cli import commands, main
from weathermixer.jigsaw import layout

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
# What is run instead of what is written: the same commands, on less.
SMALLER = {
    "data planet years.zarr --days 800": "data synthetic years.zarr --times 24 --grid 8x16",
    "data planet planet.zarr": "data synthetic planet.zarr --times 24 --grid 8x16",
    "prepare era5.zarr SOURCE...": "prepare era5.zarr everything.nc",
    "--init 2018-01-01/2018-12-31/12h --steps 40": "--init 2018-01-01/2018-01-02/12h --steps 2",
}
SHORT_TRAINING = (
    "--training.steps=2 --training.warmup_steps=1 --training.rollout={0: 1} "
    "--training.validate_every=2 --model.channels=16 --model.blocks=1"
)


WITH_EXAMPLES = [
    "docs/your-own-era5.md",
    "README.md",
    "docs/planning.md",
    "docs/global-batch.md",
]


def blocks(document: Path, *languages: str) -> list[str]:
    """The fenced blocks of a document in these languages; ``""`` is none."""
    tokens = MarkdownIt().parse(document.read_text(encoding="utf-8"))
    return [token.content for token in tokens if token.type == "fence" and token.info in languages]


def commands_of(document: Path) -> Iterator[str]:
    """Every line of a document's blocks that calls the program, without its comment."""
    for block in blocks(document, "", "shell"):
        for line in block.splitlines():
            if line.startswith("weathermixer "):
                yield line.partition("  #")[0].strip()


def is_synopsis(command: str) -> bool:
    """Whether a command shows what may be given, or leaves a place to be named by the reader."""
    return any(mark in command for mark in ("[", "|", "CONFIG", "--out DIR"))


def run(command: str) -> None:
    """Runs a command as it is written, in this process; fails where its status is not 0."""
    for written, smaller in SMALLER.items():
        command = command.replace(written, smaller)
    words = shlex.split(command)[1:]
    if words[0] in ("train", "check"):
        words += re.findall(r"--\S+=(?:\{.*?\}|\S+)", SHORT_TRAINING)
    try:
        main(words)
    except SystemExit as end:
        assert not end.code, command


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the examples, and with small archives in place of those in the documents."""
    folder = tmp_path_factory.mktemp("documents")
    (folder / "examples").symlink_to(ROOT / "examples")
    write_surface_sample(folder / "era5_surface_1deg.zarr")
    write_snapshot(folder / "era5_64x32_19590102T00.nc")
    write_archive_of_everything(folder / "everything.nc")
    return folder


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_commands_run_as_they_are_written(
    scratch: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scratch)
    examples = [line for line in commands_of(ROOT / name) if not is_synopsis(line)]
    assert examples
    for command in examples:
        run(command)


def test_commands_of_every_document_are_run_or_explained() -> None:
    examples = {
        document.relative_to(ROOT).as_posix()
        for document in DOCUMENTS
        for command in commands_of(document)
        if not is_synopsis(command)
    }
    assert examples == set(WITH_EXAMPLES)


@pytest.mark.parametrize(
    "synopsis",
    sorted({line for document in DOCUMENTS for line in commands_of(document) if is_synopsis(line)}),
)
def test_a_synopsis_names_options_that_exist(synopsis: str) -> None:
    command: click.Command = commands
    for word in synopsis.split()[1:]:
        if not isinstance(command, click.Group):
            break
        command = command.commands[word]
    known = {name for option in command.params for name in option.opts}
    assert set(re.findall(r"--[a-z][a-z-]*", synopsis)) <= known


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_targets_of_make_exist(document: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"(?:^|`)make (?:[A-Z]+=\S+ )*([a-z][a-z-]*)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_a_forecast_is_read_as_shown(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scratch)
    shown, beside_weatherbench = blocks(ROOT / "docs/forecast.md", "python")
    run("weathermixer data synthetic january.zarr --times 64 --grid 8x16")
    run("weathermixer train examples/planet.yaml --data.store=january.zarr --out january-run")
    forecast = "weathermixer forecast january-run --store january.zarr --init 2000-01-16 --steps 4"
    run(f"{forecast} --out january.forecast.zarr")
    exec(compile(shown.replace('"forecast.zarr"', '"january.forecast.zarr"'), "shown", "exec"), {})
    assert (scratch / "geopotential_500.png").stat().st_size > 10_000
    compile(beside_weatherbench, "shown", "exec")


def test_a_model_is_cut_as_shown() -> None:
    names: dict[str, Any] = {}
    for block in blocks(ROOT / "docs/jigsaw-library.md", "python"):
        exec(compile(block, "shown", "exec"), names)
    assert names["loss"].item() < 1.0
    assert names["model"][1].weight.shape == (128, 32)  # reduce, on 2 × 2 ranks


def test_a_plain_network_takes_the_weights_of_a_run(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scratch)
    run("weathermixer data synthetic plain.zarr --times 64 --grid 8x16")
    run("weathermixer train examples/planet.yaml --data.store=plain.zarr --out plain-run")
    (shown,) = blocks(ROOT / "docs/model.md", "python")
    names: dict[str, Any] = {}
    exec(compile(shown.replace("runs/demo", "plain-run"), "shown", "exec"), names)
    a = names["plain"].architecture
    states = torch.randn(a.input_times, 2, a.prognostic, *a.grid)
    static = torch.randn(a.static, *a.grid)
    with torch.no_grad():
        expected, found = (names[each](*states, static) for each in ("trained", "plain"))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_python_programs_run_as_shown(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scratch)
    run("weathermixer data synthetic python.zarr --times 64 --grid 8x16")
    run("weathermixer train examples/planet.yaml --data.store=python.zarr --out python-run")
    _, forecast, training, on_ranks = blocks(ROOT / "docs/python.md", "python")
    names: dict[str, Any] = {}
    for program, own_run in ((forecast, "python-run"), (training, ""), (on_ranks, "ranks-run")):
        here = program.replace("planet.zarr", "python.zarr").replace('"run"', f'"{own_run}"')
        exec(compile(here, "shown", "exec"), names)
    assert names["forecast"].sizes["prediction_timedelta"] == 40
    assert {"model", "persistence"} <= set(names["scores"].source.values)
    assert all((scratch / made / "checkpoints").is_dir() for made in ("small-run", "ranks-run"))


def test_bytes_and_bounds_are_those_of_the_table() -> None:
    document = ROOT / "docs/jigsaw.md"
    program = next(block for block in blocks(document, "python") if ">>>" not in block)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(program, "shown", "exec"), {})
    rows = [
        [cell.strip(" `*") for cell in line.strip("|").split("|")]
        for line in document.read_text(encoding="utf-8").splitlines()
        if re.match(r"\| [ABL] \| [24] \|", line)
    ]
    printed = [
        re.fullmatch(r"(\w) (\d): (\d × \d) .* ([\d.]+) MB, bound ([\d.]+), ([\d.]+)", line)
        for line in said.getvalue().splitlines()
    ]
    assert [match and match.groups() for match in printed] == [
        (*row[:3], *row[5:8]) for row in rows
    ]


@pytest.fixture
def as_printed_by_numpy() -> Iterator[None]:
    """Values as NumPy shows them: once imported, Earth2Studio has it show them in an older form."""
    with np.printoptions(legacy=False):
        yield


def modules_with_examples() -> list[str]:
    package = ROOT / "src"
    return [
        ".".join(path.relative_to(package).with_suffix("").parts)
        for path in sorted(package.rglob("*.py"))
        if ">>>" in path.read_text(encoding="utf-8")
    ]


@pytest.mark.parametrize("module", modules_with_examples())
def test_examples_in_docstrings_hold(module: str, as_printed_by_numpy: None) -> None:
    results = doctest.testmod(importlib.import_module(module))
    assert results.attempted > 0
    assert results.failed == 0


def test_examples_in_documents_hold(as_printed_by_numpy: None) -> None:
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner()
    for document in DOCUMENTS:
        for block in blocks(document, "python"):
            examples = parser.get_doctest(
                block, dict(vars(layout)), document.name, str(document), 0
            )
            runner.run(examples)
    assert runner.summarize().attempted > 1
    assert runner.summarize().failed == 0
