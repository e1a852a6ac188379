"""Reading samples beside a real training step: what it adds, and how it scales with the ranks.

    python benchmarks/loading.py --only overhead    # a store in the machine's cache: six minutes
    python benchmarks/loading.py --only scaling     # links of known bandwidth: four minutes

``overhead`` takes steps that read their samples and steps that repeat one, in turn, on one and on
two ranks. ``scaling`` gives each rank a link of its own and compares a step on 1, 2 and 4 ranks
with ``max(sample bytes / ways / bandwidth, compute)``. Each rank computes in one thread. Stores are
synthetic, made in a temporary folder.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from harness import on_ranks, parser, write_record
from inputs import overhead, scaling
from inputs.overhead import Overhead
from inputs.scaling import ScalingRow, Ways


def main() -> None:
    arguments = parse()
    record: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.only != "scaling":
            rows = [
                on_ranks(
                    overhead.measure, ranks, "cpu", overhead.prepare(folder, ranks), new_run(folder)
                )
                for ranks in (1, 2)
            ]
            print_overhead(rows)
            record["overhead"] = [asdict(row) for row in rows]
        if arguments.only != "overhead":
            by_ways = [
                on_ranks(
                    scaling.measure,
                    ways,
                    "cpu",
                    scaling.prepare(folder, ways),
                    new_run(folder),
                    arguments.bandwidths,
                )
                for ways in scaling.MESHES
            ]
            compared = scaling.tabulate(by_ways)
            print_scaling(by_ways, compared)
            record["ways"] = [asdict(ways) for ways in by_ways]
            record["scaling"] = [asdict(row) for row in compared]
    write_record(arguments.json, "cpu", **record)


def parse() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--only", choices=("overhead", "scaling"), help="default: both")
    options.add_argument(
        "--bandwidths",
        type=float,
        nargs="+",
        default=[8.0, 3.0],
        metavar="MB/S",
        help="of each rank's link in 'scaling', 10⁶ bytes per second",
    )
    options.add_argument("--json", type=Path, metavar="FILE", help="write machine, date and rows")
    return options.parse_args()


def new_run(folder: Path) -> Path:
    """An empty folder for a run."""
    return Path(tempfile.mkdtemp(dir=folder))


def print_overhead(rows: Iterable[Overhead]) -> None:
    print(
        f"{'':15}{'processor seconds':>42}{'seconds per step':>36}{'reading adds':>28}\n"
        f"{'':15}{'of a sample read':>20}{'process, per step':>22}{'one sample':>18}"
        f"{'every sample':>18}{'expected':>10}{'measured':>18}\n"
        f"{'ranks':7}{'MB':>8}{'alone':>10}{'beside':>10}{'repeated':>12}{'reading':>10}"
        f"{'median':>9}{'minimum':>9}{'median':>9}{'minimum':>9}{'at most':>10}"
        f"{'time':>9}{'CPU':>9}"
    )
    for row in rows:
        print(
            f"{row.ranks:<7}{row.sample_mb:>8.1f}{row.alone_cpu_s:>10.3f}{row.reading_cpu_s:>10.3f}"
            f"{row.repeated_cpu_s:>12.3f}{row.loading_cpu_s:>10.3f}"
            f"{row.repeated_median_s:>9.3f}{row.repeated_minimum_s:>9.3f}"
            f"{row.loading_median_s:>9.3f}{row.loading_minimum_s:>9.3f}"
            f"{row.expected_at_most:>10.1%}{row.measured:>9.1%}{row.measured_cpu:>9.1%}"
        )


def print_scaling(by_ways: Iterable[Ways], rows: Iterable[ScalingRow]) -> None:
    for here in by_ways:
        print(
            f"{here.ways} ways: {here.channels} channels, "
            f"{min(here.gflop_per_rank):.1f} to {max(here.gflop_per_rank):.1f} GFLOP per rank, "
            f"{here.compute_s:.3f} s without reading"
        )
    print(
        f"{'':37}{'MB per rank':>18}{'seconds per step':>20}{'throughput per rank':>21}\n"
        f"{'MB/s':6}{'reading':25}{'ways':>6}{'share':>9}{'read':>9}"
        f"{'predicted':>11}{'measured':>9}{'predicted':>12}{'measured':>9}  bound by"
    )
    for row in rows:
        most = max(range(row.ways), key=row.share_mb.__getitem__)
        print(
            f"{row.bandwidth_mb_per_s:<6g}{row.reading:25}{row.ways:>6}"
            f"{row.share_mb[most]:>9.2f}{row.read_mb[most]:>9.2f}"
            f"{row.predicted_s:>11.3f}{row.measured_s:>9.3f}"
            f"{row.predicted_throughput:>12.2f}{row.measured_throughput:>9.2f}"
            f"  {row.bound_by}"
        )


if __name__ == "__main__":
    main()
