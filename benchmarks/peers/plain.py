"""One rank does everything while the others wait; or each does as much, for itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from peers.blocks import (
    Blocks,
    BlockSizes,
    SchemeStep,
    forward_and_backward,
    gradients_of,
    sample,
)


def build(sizes: BlockSizes, rank: int, world_size: int, device: torch.device) -> SchemeStep:
    """One rank alone takes the step; the others wait for it."""
    if rank > 0:
        return SchemeStep(run=lambda: None, gather=_itself, gradients=dict)
    model, run = _alone(sizes, 0, device)
    return SchemeStep(
        run=run,
        gather=_itself,
        gradients=lambda: gradients_of(model),
    )


def build_copies(sizes: BlockSizes, rank: int, world_size: int, device: torch.device) -> SchemeStep:
    """A sample on each rank, of which the others learn nothing: what the machine can do at most."""
    _, run = _alone(sizes, rank, device)
    return SchemeStep(run=run, gather=_itself, gradients=dict, samples=world_size)


def _alone(
    sizes: BlockSizes, index: int, device: torch.device
) -> tuple[nn.Module, Callable[[], tuple[Tensor, Tensor]]]:
    """A whole model, and a step of it on sample ``index``."""
    model = Blocks(sizes).to(device)
    x, upstream = (tensor.to(device) for tensor in sample(sizes, index))
    x.requires_grad_()
    return model, lambda: forward_and_backward(model, x, upstream)


def reference(
    sizes: BlockSizes, index: int, device: torch.device
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Results of sample ``index``: output, gradient of the input, and those of weights by name."""
    model = Blocks(sizes).to(device)
    x, upstream = (tensor.to(device) for tensor in sample(sizes, index))
    output, gradient = forward_and_backward(model, x.requires_grad_(), upstream)
    return output, gradient, gradients_of(model)


def _itself(tensor: Tensor) -> Tensor:
    return tensor
