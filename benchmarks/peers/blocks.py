"""Mixer blocks in plain PyTorch, their sizes, and what a scheme makes of them: a step.

Every scheme starts from these modules with the same weights, samples and upstream gradients, so
that what differs between two rows of the table is the scheme alone. A scheme that does not use the
modules themselves takes its weights from them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class BlockSizes:
    """The sizes of a stack of mixer blocks; the hidden sizes are the widths themselves.

    The stack is applied ``rollout`` times in a row. With ``recompute``, what a block keeps for the
    backward pass is made again.
    """

    tokens: int
    channels: int
    token_hidden: int
    channel_hidden: int
    blocks: int
    dtype: torch.dtype = torch.float32
    rollout: int = 1
    recompute: bool = False


@dataclass(frozen=True)
class SchemeStep:
    """A forward and backward pass of a scheme, on this rank.

    ``run`` leaves the gradients of the weights in place, reduced as an optimizer needs them, and
    returns this rank's part of the output and of the gradient of the input; None on a rank that
    takes no part. ``gather`` makes the whole ``(1, tokens, channels)`` tensor of such a part: of
    sample 0 where the ranks share a sample, of this rank's own where each has one. ``gradients``
    gives the whole gradient of every weight by its name in :class:`Blocks`: the mean over the
    samples. All ranks call any of the three together.

    ``samples`` is how many samples a step takes: one, or one per rank.
    """

    run: Callable[[], tuple[Tensor, Tensor] | None]
    gather: Callable[[Tensor], Tensor]
    gradients: Callable[[], dict[str, Tensor]]
    samples: int = 1


class Mlp(nn.Module):
    """Two linear maps over the last dimension with GELU between; ``(..., size)`` → the same."""

    def __init__(self, size: int, hidden: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.expand = nn.Linear(size, hidden, dtype=dtype)
        self.contract = nn.Linear(hidden, size, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(F.gelu(self.expand(x)))


class PlainBlock(nn.Module):
    """A mixer block: ``x ← x + W₂ gelu(W₁ norm(x))`` over tokens, then over channels.

    ``x`` is ``(1, tokens, channels)``. The maps over tokens are linear layers on the transposed
    activations ``(1, channels, tokens)``.
    """

    def __init__(self, sizes: BlockSizes) -> None:
        super().__init__()
        self.token_norm = nn.LayerNorm(sizes.channels, dtype=sizes.dtype)
        self.token_mlp = Mlp(sizes.tokens, sizes.token_hidden, sizes.dtype)
        self.channel_norm = nn.LayerNorm(sizes.channels, dtype=sizes.dtype)
        self.channel_mlp = Mlp(sizes.channels, sizes.channel_hidden, sizes.dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.token_mlp(self.token_norm(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channel_mlp(self.channel_norm(x))


class Blocks(nn.Sequential):
    """A stack of blocks with the weights that every scheme starts from."""

    def __init__(self, sizes: BlockSizes) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            super().__init__(*(PlainBlock(sizes) for _ in range(sizes.blocks)))
        self._sizes = sizes

    def forward(self, x: Tensor) -> Tensor:
        for block in [*self] * self._sizes.rollout:
            x = checkpoint(block, x, use_reentrant=False) if self._sizes.recompute else block(x)
        return x


def sample(sizes: BlockSizes, index: int) -> tuple[Tensor, Tensor]:
    """Input and upstream gradient number ``index``, each ``(1, tokens, channels)``."""
    generator = torch.Generator().manual_seed(1 + index)
    shape = (1, sizes.tokens, sizes.channels)
    x, upstream = (torch.randn(shape, generator=generator, dtype=sizes.dtype) for _ in range(2))
    return x, upstream


def forward_and_backward(model: nn.Module, x: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """Run a model forward and backward: its output, and the gradient of ``x``, a leaf.

    The gradients of the weights are left in place.
    """
    model.zero_grad(set_to_none=True)
    x.grad = None
    output = model(x)
    output.backward(upstream)
    gradient: Tensor | None = x.grad
    assert gradient is not None
    return output.detach(), gradient


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    """The gradient of every weight, by name, which a backward pass has left in place."""
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    return {name: gradient for name, gradient in gradients.items() if gradient is not None}
