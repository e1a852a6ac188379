"""Host time of one rank among a thousand, before the first step and where memory might grow.

    python benchmarks/thousand_ranks.py                          # two minutes, one core, 2 GB
    python benchmarks/thousand_ranks.py --ranks 16 --ways 4      # seconds

Everything is the code of a training, run as the rank that has most to do, the first. The others are
replayed: PyTorch's fake process group answers for them, threads of this process come to meet it,
and the plans of all of them make the index of the checkpoint that is loaded. The network is the
largest published one, 3.2 billion parameters on 0.25°, described on the meta device; what is read
from the checkpoint is a network of as many tensors and blocks, and few elements. What thousands of
processes take to connect to each other over a network cannot be seen here.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import parser, write_record
from inputs.replayed import (
    HostTime,
    agree,
    beats,
    choose_mesh,
    connect_to_peers,
    describe_network,
    import_training,
    load_checkpoint,
    meet_ranks,
    plan_samples,
    write_checkpoint,
)

from weathermixer.jigsaw.layout import Layout

LIMIT_SECONDS = 10.0
OF_A_SECOND = 0.05


@dataclass(frozen=True)
class Measured:
    """What a rank did, what that took, and the seconds of its processor that it may take."""

    what: str
    taken: HostTime
    limit: float = LIMIT_SECONDS


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--ranks", type=int, default=1024)
    options.add_argument("--ways", type=int, default=4, help="ranks of a model instance")
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    layout = layout_of(chosen)
    print(f"{'seconds of one rank':48}{'processor':>10}{'limit':>7}{'passed':>10}")
    rows = []
    for row in measure(layout):
        rows.append(row)
        print(
            f"{row.what:48}{row.taken.processor:10.3f}{row.limit:7g}{row.taken.passed:10.3f}",
            flush=True,
        )
    write_record(
        chosen.json,
        "cpu",
        layout=[layout.data, layout.domain, layout.tensor],
        rows=[asdict(row) for row in rows],
    )


def layout_of(options: argparse.Namespace) -> Layout:
    """The mesh that is measured: the most replicas of instances as square as they can be."""
    ways = options.ways
    domain = next(parts for parts in range(int(ways**0.5), 0, -1) if ways % parts == 0)
    return Layout(data=options.ranks // ways, domain=domain, tensor=ways // domain)


def measure(layout: Layout) -> Iterator[Measured]:
    """Everything in the order in which a training does it."""
    ranks = layout.world_size
    yield Measured("starting: import", import_training())
    yield Measured(f"starting: meet {ranks - 1} others", meet_ranks(ranks))
    yield Measured("starting: groups of the mesh", connect_to_peers(layout))
    own, all_others = beats(ranks)
    yield Measured("a beat, each second", own, OF_A_SECOND)
    yield Measured(f"a beat of the first, who hears {ranks - 1}", all_others, OF_A_SECOND)
    yield Measured("agreeing on settings", agree(layout))
    yield Measured(f"choosing a mesh of {layout.ways} ways", choose_mesh(ranks, layout.data))
    yield Measured(f"choosing a mesh of {ranks} ways", choose_mesh(ranks, 1))
    yield Measured("building 3.2 B parameters on the meta device", describe_network(layout))
    yield Measured("samples of 40 years, hourly, 40 steps each", plan_samples(layout))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "step-00000001"
        yield Measured("saving: the first rank's plan", write_checkpoint(path, layout))
        yield Measured("loading a checkpoint", load_checkpoint(path, layout))


if __name__ == "__main__":
    main()
