"""What reading samples adds to a real training step: six minutes.

    python benchmarks/loading.py --json FILE

Steps that read their samples from a store in the machine's cache, and steps that repeat one, in
turn, on one and on two ranks, each of which computes in one thread. The store is synthetic, made in
a temporary folder. How reading scales with the ranks is measured by ``weathermixer bench scaling``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from harness import on_ranks, parser, write_record
from inputs import overhead
from inputs.overhead import Overhead


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--json", type=Path, metavar="FILE", help="write machine, date and rows")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [
            on_ranks(
                overhead.measure, ranks, "cpu", overhead.prepare(folder, ranks), new_run(folder)
            )
            for ranks in (1, 2)
        ]
    print_overhead(rows)
    write_record(arguments.json, "cpu", overhead=[asdict(row) for row in rows])


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


if __name__ == "__main__":
    main()
