"""The schemes that ``compare.py`` puts side by side, each by its name in the table.

A scheme is a function ``build(sizes, rank, world_size, device)`` that every rank calls at the same
time, after ``torch.distributed`` has started, and that returns a
:class:`~peers.blocks.SchemeStep`. To add one, write it in a file of its own and name it here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from peers import data_parallel, dtensor, jigsaw, megatron, plain
from peers.blocks import BlockSizes, SchemeStep

Build = Callable[[BlockSizes, int, int, torch.device], SchemeStep]

SCHEMES: dict[str, Build] = {
    "serial": plain.build,
    "copies": plain.build_copies,
    "jigsaw": jigsaw.build,
    "jigsaw-waiting": jigsaw.build_without_overlap,
    "megatron": megatron.build,
    "dtensor-channels": dtensor.build_over_channels,
    "dtensor-tokens": dtensor.build_over_tokens,
    "fsdp2": data_parallel.build_fsdp2,
    "ddp": data_parallel.build_ddp,
}
