"""Shells complete commands, options, settings, values and paths, and wait for nothing heavy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from weathermixer.cli import commands
from weathermixer.config import settings
from weathermixer.planning.machine_files import shipped_machines

PATHS = "a path"


def complete(*words: str) -> list[str]:
    """What can follow, the last of the ``words`` being unfinished."""
    *before, last = words
    found = ShellComplete(commands, {}, "weathermixer", "").get_completions(before, last)
    return [item.value if item.type == "plain" else PATHS for item in found]


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["in"], ["init"]),
        (["data", "p"], ["planet", "prepare"]),
        (["train", "c"], [PATHS]),
        (["train", "c.yaml", "--re"], ["--resume"]),
        (["train", "c.yaml", "--training.see"], ["--training.seed"]),
        (["check", "c.yaml", "--parallel.d"], ["--parallel.data", "--parallel.domain"]),
        (["plan", "c.yaml", "--checkpoint.k"], ["--checkpoint.keep"]),
        (["bench", "scaling", "c.yaml", "--model.b"], ["--model.blocks"]),
        (["train", "c.yaml", "--training.dtype", "b"], ["bfloat16"]),
        (["train", "c.yaml", "--training.dtype", "=", "t"], ["tf32"]),  # as bash takes it apart
        (["train", "c.yaml", "--training.recompute", ""], ["none", "blocks", "stages"]),
        (["train", "c.yaml", "--logging.tensorboard", "="], ["true", "false"]),
        (["train", "c.yaml", "--preset", "p"], ["published"]),
        (["train", "c.yaml", "--training.steps", ""], []),
        (["train", "c.yaml", "--data.store", "="], [PATHS]),
        (["train", "c.yaml", ""], []),
        (["forecast", "run", "--training."], ["--training.seed", "--training.dtype",
                                              "--training.latent_rollout"]),
        (["forecast", "run", "--weights", ""], ["average", "last"]),
        (["plan", "c.yaml", "--machine", ""], shipped_machines()),
        (["init", "--machine", "./m"], [PATHS]),
    ],
)  # fmt: skip
def test_what_can_follow_is_completed(words: list[str], completed: list[str]) -> None:
    assert complete(*words) == completed


@pytest.mark.parametrize(
    "words",
    [
        "init --store", "data prepare out.zarr", "data inspect", "data nwp", "verify",
        "verify f.zarr --truth", "verify f.zarr --beside", "forecast run --store",
        "forecast run --truth", "forecast run --climatology", "forecast", "report",
    ],
)  # fmt: skip
def test_archives_are_completed_as_paths(words: str) -> None:
    assert complete(*words.split(), "x") == [PATHS]


def test_every_setting_is_offered_with_its_meaning() -> None:
    completion = ShellComplete(commands, {}, "weathermixer", "")
    offered = {each.value: each.help for each in completion.get_completions(["train", "c"], "--")}
    assert {f"--{key}": meaning for key, _, meaning in settings()}.items() <= offered.items()


def test_nothing_heavy_is_loaded_for_it() -> None:
    code = (
        "import sys\n"
        "from weathermixer.cli import main\n"
        "try:\n    main([])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'pandas', 'xarray', 'zarr'} & set(sys.modules)))\n"
    )
    asked = {
        "_WEATHERMIXER_COMPLETE": "bash_complete",
        "COMP_WORDS": "weathermixer train c.yaml --training.see",
        "COMP_CWORD": "3",
    }
    said = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | asked,
    )
    assert said.stdout.splitlines() == ["plain,--training.seed", "[]"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_what_is_typed(tmp_path: Path) -> None:
    program = tmp_path / "weathermixer"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m weathermixer "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(_WEATHERMIXER_COMPLETE=bash_source weathermixer)"\n'
        "complete -p weathermixer\n"
        "COMP_WORDS=(weathermixer train c.yaml --training.dtype = b)\n"
        "COMP_CWORD=5\n"
        "_weathermixer_completion weathermixer b =\n"
        'echo "${COMPREPLY[*]}"\n'
    )
    said = subprocess.run(
        ["bash", "--norc", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    registered, completed = said.stdout.splitlines()
    assert registered.endswith("-F _weathermixer_completion weathermixer")
    assert completed == "bfloat16"


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_scripts_of_other_shells_are_printed(shell: str) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "weathermixer"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"_WEATHERMIXER_COMPLETE": f"{shell}_source"},
    )
    assert f"_WEATHERMIXER_COMPLETE={shell}_complete" in said.stdout
