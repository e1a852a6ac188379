"""The feed-forward layers of a transformer, cut over ranks, beside the same on each of them alone.

torchrun --nproc-per-node 4 examples/feed_forward.py
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weathermixer import jigsaw

TOKENS, WIDTH, HIDDEN, LAYERS, STEPS = 250, 130, 500, 4, 5


class FeedForward(nn.Module):
    """``x + W₂ gelu(W₁ norm(x))``; ``x (tokens, batch, width)``."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, HIDDEN)
        self.down = nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + jigsaw.feed_forward(self.norm(x), self.up, F.gelu, self.down)


def train(model: nn.Module, x: Tensor, elements: int) -> None:
    """Learn the negative of the input; the loss is a mean over ``elements`` of all ranks."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        jigsaw.mean_squared_error(model(x), -x, elements=elements).backward()
        optimizer.step()


if __name__ == "__main__":
    torch.manual_seed(0)  # the same weights and samples on all ranks
    torch.set_default_dtype(torch.float64)
    alone = nn.Sequential(*(FeedForward() for _ in range(LAYERS)))
    x = torch.randn(TOKENS, 1, WIDTH)
    with jigsaw.torchrun_mesh() as mesh:
        up, down = jigsaw.cheapest_pair(WIDTH, HIDDEN, mesh, rows=TOKENS)
        table: dict[str, jigsaw.Cut] = {
            "*.norm": jigsaw.CutNorm(rows=TOKENS),
            "*.up": jigsaw.CutLinear(rows=TOKENS, scheme=up),
            "*.down": jigsaw.CutLinear(rows=TOKENS, scheme=down),
        }
        cut = jigsaw.parallelize(copy.deepcopy(alone), mesh, table)
        train(cut.to(mesh.device), jigsaw.own_part(x, mesh).to(mesh.device), x.numel())
        train(alone.to(mesh.device), x.to(mesh.device), x.numel())
        difference = jigsaw.largest_difference(cut, alone)
        if mesh.layout.rank == 0:
            print(f"{mesh.domain.size} × {mesh.tensor.size} ranks differ by {difference:.0e}")
        assert difference < 1e-12
