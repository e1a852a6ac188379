"""Data parallelism: each rank takes a whole sample, so a step takes as many samples as ranks.

The table divides its time by that number. Unlike the other schemes it cannot make one sample
faster, nor hold one sample's activations on several ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from peers.blocks import (
    Blocks,
    BlockSizes,
    SchemeStep,
    forward_and_backward,
    gradients_of,
    sample,
)
from peers.dtensor import whole_gradients
from weathermixer.scaling.peers import cut_weights, replicate


def build_ddp(sizes: BlockSizes, rank: int, world_size: int, device: torch.device) -> SchemeStep:
    """Every rank holds all weights; gradients are averaged during the backward pass."""
    model = Blocks(sizes).to(device)
    replica = replicate(model)
    x, upstream = _own_sample(sizes, rank, device)
    return SchemeStep(
        run=lambda: forward_and_backward(replica, x, upstream),
        gather=_itself,
        gradients=lambda: gradients_of(model),
        samples=world_size,
    )


def build_fsdp2(sizes: BlockSizes, rank: int, world_size: int, device: torch.device) -> SchemeStep:
    """Weights are cut over the ranks, gathered block by block when needed, and freed after."""
    mesh = init_device_mesh(device.type, (world_size,))
    model = Blocks(sizes).to(device)
    cut_weights(model, model, mesh)
    x, upstream = _own_sample(sizes, rank, device)
    return SchemeStep(
        run=lambda: forward_and_backward(model, x, upstream),
        gather=_itself,
        gradients=lambda: whole_gradients(model),
        samples=world_size,
    )


def _own_sample(sizes: BlockSizes, rank: int, device: torch.device) -> tuple[Tensor, Tensor]:
    x, upstream = (tensor.to(device) for tensor in sample(sizes, rank))
    return x.requires_grad_(), upstream


def _itself(tensor: Tensor) -> Tensor:
    return tensor
