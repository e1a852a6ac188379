"""What ranks fetch of an archive with one time a chunk, and of a store: twenty minutes; Linux.

    python benchmarks/shared_chunks.py FOLDER --json FILE    # 0.2 GB of disk, 6 GB of memory

Makes an archive at 0.25° whose chunks hold all longitudes at one time, as published reanalyses have
them, and a store of it for 64 ranks (both stay in ``FOLDER``, and are used again). 8 and 64 ranks,
each a process, then read samples of either as a training would, each from storage that hands out so
few bytes a second that what else the processor does hardly matters. Beside the bytes that each
fetched and the seconds of a sample stand those that the plan predicts.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from harness import MEGABYTE, parser, write_record
from inputs.limited_storage import Reading, read_as_rank

from weathermixer.config import Config
from weathermixer.data.making.preparation import prepare
from weathermixer.data.opening import open_states
from weathermixer.jigsaw.layout import Layout
from weathermixer.model.architecture import Architecture, architecture_of
from weathermixer.planning.machine_files import find_machine
from weathermixer.planning.plan import Planner

GRID = (721, 1440)
TIMES = 4
LEVELS = (500, 850)
STATE_ARRAYS = ("state", "temperature", "2m_temperature")
PATCH = 6


@dataclass(frozen=True)
class Case:
    """What is read: so many samples of a source, by so many ranks, each at ``bytes_per_second``."""

    source: str
    ranks: int
    samples: int
    bytes_per_second: float | None


# Rates at which a sample takes long beside what a crowded processor needs for it.
CASES = (
    Case("archive", 8, 1, 6e4),
    Case("archive", 64, 1, 6e4),
    Case("store", 8, 2, 1.5e4),
    Case("store", 64, 4, 5e3),
)
HEAD = (
    f"{'':15}{'MB of a rank, per sample':>37}{'MB in all':>10}{'kB/s':>8}{'s per sample':>20}\n"
    f"{'source':9}{'ranks':>6}{'share':>10}{'times':>7}{'planned':>10}{'fetched':>10}"
    f"{'fetched':>10}{'a rank':>8}{'planned':>10}{'measured':>10}"
)


@dataclass(frozen=True)
class Row:
    """What the ranks that share a sample along longitudes fetched for one, and how long it took.

    ``share_bytes`` are those of the rank with the most, as decoded, and ``amplification`` is how
    many times as much it fetches in whole chunks, as planned. What was fetched is as stored:
    ``bytes_per_rank`` by the rank with the most, ``bytes_in_all`` by all of them. ``seconds`` are
    those of the slowest.
    """

    case: Case
    share_bytes: float
    amplification: float
    planned_bytes_per_rank: float
    bytes_per_rank: float
    bytes_in_all: float
    planned_seconds: float | None
    seconds: float


def main() -> None:
    options = parser(__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("--json", type=Path, metavar="FILE", help="write machine, date and rows")
    arguments = options.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    print(HEAD)
    rows = []
    # This process is forked, so others do what starts threads.
    _apart(make_sources, arguments.folder, GRID, max(case.ranks for case in CASES))
    for case in CASES:
        rows.append(measure(arguments.folder, case))
        print(line(rows[-1]), flush=True)
    write_record(arguments.json, "cpu", grid=GRID, rows=[asdict(row) for row in rows])


def make_sources(folder: Path, grid: tuple[int, int], ways: int) -> None:
    """Make the archive in a folder, and a store of it for so many ranks, unless they are there."""
    archive, store = folder / "archive.zarr", folder / "store.zarr"
    if not archive.exists():
        _archive(grid).to_zarr(
            archive,
            zarr_format=2,
            encoding={
                "temperature": {"chunks": (1, len(LEVELS), *grid), "compressors": None},
                "2m_temperature": {"chunks": (1, *grid), "compressors": None},
            },
        )
    if not store.exists():
        config = configuration(archive, Layout(domain=ways))
        prepare(store, [str(archive)], config=config, climatology=False, processes=1)


def _archive(grid: tuple[int, int]) -> xr.Dataset:
    """Noise between 250 and 290 K: only how many bytes there are matters."""
    rng = np.random.default_rng(0)
    shape = (TIMES, len(LEVELS), *grid)
    upper = rng.uniform(250.0, 290.0, shape).astype(np.float32)
    dims = ("time", "latitude", "longitude")
    rows, columns = grid
    return xr.Dataset(
        {
            "temperature": (("time", "level", *dims[1:]), upper, {"units": "K"}),
            "2m_temperature": (dims, upper[:, 0], {"units": "K"}),
        },
        coords={
            "time": np.datetime64("2020-01-01", "ns") + np.arange(TIMES) * np.timedelta64(6, "h"),
            "level": ("level", list(LEVELS), {"units": "hPa"}),
            "latitude": np.linspace(90.0, -90.0, rows),
            "longitude": 360.0 * np.arange(columns) / columns,
        },
    )


def configuration(source: Path, layout: Layout) -> Config:
    """A training on a source, by a mesh."""
    return Config.model_validate(
        {
            "data": {
                "store": source,
                "variables": ["temperature", "2m_temperature"],
                "levels": list(LEVELS),
                "static": [],
            },
            "model": {"patch": [PATCH, PATCH]},
            "parallel": {"domain": layout.domain, "tensor": 1},
            "training": {"instance_batch": 1},
        }
    )


def measure(folder: Path, case: Case) -> Row:
    """Let ranks read what is to be read in a folder, each in a process of its own."""
    source, layout = folder / f"{case.source}.zarr", Layout(domain=case.ranks)
    rate = case.bytes_per_second
    planned = _apart(plan, source, layout)
    readings = _read(source, layout, planned.architecture, case.samples, rate)
    stored = planned.bytes_fetched * planned.stored_per_decoded
    return Row(
        case=case,
        share_bytes=planned.share_bytes,
        amplification=planned.bytes_fetched / planned.share_bytes,
        planned_bytes_per_rank=stored,
        bytes_per_rank=max(each.bytes_per_sample for each in readings),
        bytes_in_all=sum(each.bytes_per_sample for each in readings),
        planned_seconds=None if rate is None else stored / rate,
        seconds=max(each.seconds_per_sample for each in readings),
    )


@dataclass(frozen=True)
class Planned:
    """Bytes of a sample that a rank owns and fetches, decoded, and bytes stored for each."""

    architecture: Architecture
    share_bytes: float
    bytes_fetched: float
    stored_per_decoded: float


def plan(source: Path, layout: Layout) -> Planned:
    """What the plan says of a sample of a source on a mesh."""
    config = configuration(source, layout)
    states = open_states(source, config.data)
    architecture = architecture_of(config.data, config.model, states.grid)
    planner = Planner(config, architecture, find_machine("processors"), states=states)
    candidate = planner.candidate(layout)
    arrays = [path for path in (source / name for name in STATE_ARRAYS) if path.exists()]
    files = [file for array in arrays for file in array.rglob("*") if file.is_file()]
    # Names of metadata begin with a dot in version 2 of Zarr, and end in .json in version 3.
    chunks = [file for file in files if file.name[0] != "." and file.suffix != ".json"]
    decoded = states.reading_cost(slice(None), slice(None)).touched_bytes * len(states.times)
    return Planned(
        architecture,
        candidate.step.bytes_read,
        candidate.bytes_fetched,
        sum(file.stat().st_size for file in chunks) / decoded,
    )


def _read(
    source: Path,
    layout: Layout,
    architecture: Architecture,
    samples: int,
    bytes_per_second: float | None,
) -> list[Reading]:
    """What each rank of a mesh, in a process of its own, says of reading so many samples."""
    context = multiprocessing.get_context("fork")
    together = context.Barrier(layout.world_size)
    data = configuration(source, layout).data
    answers, processes = [], []
    for rank in range(layout.world_size):
        answer, said = context.Pipe(duplex=False)
        of_rank = (said, together.wait, source, data, architecture, layout.at(rank), samples)
        process = context.Process(target=read_as_rank, args=(*of_rank, bytes_per_second))
        process.start()
        said.close()
        answers.append(answer)
        processes.append(process)
    readings = [answer.recv() for answer in answers]
    for process in processes:
        process.join()
    return readings


def _apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """What ``work`` returns in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        return pool.submit(work, *arguments).result()


def line(row: Row) -> str:
    """A row of the table under ``HEAD``."""
    case = row.case
    rate = "" if case.bytes_per_second is None else f"{case.bytes_per_second / 1e3:g}"
    planned = "" if row.planned_seconds is None else f"{row.planned_seconds:.2f}"
    return (
        f"{case.source:9}{case.ranks:>6}{row.share_bytes / MEGABYTE:>10.3f}"
        f"{row.amplification:>7.2f}{row.planned_bytes_per_rank / MEGABYTE:>10.3f}"
        f"{row.bytes_per_rank / MEGABYTE:>10.3f}{row.bytes_in_all / MEGABYTE:>10.2f}{rate:>8}"
        f"{planned:>10}{row.seconds:>10.2f}"
    )


if __name__ == "__main__":
    main()
