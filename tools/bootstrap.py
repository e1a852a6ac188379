"""Make ``.venv`` and install this project into it: ``python tools/bootstrap.py EXTRA...``.

Versions come from ``constraints.txt``. On Linux, package indexes offer builds of PyTorch for
NVIDIA GPUs under the plain version number, several gigabytes large. So pip is first asked what it
would install, and unless that is a CPU build, PyTorch's own index of CPU builds is used. To choose:

    TORCH_INDEX=URL    install the pinned version from this index, whatever the build
    TORCH_INDEX=keep   use the torch that is already in .venv
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
CONSTRAINTS = ROOT / "constraints.txt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
OLDEST_PYTHON = (3, 11)
FREE_GIGABYTES = 4


def main(extras: list[str]) -> None:
    if sys.version_info < OLDEST_PYTHON:
        stop(
            f"Python {sys.version.split()[0]} is too old: WeatherMixer needs 3.11 or newer; "
            "name one with 'make PYTHON=python3.12'"
        )
    stamp = VENV / f"installed-{'-'.join(extras) or 'plain'}"
    wanted = fingerprint()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    if not PYTHON.exists():
        make_venv()
    install_torch()
    install_project(extras)
    stamp.write_text(wanted)


def fingerprint() -> str:
    """Changes when an installation has to be done again."""
    digest = hashlib.sha256(sys.version.encode())
    for path in (ROOT / "pyproject.toml", CONSTRAINTS):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def make_venv() -> None:
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < FREE_GIGABYTES:
        stop(f"{ROOT} has {free:.1f} GB free, and .venv needs about {FREE_GIGABYTES}: make room")
    say(f"making .venv with Python {sys.version.split()[0]}")
    made = subprocess.run(
        [sys.executable, "-m", "venv", str(VENV)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        shutil.rmtree(VENV, ignore_errors=True)
        stop(
            "this Python cannot make virtual environments (on Debian and Ubuntu: install "
            f"python3-venv): {' '.join((made.stdout + made.stderr).split())}"
        )


def install_torch() -> None:
    pin = torch_pin(CONSTRAINTS.read_text())
    index = os.environ.get("TORCH_INDEX", "")
    if index == "keep" or torch_installed(pin):
        return
    if index:
        say(f"installing torch {pin} from {index}")
        pip("install", "--quiet", f"torch=={pin}", "--index-url", index)
        return
    say(f"looking for a CPU build of torch {pin}")
    options: list[str] = []
    if not is_cpu_build(offered(pin, options)):
        options = ["--index-url", CPU_INDEX]
        if not is_cpu_build(offered(pin, options)):
            stop(
                f"no CPU build of torch {pin} was found for this machine: choose a build with "
                "TORCH_INDEX=URL, or install one into .venv and set TORCH_INDEX=keep"
            )
    say(f"installing torch {pin}, CPU build (about 200 MB)")
    # Its own dependencies come with the project's, from the usual index.
    pip("install", "--quiet", "--no-deps", f"torch=={pin}", *options)


def install_project(extras: list[str]) -> None:
    say("installing WeatherMixer and what it needs (minutes, the first time)")
    project = f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT)
    pip("install", "--quiet", "--constraint", str(CONSTRAINTS), "--editable", project)


def torch_pin(constraints: str) -> str:
    """The version of torch that the constraints name."""
    found = re.search(r"^torch==([\w.]+)", constraints, re.MULTILINE)
    assert found, "constraints.txt pins torch"
    return found[1]


def torch_installed(pin: str) -> bool:
    """Whether ``.venv`` has the pinned version already, in any build."""
    script = "import importlib.metadata as m; print(m.version('torch'))"
    asked = subprocess.run([PYTHON, "-c", script], capture_output=True, text=True, check=False)
    return asked.returncode == 0 and asked.stdout.strip().split("+")[0] == pin


def offered(pin: str, options: list[str]) -> dict[str, Any] | None:
    """What pip would install as torch, from its report; nothing where it finds none."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        found = subprocess.run(
            [
                *(PYTHON, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"),
                *("--no-deps", "--only-binary", "torch", "--report", report),
                *(f"torch=={pin}", *options),
            ],
            capture_output=True,
            check=False,
        )
        if found.returncode:
            return None
        (torch,) = json.loads(report.read_text())["install"]
        return dict(torch["metadata"])


def is_cpu_build(metadata: dict[str, Any] | None) -> bool:
    """Whether a torch with this metadata comes without the libraries of a GPU.

    Builds say so themselves, after a plus sign, or by what they require; requirements for other
    systems than this one stand in the metadata too, and do not count.
    """
    if metadata is None:
        return False
    _, _, build = metadata["version"].partition("+")
    if build:
        return bool(build == "cpu")
    if sys.platform != "linux":
        return True
    needs = metadata.get("requires_dist", [])
    return not any(re.match(r"(nvidia|cuda|triton|pytorch-triton)\b", need) for need in needs)


def pip(*arguments: str) -> None:
    done = subprocess.run(
        [PYTHON, "-m", "pip", "--disable-pip-version-check", *arguments], check=False
    )
    if done.returncode:
        stop("pip failed; what it said is above. Mend that, and run the same command again")


def say(sentence: str) -> None:
    print(f"-- {sentence}", flush=True)


def stop(sentence: str) -> None:
    sys.exit(f"Error: {sentence}.")


if __name__ == "__main__":
    main(sys.argv[1:])
