"""Measure the memory of other schemes' steps on this machine beside what is planned of them.

    python benchmarks/peer_memory.py [--small] [--json FILE]

Mixer blocks alone, forward and backward, as ``compare.py`` times them: PyTorch's own pieces, with
nothing of this project in them, and no optimizer. Each case runs in processes of its own, whose
allocator counts what it gives out on all threads (``allocated_memory.py``).
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from allocated_memory import COUNT_BLOCKS
from harness import MEGABYTE, on_ranks, parser, write_record
from peers import jigsaw
from peers.blocks import BlockSizes
from peers.measuring import measure_allocated

from weathermixer.planning.ledger import Held, Ledger
from weathermixer.planning.schemes.averaging import Averaging
from weathermixer.planning.schemes.data_parallel import fsdp_memory
from weathermixer.planning.schemes.plain_network import PlainNetwork
from weathermixer.planning.schemes.plain_tensors import PlainTensors, SavedMixing
from weathermixer.planning.step_kind import StepKind

SCHEMES = {"serial": 1, "ddp": 2, "fsdp2": 2, "megatron": 2}
"""The schemes of ``compare.py`` that are planned for, and their ranks here."""
BLOCKS = BlockSizes(1080, 2160, 1080, 2160, 3)
LARGER = BlockSizes(4320, 2160, 2160, 2160, 1)


@dataclass(frozen=True)
class PeerRow:
    """Bytes of the rank with the most at the peak of two steps, predicted and allocated."""

    scheme: str
    sizes: BlockSizes
    predicted: int
    allocated: int


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--small", action="store_true", help="one case of each scheme")
    options.add_argument("--json", type=Path)
    arguments = options.parse_args()
    os.environ.update(COUNT_BLOCKS)  # of the ranks
    cases = [BLOCKS, replace(BLOCKS, rollout=2, recompute=True), LARGER]
    cases += [replace(BLOCKS, rollout=4), replace(BLOCKS, recompute=True)]
    rows: list[PeerRow] = []
    for scheme, ranks in SCHEMES.items():
        for sizes in cases[1:2] if arguments.small else cases:
            allocated = on_ranks(measure_allocated, ranks, "cpu", scheme, sizes)
            row = PeerRow(scheme, sizes, predicted_bytes(scheme, sizes, ranks), allocated)
            rows.append(row)
            print(
                f"| {scheme} | {sizes.tokens} x {sizes.channels}, {sizes.blocks} | "
                f"{sizes.rollout} | {'yes' if sizes.recompute else 'no'} | "
                f"{row.predicted / MEGABYTE:.1f} | {allocated / MEGABYTE:.1f} | "
                f"{row.predicted / allocated - 1.0:+.1%} |",
                flush=True,
            )
    records = [{**asdict(row), "sizes": {**asdict(row.sizes), "dtype": "float32"}} for row in rows]
    write_record(arguments.json, "cpu", cases=records)


def predicted_bytes(scheme: str, sizes: BlockSizes, ranks: int) -> int:
    """What a rank holds of a stack of blocks, as it is planned of them in a whole network."""
    kind = StepKind(samples=1, recompute="blocks" if sizes.recompute else "none")
    network = PlainNetwork(jigsaw.architecture(sizes), kind, ranks if scheme == "megatron" else 1)
    if scheme == "fsdp2":
        weights = fsdp_memory(network, edges=0, num_blocks=sizes.blocks, ranks=ranks)
    else:
        replicas = ranks if scheme == "ddp" else 1
        held = sizes.blocks * network.rank_block_weights()
        weights = Averaging(network, replicas, ranks_of_node=ranks).memory(held)
    ledger = Ledger()
    tensors = PlainTensors(ledger, network, weights)
    resident = ledger.new(round(weights.weights + weights.buckets))
    latent = 4 * sizes.tokens * sizes.channels // network.ranks
    x, upstream = ledger.new(latent), ledger.new(latent)
    gradient = upstream
    saved: list[list[SavedMixing] | Held] = []
    for _ in range(sizes.rollout * sizes.blocks):
        given = x
        x, kept = tensors.forward_block(x)
        saved.append(given if sizes.recompute else kept)
        del given, kept
    while saved:
        rest = len(saved) - 1
        gradient = tensors.backward_block(
            rest % sizes.blocks, saved.pop(), gradient, is_last_use=rest < sizes.blocks
        )
    del resident, upstream
    return ledger.peak


if __name__ == "__main__":
    main()
