"""A transformer whose heads are cut over `tensor` and tokens over `domain`, beside one that is not.

torchrun --nproc-per-node 4 examples/transformer.py
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weathermixer import jigsaw

TOKENS, BATCH, HEADS, HEAD, HIDDEN, STEPS = 23, 3, 6, 5, 41, 5
WIDTH = HEADS * HEAD


class Layer(nn.Module):
    """Attention, then two linear maps, each added to its input ``(tokens, batch, width)``."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        self.all_tokens = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, -1, HEAD)).permute(2, 1, 3, 0, 4)
        mixed = F.scaled_dot_product_attention(q, self.all_tokens(k), self.all_tokens(v))
        x = x + self.out(mixed.permute(2, 0, 1, 3).flatten(2))
        return x + jigsaw.feed_forward(self.norm2(x), self.up, F.gelu, self.down)


if __name__ == "__main__":
    torch.manual_seed(0)  # the same weights and samples on all ranks
    torch.set_default_dtype(torch.float64)
    alone, x = nn.Sequential(Layer(), Layer()), torch.randn(TOKENS, BATCH, WIDTH)
    with jigsaw.torchrun_mesh() as mesh:
        width, three = (jigsaw.Dimension((HEADS,) * times, unit=HEAD) for times in (1, 3))
        table: dict[str, jigsaw.Cut] = {
            "*.norm?": jigsaw.CutNorm(TOKENS, width),
            "*.qkv": jigsaw.CutLinear(TOKENS, in_features=width, out_features=three),
            "*.out": jigsaw.CutLinear(TOKENS, in_features=width, out_features=width),
            "*.up": jigsaw.CutLinear(TOKENS, in_features=width),
            "*.down": jigsaw.CutLinear(TOKENS, out_features=width, scheme="gather"),
            "*.all_tokens": jigsaw.GatherRows(TOKENS, mesh, dim=2),
        }
        cut = jigsaw.parallelize(copy.deepcopy(alone), mesh, table)
        for model, part in ((cut, jigsaw.own_part(x, mesh, features=width)), (alone, x)):
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
            for _ in range(STEPS):
                optimizer.zero_grad()
                jigsaw.mean_squared_error(model(part), -part, elements=x.numel()).backward()
                optimizer.step()
        difference = jigsaw.largest_difference(cut, alone)
        assert difference < 1e-12
        if mesh.layout.rank == 0:
            print(f"{mesh.domain.size} × {mesh.tensor.size} ranks differ by {difference:.0e}")
