"""One rank does everything; the others wait."""

from __future__ import annotations

import torch
from torch import Tensor

from peers.blocks import Blocks, BlockSizes, Step, forward_and_backward, sample


def build(sizes: BlockSizes, rank: int, world_size: int, device: torch.device) -> Step:
    if rank > 0:
        return Step(run=lambda: None, gather=_itself, gradients=dict)
    model = Blocks(sizes).to(device)
    x, upstream = (tensor.to(device) for tensor in sample(sizes, 0))
    x.requires_grad_()
    return Step(
        run=lambda: forward_and_backward(model, x, upstream),
        gather=_itself,
        gradients=lambda: {name: weight.grad for name, weight in model.named_parameters()},
    )


def reference(
    sizes: BlockSizes, index: int, device: torch.device
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Of sample ``index``: output, gradient of the input, and gradients of the weights by name."""
    model = Blocks(sizes).to(device)
    x, upstream = (tensor.to(device) for tensor in sample(sizes, index))
    output, gradient = forward_and_backward(model, x.requires_grad_(), upstream)
    return output, gradient, {name: weight.grad for name, weight in model.named_parameters()}


def _itself(tensor: Tensor) -> Tensor:
    return tensor
