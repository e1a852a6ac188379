"""What PyTorch itself offers instead of Jigsaw: whole replicas, and replicas whose weights are cut.

Each takes plain modules. The ranks are those of a process group; each has samples of its own.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel


def replicate(model: nn.Module, group: dist.ProcessGroup | None = None) -> nn.Module:
    """The model with all weights on every rank, and gradients averaged in the backward pass.

    ``group`` is that of all ranks by default. Buffers are taken to be constant.
    """
    return DistributedDataParallel(
        model, process_group=group, gradient_as_bucket_view=True, forward_sync_buffers=False
    )


def cut_weights(model: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh) -> None:
    """Cut the weights over ``mesh`` in place: FSDP2.

    Those of each of ``blocks`` are gathered when it is used and freed after, and those of the rest
    of the model are gathered together.
    """
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
