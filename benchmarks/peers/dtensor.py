"""Plain DTensor: weights and activations are given placements, and DTensor moves what it must.

Activations ``(1, tokens, channels)`` enter cut by channels (a 1 × n mesh of domain × tensor) or by
tokens (n × 1). Every weight matrix is cut by its outputs or its inputs, norms and the biases of
uncut outputs are on every rank. Nothing inside the stack is placed by hand. How the weights are cut
decides what DTensor chooses to move: of the sixteen ways to cut the four matrices of a block, each
scheme has the one with which two ranks sent least at 540 tokens × 540 channels, token_hidden 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor

from peers.blocks import (
    Blocks,
    BlockSizes,
    PlainBlock,
    SchemeStep,
    forward_and_backward,
    gradients_of,
    sample,
)

TOKENS, CHANNELS = 1, 2
BY_OUTPUTS, BY_INPUTS = Shard(0), Shard(1)


@dataclass(frozen=True)
class Cuts:
    """How the activations and the four matrices of a block are cut."""

    activations: Shard
    token_expand: Shard
    token_contract: Shard
    channel_expand: Shard
    channel_contract: Shard


def build_over_channels(
    sizes: BlockSizes, rank: int, world_size: int, device: torch.device
) -> SchemeStep:
    """DTensor with activations cut over channels, and weights as sends least."""
    cuts = Cuts(Shard(CHANNELS), BY_INPUTS, BY_OUTPUTS, BY_OUTPUTS, BY_OUTPUTS)
    return _build(sizes, world_size, device, cuts)


def build_over_tokens(
    sizes: BlockSizes, rank: int, world_size: int, device: torch.device
) -> SchemeStep:
    """DTensor with activations cut over tokens, and weights as sends least."""
    cuts = Cuts(Shard(TOKENS), BY_INPUTS, BY_OUTPUTS, BY_OUTPUTS, BY_INPUTS)
    return _build(sizes, world_size, device, cuts)


def _build(sizes: BlockSizes, world_size: int, device: torch.device, cuts: Cuts) -> SchemeStep:
    mesh = init_device_mesh(device.type, (world_size,))
    model = Blocks(sizes).to(device)
    for block in model:
        assert isinstance(block, PlainBlock)
        for linear, cut in (
            (block.token_mlp.expand, cuts.token_expand),
            (block.token_mlp.contract, cuts.token_contract),
            (block.channel_mlp.expand, cuts.channel_expand),
            (block.channel_mlp.contract, cuts.channel_contract),
        ):
            _place(linear, "weight", mesh, cut)
            _place(linear, "bias", mesh, Shard(0) if cut == BY_OUTPUTS else Replicate())
        for norm in (block.token_norm, block.channel_norm):
            _place(norm, "weight", mesh, Replicate())
            _place(norm, "bias", mesh, Replicate())
    x, upstream = (
        distribute_tensor(tensor.to(device), mesh, [cuts.activations], src_data_rank=None)
        for tensor in sample(sizes, 0)
    )
    x.requires_grad_()

    def run() -> tuple[Tensor, Tensor]:
        parts = forward_and_backward(model, x, upstream)
        settle(model)
        return parts

    return SchemeStep(run, gather=_whole, gradients=lambda: whole_gradients(model))


def _place(module: nn.Module, name: str, mesh: DeviceMesh, placement: Placement) -> None:
    whole = getattr(module, name).detach()
    part = distribute_tensor(whole, mesh, [placement], src_data_rank=None)
    module.register_parameter(name, nn.Parameter(part))


def settle(model: nn.Module) -> None:
    """Reduce what the backward pass left as partial sums: each gradient as its weight is held."""
    for weight in model.parameters():
        data, gradient = weight.data, weight.grad
        assert isinstance(data, DTensor) and isinstance(gradient, DTensor)
        if gradient.placements != data.placements:
            weight.grad = gradient.redistribute(placements=data.placements)


def whole_gradients(model: nn.Module) -> dict[str, Tensor]:
    """The gradient of every weight, by name, gathered from all ranks."""
    return {name: _whole(gradient) for name, gradient in gradients_of(model).items()}


def _whole(tensor: Tensor) -> Tensor:
    assert isinstance(tensor, DTensor)
    return tensor.full_tensor()
