"""Make ``.venv`` and install this project into it: ``python tools/bootstrap.py EXTRA...``.

Versions come from ``constraints.txt``. On Linux, package indexes offer builds of PyTorch for
NVIDIA GPUs under the plain version number, several gigabytes large; builds for the processor carry
the label ``+cpu``. So pip is first asked which versions there are, and only a labelled one is
taken, where need be from PyTorch's own index of CPU builds. To choose:

    TORCH_INDEX=URL    install the pinned version from this index, whatever the build
    TORCH_INDEX=keep   use the torch that is already in .venv, whatever its version
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOG = VENV / "install.log"
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
    wanted = fingerprint()
    if is_installed(extras, wanted):
        return
    started = time.monotonic()
    make_venv()
    install_torch()
    install_project(extras)
    stamp(extras).write_text(wanted)
    say(f"installed in {time.monotonic() - started:.0f} s")


def fingerprint() -> str:
    """Changes when an installation has to be done again."""
    digest = hashlib.sha256(repr(sys.version_info[:2]).encode())
    for path in (ROOT / "pyproject.toml", CONSTRAINTS):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def stamp(extras: list[str]) -> Path:
    """The file that says which state of the project these extras were installed for."""
    return VENV / "-".join(["installed", *sorted(extras)])


def is_installed(extras: list[str], wanted: str) -> bool:
    """Whether these extras, or these and others, are there in the state that is wanted."""
    return PYTHON.exists() and any(
        set(extras) <= set(file.name.split("-")[1:]) and file.read_text() == wanted
        for file in VENV.glob("installed*")
    )


def make_venv() -> None:
    """Makes ``.venv``, or makes it anew where it was made with another version of Python."""
    wanted = f"{sys.version_info[0]}.{sys.version_info[1]}"
    found = venv_version()
    if found == wanted:
        return
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < FREE_GIGABYTES:
        stop(f"{ROOT} has {free:.1f} GB free, and .venv needs about {FREE_GIGABYTES}: make room")
    say(f"making .venv with Python {wanted}" + (f" in place of {found}" if found else ""))
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        shutil.rmtree(VENV, ignore_errors=True)
        stop(
            "this Python cannot make virtual environments (on Debian and Ubuntu: install "
            f"python3-venv): {' '.join((made.stdout + made.stderr).split())}"
        )
    pip("install", f"pip=={pin('pip')}")


def venv_version() -> str | None:
    """The version of Python in ``.venv``, ``3.12``; nothing where there is none that runs."""
    script = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        asked = subprocess.run([PYTHON, "-c", script], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return asked.stdout.strip() or None


def install_torch() -> None:
    wanted = pin("torch")
    index = os.environ.get("TORCH_INDEX", "")
    present = torch_installed()
    if index == "keep":
        if present is None:
            stop("TORCH_INDEX=keep, but .venv has no torch: install one with .venv/bin/pip")
        return
    if present is not None and present.split("+")[0] == wanted:
        return
    if index:
        say(f"installing torch {wanted} from {index}")
        pip("install", f"torch=={wanted}", "--index-url", index)
        return
    version, options = cpu_build(wanted)
    say(f"installing torch {version}, a CPU build (about 200 MB)")
    # Its own dependencies come with the project's, from the usual index.
    pip("install", "--no-deps", f"torch=={version}", *options)


def cpu_build(wanted: str) -> tuple[str, list[str]]:
    """The CPU build of this version of torch, and the options of pip that find it."""
    label = wanted if sys.platform != "linux" else f"{wanted}+cpu"
    indexes: list[list[str]] = [[], ["--index-url", CPU_INDEX]]
    options = next((options for options in indexes if label in offered(options)), None)
    if options is None:
        stop(
            f"no CPU build of torch {wanted} is offered for this machine, or no index could be "
            f"reached ({CPU_INDEX} is asked last): choose a build with TORCH_INDEX=URL, or "
            "install one into .venv and set TORCH_INDEX=keep"
        )
    return label, options


def install_project(extras: list[str]) -> None:
    say("installing WeatherMixer and what it needs (minutes, the first time)")
    constraints = VENV / "constraints.txt"
    constraints.write_text(constraints_with(torch_installed(), CONSTRAINTS.read_text()))
    pip(
        *("install", "--constraint", str(constraints), "--build-constraint", str(CONSTRAINTS)),
        *("--editable", f"{ROOT}[{','.join(extras)}]"),
    )


def constraints_with(torch: str | None, constraints: str) -> str:
    """The constraints with the very build of torch that is installed, so that it stays."""
    return re.sub(r"^torch==.*$", f"torch=={torch}", constraints, flags=re.MULTILINE)


def pin(package: str) -> str:
    """The version of a package that the constraints name."""
    found = re.search(rf"^{package}==(\S+)$", CONSTRAINTS.read_text(), re.MULTILINE)
    assert found, f"constraints.txt pins {package}"
    return found[1]


def torch_installed() -> str | None:
    """The version and build of torch in ``.venv``, ``2.13.0+cpu``."""
    script = "import importlib.metadata as m; print(m.version('torch'))"
    asked = subprocess.run([PYTHON, "-c", script], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or None


def offered(options: list[str]) -> list[str]:
    """The versions of torch that pip can get for this machine.

    A dry run would tell more, but downloads the whole wheel from indexes that do not offer its
    description apart.
    """
    asked = subprocess.run(
        [PYTHON, "-m", "pip", "index", "versions", "torch", "--json", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    return list(json.loads(asked.stdout)["versions"]) if asked.returncode == 0 else []


def pip(*arguments: str) -> None:
    """Runs pip, with what it does in one line of a terminal, and everything in a log."""
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", *arguments]
    with LOG.open("w") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            show(line.strip())
        process.wait()
    show("")
    if process.returncode:
        sys.stderr.write(complaint(LOG.read_text()))
        stop(f"pip failed; all it said is in {LOG}. Mend that, and run the same command again")


def complaint(log: str) -> str:
    """What pip said of its failure: its errors, or its last lines where it named none."""
    lines = log.splitlines(keepends=True)
    return "".join([line for line in lines if line.startswith("ERROR")] or lines[-10:])


def show(activity: str) -> None:
    """Replaces the last line of a terminal."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 4
        print(f"\r\033[K   {activity[:width]}" if activity else "\r\033[K", end="", flush=True)


def say(sentence: str) -> None:
    print(f"-- {sentence}", flush=True)


def stop(sentence: str) -> NoReturn:
    sys.exit(f"Error: {sentence}.")


if __name__ == "__main__":
    main(sys.argv[1:])
