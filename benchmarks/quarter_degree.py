"""Is a state of 0.25° ever whole in a process? Peak memory, and bytes read and written, per rank.

    python benchmarks/quarter_degree.py FOLDER    # six minutes, 3 GB of disk, 8 GB of memory; Linux

Makes a store of analytic waves (``FOLDER/waves.zarr``, used again where it is there), then trains
and forecasts a few steps with a network so small that states are all that takes memory: on one
rank, and on four as three meshes. Memory is that of the process as the system counts it, above what
it had when everything was imported and the ranks had met. Bytes are those of its calls to read and
write, compressed states for the most part; what ranks send each other counts as written too.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from weathermixer.config import Config
from weathermixer.data.making.synthetic import write_synthetic
from weathermixer.data.store.store import Store
from weathermixer.forecast.forecast import forecast
from weathermixer.jigsaw.layout import Layout
from weathermixer.launch.ranks import ranks
from weathermixer.launch.start import start_ranks
from weathermixer.training.trainer import train

GRID = (720, 1440)
TIMES = 5
STEPS = 3
MESHES = (Layout(), Layout(domain=2, tensor=2), Layout(domain=4), Layout(tensor=4))
PHASES = ("train", "forecast")
MEGABYTE = 1e6
COLUMNS = (10, 6, 22, 26, 18, 18)


@dataclass(frozen=True)
class Measured:
    """Of one rank: memory above what it had at the start, and bytes of its reads and writes."""

    peak_bytes: int
    read_bytes: int
    written_bytes: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rank-of", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    if arguments.rank_of:
        phase, domain, tensor = arguments.rank_of
        be_a_rank(folder, phase, Layout(domain=int(domain), tensor=int(tensor)))
        return
    if not store_path(folder).exists():
        write_synthetic(store_path(folder), times=TIMES, grid=GRID, processes=1)
    state = 4 * len(Store.open(store_path(folder)).channels) * math.prod(GRID)
    print(f"A state has {state / MEGABYTE:.1f} MB; all numbers are MB, of each rank.")
    print(_line("phase", "mesh", "peak memory", "of one rank's", "read", "written"))
    for phase in PHASES:
        alone = 0
        for layout in MESHES:
            found = measure(folder, phase, layout)
            alone = alone or found[0].peak_bytes
            print(
                _line(
                    phase,
                    f"{layout.domain}x{layout.tensor}",
                    *(
                        " ".join(f"{getattr(each, name) / unit:{digits}}" for each in found)
                        for name, unit, digits in (
                            ("peak_bytes", MEGABYTE, ".0f"),
                            ("peak_bytes", alone, ".3f"),
                            ("read_bytes", MEGABYTE, ".0f"),
                            ("written_bytes", MEGABYTE, ".0f"),
                        )
                    ),
                ),
                flush=True,
            )


def measure(folder: Path, phase: str, layout: Layout) -> list[Measured]:
    """Run one phase on fresh ranks of a mesh, and gather what each of them found."""
    run, forecasts = paths(folder, layout)
    shutil.rmtree(run if phase == "train" else forecasts, ignore_errors=True)
    own = [phase, str(layout.domain), str(layout.tensor)]
    command = [sys.executable, __file__, str(folder), "--rank-of", *own]
    start_ranks(command, layout.world_size, remedy="begin again")
    results = [results_path(folder, rank) for rank in range(layout.world_size)]
    return [Measured(**json.loads(path.read_text())) for path in results]


def be_a_rank(folder: Path, phase: str, layout: Layout) -> None:
    store, (run, forecasts) = store_path(folder), paths(folder, layout)
    parallel = {"domain": layout.domain, "tensor": layout.tensor}
    config = Config.model_validate(
        {
            "model": {"patch": [20, 60], "channels": 16, "blocks": 1},
            "data": {"store": store},
            "parallel": parallel,
            "training": {"steps": STEPS, "warmup_steps": 1, "instance_batch": 1},
            "logging": {"tensorboard": False},
        }
    )
    with ranks() as rank:
        before = 1024 * system("status", "VmRSS")
        read, written = (system("io", name) for name in ("rchar", "wchar"))
        if phase == "train":
            train(config, run, console=Console(quiet=True))
        else:
            first = str(Store.open(store).times[0])
            sizes = [f"parallel.{axis}={size}" for axis, size in parallel.items()]
            forecast(run, store, first, STEPS, forecasts, overrides=sizes)
        found = Measured(
            1024 * system("status", "VmHWM") - before,
            system("io", "rchar") - read,
            system("io", "wchar") - written,
        )
        results_path(folder, rank.rank).write_text(json.dumps(asdict(found)))


def system(file: str, field: str) -> int:
    """What Linux counts of this process; of ``status``, in kibibytes."""
    for line in Path("/proc/self", file).read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0])
    raise ValueError(f"/proc/self/{file} has no {field}: this needs Linux")


def store_path(folder: Path) -> Path:
    return folder / "waves.zarr"


def paths(folder: Path, layout: Layout) -> tuple[Path, Path]:
    """The run and the forecast of a mesh."""
    name = f"{layout.domain}x{layout.tensor}"
    return folder / f"run-{name}", folder / f"forecast-{name}.zarr"


def results_path(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.json"


def _line(*columns: str) -> str:
    return "".join(f"{text:{width}}" for text, width in zip(columns, COLUMNS, strict=True)).rstrip()


if __name__ == "__main__":
    main()
