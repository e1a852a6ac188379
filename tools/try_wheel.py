"""Installs a wheel into an empty environment and uses it: ``python tools/try_wheel.py WHEEL``.

What a user gets from ``pip install weathermixer`` must not lean on this folder, on the extras that
developers have, or on files that are not in the wheel. So nothing here is in reach: the commands
run in a folder of their own. ``.venv`` only tells which build of PyTorch is to be taken.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import bootstrap

CONFIGURATION = """\
model: {channels: 32, blocks: 1}
data: {store: store.zarr}
training: {steps: 2, warmup_steps: 1, instance_batch: 1}
"""
COMMANDS = (
    "--version",
    "data synthetic store.zarr --times 40 --grid 32x64",
    "data inspect store.zarr",
    "check small.yaml",
    "train small.yaml --out run",
    "forecast run --store store.zarr --init 2000-01-09 --steps 2 --out forecast.zarr",
    "verify forecast.zarr --truth store.zarr --out scores",
    "report scores --out report.html",
)


def main(wheel: Path) -> None:
    """Stops with the status of the first command that fails."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = folder / "environment"
        venv.create(environment, with_pip=True)
        install(environment, wheel)
        if "jigsaw" in wheel.name:
            cut_a_network(environment)
        else:
            use(environment, folder)


def install(environment: Path, wheel: Path) -> None:
    python = str(environment / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install"]
    torch, options = bootstrap.cpu_build(bootstrap.pin("torch"))
    pins = environment / "constraints.txt"
    text = bootstrap.CONSTRAINTS.read_text(encoding="utf-8")
    pins.write_text(bootstrap.constraints_with(torch, text), encoding="utf-8")
    run([*pip, "--quiet", "--no-deps", f"torch=={torch}", *options])
    run([*pip, "--quiet", "--constraint", pins, wheel.resolve()])


def use(environment: Path, folder: Path) -> None:
    work = folder / "work"
    work.mkdir()
    (work / "small.yaml").write_text(CONFIGURATION, encoding="utf-8")
    for command in COMMANDS:
        print(f"-- weathermixer {command}", flush=True)
        run(
            [environment / "bin" / "weathermixer", *command.split()],
            cwd=work,
            env=bare_environment(),
        )


def cut_a_network(environment: Path) -> None:
    """Runs an example on two ranks, which compares itself with one."""
    launcher: list[str | Path] = [
        environment / "bin" / "torchrun",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    run([*launcher, bootstrap.ROOT / "examples" / "transformer.py"], env=bare_environment())


def bare_environment() -> dict[str, str]:
    """This one, without what shows Python other packages than those that are installed."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return bare | {"OMP_NUM_THREADS": "1"}


def run(
    command: list[str | Path], *, cwd: Path | None = None, env: dict[str, str] | None = None
) -> None:
    status = subprocess.run(command, check=False, cwd=cwd, env=env).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
