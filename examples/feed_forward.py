"""The feed-forward layers of a transformer, cut over any mesh of ranks: the same function on each.

torchrun --nproc-per-node 4 examples/feed_forward.py
"""

import os

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weathermixer.jigsaw.cost import cheapest_pair, layouts
from weathermixer.jigsaw.exchange import total_over
from weathermixer.jigsaw.layers import ChannelLinear, LayerNorm, initialise, prefetch_in_order
from weathermixer.jigsaw.layout import Dimension
from weathermixer.jigsaw.mesh import Mesh, connect, local_device, start, stop
from weathermixer.jigsaw.replicas import Replicas

TOKENS, WIDTH, HIDDEN, LAYERS, STEPS = 500, 390, 1500, 4, 20


class FeedForward(nn.Module):
    """``x + W₂ gelu(W₁ norm(x))``; per rank, ``x (tokens / domain, 1, width / tensor)``."""

    def __init__(self, mesh: Mesh) -> None:
        super().__init__()
        up, down = cheapest_pair(ChannelLinear, WIDTH, HIDDEN, mesh, rows=TOKENS)
        self.norm = LayerNorm(WIDTH, mesh, rows=TOKENS)
        self.up = ChannelLinear(WIDTH, HIDDEN, mesh, rows=TOKENS, scheme=up)
        self.down = ChannelLinear(HIDDEN, WIDTH, mesh, rows=TOKENS, scheme=down)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(x, self.norm)))


def train(mesh: Mesh) -> list[float]:
    """Learn the negative of random inputs; the loss of all ranks together after each step."""
    model = nn.Sequential(*(FeedForward(mesh) for _ in range(LAYERS))).to(mesh.device)
    initialise(model, seed=0)
    prefetch_in_order(model)
    replicas = Replicas(model, mesh)
    optimizer = torch.optim.AdamW(replicas.parameters().values(), lr=1e-3)

    whole = torch.randn(TOKENS, 1, WIDTH, generator=torch.Generator().manual_seed(1))
    (rows,) = Dimension.of(TOKENS).ranges(mesh.domain.size, mesh.domain.index)
    (columns,) = Dimension.of(WIDTH).ranges(mesh.tensor.size, mesh.tensor.index)
    x = whole[rows.start : rows.stop, :, columns.start : columns.stop].to(mesh.device)

    losses = []
    for _ in range(STEPS):
        loss = (model(x) + x).square().sum() / whole.numel()  # this rank's share of the mean
        loss.backward()
        replicas.finish_gradients()
        optimizer.step()
        replicas.finish_step()
        losses.append(total_over(mesh.axes, loss.detach()[None]).item())
    return losses


if __name__ == "__main__":
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    device = local_device(int(os.environ.get("LOCAL_RANK", "0")))
    if world_size > 1:
        start(int(os.environ["RANK"]), world_size, device=device)
    mesh = connect(layouts(world_size)[len(layouts(world_size)) // 2], device=device)
    losses = train(mesh)
    if mesh.layout.rank == 0:
        domain, tensor = mesh.domain.size, mesh.tensor.size
        print(f"{domain} × {tensor} ranks: loss {losses[0]:.6f}, then {losses[-1]:.6f}")
    stop()
