"""A process that stands for one rank of many counts what that rank exchanges and computes."""

from __future__ import annotations

import pytest
import torch

from support.networks import UNEVEN, Sample, mesh_name, network_on, whole_parameters
from support.ranks import Pool
from weathermixer.jigsaw.count import Counter
from weathermixer.jigsaw.exchange import total_over
from weathermixer.jigsaw.fake import fake_mesh
from weathermixer.jigsaw.layout import Layout, LayoutError
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.replicas import Replicas

MESHES = [
    Layout(data=data, domain=domain, tensor=tensor)
    for data, domain, tensor in ((1, 2, 2), (2, 1, 2), (3, 1, 2), (2, 3, 1))
]


def counted_step(mesh: Mesh, sharded: bool) -> Counter:
    """What a training step counts on a rank: passes, norm, loss and optimizer."""
    network = network_on(mesh, UNEVEN, whole=whole_parameters(UNEVEN))
    replicas = Replicas(network, mesh, sharded=sharded)
    optimizer = torch.optim.SGD(replicas.parameters().values(), lr=1e-3)
    sample = Sample.draw(UNEVEN, 2).on(mesh.layout, UNEVEN)
    before = mesh.counter.copy()
    output = network(sample.state, sample.static)
    output.backward(sample.gradient)
    total_over(mesh.axes, torch.stack([output.detach().sum(), replicas.gradient_square()]))
    optimizer.step()
    replicas.finish_step()
    return mesh.counter.since(before)


@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
@pytest.mark.parametrize("layout", MESHES, ids=mesh_name)
def test_a_fake_rank_counts_what_a_real_one_does(pool: Pool, layout: Layout, sharded: bool) -> None:
    for rank, counted in enumerate(pool.run(counted_step, layout, sharded)):
        with fake_mesh(layout.at(rank)) as mesh:
            assert counted_step(mesh, sharded) == counted, f"rank {rank}"


def test_a_rank_that_was_started_cannot_stand_for_another() -> None:
    refused = pytest.raises(LayoutError, match="this process is one of ranks that were started")
    with fake_mesh(Layout(data=2)), refused, fake_mesh(Layout(data=3)):
        pass
