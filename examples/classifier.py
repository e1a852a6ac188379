"""A SwiGLU classifier with pooling, cut over ranks, beside the same on each of them alone.

torchrun --nproc-per-node 4 examples/classifier.py
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weathermixer import jigsaw

TOKENS, BATCH, WIDTH, HIDDEN, CLASSES, STEPS = 30, 7, 25, 50, 11, 5


class Classifier(nn.Module):
    """``x (tokens, batch, width)`` → logits ``(1, batch, classes)``."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 2 * HIDDEN, bias=False)  # gates, then what they let through
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)
        self.pool = jigsaw.MeanRows(TOKENS)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        gates, values = self.up(self.norm(x)).chunk(2, -1)
        return self.head(self.pool(x + self.down(F.silu(gates) * values)))


if __name__ == "__main__":
    torch.manual_seed(0)  # the same weights and samples on all ranks
    torch.set_default_dtype(torch.float64)
    alone = Classifier()
    x, labels = torch.randn(TOKENS, BATCH, WIDTH), torch.randint(CLASSES, (1, BATCH))
    with jigsaw.torchrun_mesh() as mesh:
        table: dict[str, jigsaw.Cut] = {
            "norm": jigsaw.CutNorm(TOKENS),
            "up": jigsaw.CutLinear(TOKENS, out_features=jigsaw.Dimension((HIDDEN, HIDDEN))),
            "down": jigsaw.CutLinear(TOKENS, scheme="gather"),
            "pool": jigsaw.MeanRows(TOKENS, mesh),
            "head": jigsaw.CutLinear(1),
        }
        cut = jigsaw.parallelize(copy.deepcopy(alone), mesh, table)
        alone_mesh = jigsaw.Mesh.describe()
        for model, part, on in ((cut, jigsaw.own_part(x, mesh), mesh), (alone, x, alone_mesh)):
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
            for _ in range(STEPS):
                optimizer.zero_grad()
                logits = model(part)  # one row, which the first ranks along `domain` hold
                own = labels[: len(logits)]
                jigsaw.cross_entropy(logits, own, on, classes=CLASSES, elements=BATCH).backward()
                optimizer.step()
        difference = jigsaw.largest_difference(cut, alone)
        assert difference < 1e-12
        if mesh.layout.rank == 0:
            print(f"{mesh.domain.size} × {mesh.tensor.size} ranks differ by {difference:.0e}")
