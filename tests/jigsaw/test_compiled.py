"""``torch.compile`` of a network that is cut: graphs break at exchanges, and nothing changes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from support.ranks import Pool
from weathermixer.jigsaw.cutting import CutLinear, CutNorm, parallelize
from weathermixer.jigsaw.dropout import set_dropout_key
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh


def gradients(mesh: Mesh, compiled: bool) -> list[list[Tensor]]:
    """Output and gradients of several steps with other zeroes each."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.LayerNorm(6), nn.Linear(6, 8), nn.GELU(), nn.Dropout(0.3), nn.Linear(8, 6), nn.Tanh()
    ).double()
    model = parallelize(
        model, mesh, {"0": CutNorm(rows=5), "1": CutLinear(5), "4": CutLinear(5, scheme="gather")}
    )
    rows = 3 if mesh.domain.index == 0 else 2
    x = torch.linspace(-1.0, 2.0, rows * 2 * 6, dtype=torch.float64).view(rows, 2, 6)
    function = torch.compile(model, backend="eager") if compiled else model
    results = []
    for key in range(3):
        model.zero_grad()
        set_dropout_key(model, 0, key)
        y = function(x)
        y.square().sum().backward()
        found = [parameter.grad for parameter in model.parameters()]
        results.append([y.detach(), *(each.clone() for each in found if each is not None)])
    return results


def test_a_network_that_is_cut_compiles_to_the_same_function(pool: Pool) -> None:
    plain, compiled = (pool.run(gradients, Layout(domain=2), each) for each in (False, True))
    assert len(plain[0][0]) == 1 + 6
    torch.testing.assert_close(compiled, plain, rtol=1e-12, atol=1e-14)
