"""Is a state of 0.25° ever whole in a process? Peak memory, and bytes read and written, per rank.

    python benchmarks/quarter_degree.py FOLDER    # six minutes, 3 GB of disk, 8 GB of memory; Linux

Makes a store of analytic waves (``FOLDER/waves.zarr``, used again where it is there), then trains
and forecasts a few steps with a network so small that states are all that takes memory: on one
rank, and on four as three meshes. Memory is that of the process as the system counts it, above what
it had when everything was imported and the ranks had met. Bytes are those of its calls to read and
write, compressed states for the most part; what ranks send each other counts as written too.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from harness import MEGABYTE, on_ranks, parser
from rank_footprint import Footprint, of_forecast, of_training

from weathermixer.data.making.synthetic import write_synthetic
from weathermixer.data.store.store import Store
from weathermixer.jigsaw.layout import Layout

GRID = (720, 1440)
TIMES = 5
MESHES = (Layout(), Layout(domain=2, tensor=2), Layout(domain=4), Layout(tensor=4))
PHASES = ("train", "forecast")
COLUMNS = (10, 6, 22, 26, 18, 18)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("folder", type=Path)
    folder: Path = options.parse_args().folder
    store = folder / "waves.zarr"
    if not store.exists():
        write_synthetic(store, times=TIMES, grid=GRID, processes=1)
    state = 4 * len(Store.open(store).channels) * math.prod(GRID)
    print(f"A state has {state / MEGABYTE:.1f} MB; all numbers are MB, of each rank.")
    print(_line("phase", "mesh", "peak memory", "of one rank's", "read", "written"))
    for phase in PHASES:
        alone = 0
        for layout in MESHES:
            ranks = measure(folder, store, phase, layout)
            alone = alone or ranks[0].peak_bytes
            print(
                _line(
                    phase,
                    f"{layout.domain}x{layout.tensor}",
                    _numbers([each.peak_bytes / MEGABYTE for each in ranks], ".0f"),
                    _numbers([each.peak_bytes / alone for each in ranks], ".3f"),
                    _numbers([each.read_bytes / MEGABYTE for each in ranks], ".0f"),
                    _numbers([each.written_bytes / MEGABYTE for each in ranks], ".0f"),
                ),
                flush=True,
            )


def measure(folder: Path, store: Path, phase: str, layout: Layout) -> list[Footprint]:
    """Measure a phase on new ranks of a mesh: training, or forecasting with what was trained."""
    name = f"{layout.domain}x{layout.tensor}"
    run, out = folder / f"run-{name}", folder / f"forecast-{name}.zarr"
    shutil.rmtree(run if phase == "train" else out, ignore_errors=True)
    if phase == "train":
        return on_ranks(of_training, layout.world_size, "cpu", store, run, layout)
    return on_ranks(of_forecast, layout.world_size, "cpu", store, run, out, layout)


def _numbers(values: list[float], digits: str) -> str:
    return " ".join(f"{value:{digits}}" for value in values)


def _line(*columns: str) -> str:
    return "".join(f"{text:{width}}" for text, width in zip(columns, COLUMNS, strict=True)).rstrip()


if __name__ == "__main__":
    main()
