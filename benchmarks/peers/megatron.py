"""Tensor and sequence parallelism in the manner of Megatron-LM, with PyTorch's own styles.

Between the MLPs the activations are cut by tokens, ``(1, tokens/n, channels)``, which norms and
residual additions need no exchange for. Each MLP gathers its input, cuts its hidden layer
(``expand`` by columns, ``contract`` by rows) and reduce-scatters its output by tokens. The MLP over
tokens does so on the transposed activations, whose tokens are the features of its linear layers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from peers.blocks import Blocks, BlockSizes, SchemeStep, forward_and_backward, sample
from peers.dtensor import settle, whole_gradients

TOKENS, TOKENS_TRANSPOSED = 1, 2


def build(sizes: BlockSizes, rank: int, world_size: int, device: torch.device) -> SchemeStep:
    """Tensor and sequence parallelism as Megatron-LM has them."""
    mesh = init_device_mesh(device.type, (world_size,))
    model = Blocks(sizes).to(device)
    for block in model:
        parallelize_module(
            block,
            mesh,
            {
                "token_norm": SequenceParallel(sequence_dim=TOKENS),
                "token_mlp.expand": ColwiseParallel(input_layouts=Shard(TOKENS_TRANSPOSED)),
                "token_mlp.contract": RowwiseParallel(output_layouts=Shard(TOKENS_TRANSPOSED)),
                "channel_norm": SequenceParallel(sequence_dim=TOKENS),
                "channel_mlp.expand": ColwiseParallel(input_layouts=Shard(TOKENS)),
                "channel_mlp.contract": RowwiseParallel(output_layouts=Shard(TOKENS)),
            },
            src_data_rank=None,
        )
    x, upstream = (
        distribute_tensor(tensor.to(device), mesh, [Shard(TOKENS)], src_data_rank=None).to_local()
        for tensor in sample(sizes, 0)
    )
    x.requires_grad_()

    def run() -> tuple[Tensor, Tensor]:
        parts = forward_and_backward(model, x, upstream)
        settle(model)
        return parts

    def gather(part: Tensor) -> Tensor:
        return DTensor.from_local(part, mesh, [Shard(TOKENS)]).full_tensor()

    return SchemeStep(run, gather, gradients=lambda: whole_gradients(model))
