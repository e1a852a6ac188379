"""Shells complete commands, options, settings, values and paths, and wait for nothing heavy."""

from __future__ import annotations

import os
import re
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


@pytest.fixture
def with_program(tmp_path: Path) -> dict[str, str]:
    """An environment in which shells complete for the program; called, it says its arguments."""
    program = tmp_path / "weathermixer"
    program.write_text(
        '#!/bin/sh\n[ -n "$_WEATHERMIXER_COMPLETE" ] || { echo "called with $*."; exit; }\n'
        f'exec "{sys.executable}" -m weathermixer "$@"\n'
    )
    program.chmod(0o755)
    return os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}


def said_by(program: list[str], environment: dict[str, str], folder: Path) -> str:
    """What a shell writes that is started in a folder."""
    said = subprocess.run(
        program, capture_output=True, text=True, check=True, env=environment, cwd=folder
    )
    return said.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_what_is_typed(with_program: dict[str, str], tmp_path: Path) -> None:
    script = (
        'eval "$(_WEATHERMIXER_COMPLETE=bash_source weathermixer)"\n'
        "complete -p weathermixer\n"
        "COMP_WORDS=(weathermixer train c.yaml --training.dtype = b)\n"
        "COMP_CWORD=5\n"
        "_weathermixer_completion weathermixer b =\n"
        'echo "${COMPREPLY[*]}"\n'
    )
    said = said_by(["bash", "--norc", "-c", script], with_program, tmp_path)
    registered, completed = said.splitlines()
    assert registered.endswith("-F _weathermixer_completion weathermixer")
    assert completed == "bfloat16"


TYPED = {
    "da": "data",
    "train c.yaml --training.dtype=b": "train c.yaml --training.dtype=bfloat16",
    "train c.yaml --training.dtype b": "train c.yaml --training.dtype bfloat16",
    "train c.yaml --training.see": "train c.yaml --training.seed",
    "plan c.yaml --machine g": "plan c.yaml --machine gh200",
    "train a_conf": "train a_config.yaml",
}


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish")
def test_fish_completes_what_is_typed(with_program: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "a_config.yaml").touch()
    script = "_WEATHERMIXER_COMPLETE=fish_source weathermixer | source\n" + "".join(
        f'complete -C "weathermixer {typed}"\n' for typed in TYPED
    )
    said = said_by(["fish", "--no-config", "-c", script], with_program, tmp_path)
    completed = [line.partition("\t")[0] for line in said.splitlines()]
    assert completed == [whole.split()[-1] for whole in TYPED.values()]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")
def test_zsh_completes_what_is_typed(with_program: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "a_config.yaml").touch()
    # A terminal of its own, in which a key is answered before the next is pressed.
    script = (
        "zmodload zsh/zpty\n"
        "zpty typed zsh -f -i\n"
        "until_said() { local all=; while [[ $all != *$1* ]]; do\n"
        "    zpty -r typed more || exit 1; all+=$more; done; print -r -- $all }\n"
        "zpty -w typed 'autoload -Uz compinit; compinit -u -D; "
        "_WEATHERMIXER_COMPLETE=zsh_source weathermixer > w.zsh; . ./w.zsh; print rea''dy'\n"
        "until_said ready\n"
    ) + "".join(
        f"zpty -w -n typed $'weathermixer {typed}\\t\\n'\nuntil_said 'called with'\n"
        for typed in TYPED
    )
    said = said_by(["zsh", "-f", "-c", script], with_program, tmp_path)
    completed = re.findall(r"called with (.*?) ?\.[\r\n]", said)
    assert completed == list(TYPED.values())
