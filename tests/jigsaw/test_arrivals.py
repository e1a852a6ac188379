"""Weights that replicas send each other after a step are never seen before they are there."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from support.networks import UNEVEN, Sample, network_on, whole_parameters
from support.ranks import Pool
from weathermixer.jigsaw.fake import fake_mesh
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.replicas import Replicas
from weathermixer.jigsaw.tensors import load_whole

WEIGHT = "decoder.weight"


class Trained:
    """A network after a step, of which weights are on their way."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.network = network_on(mesh, UNEVEN, whole=whole_parameters(UNEVEN))
        self.replicas = Replicas(self.network, mesh, sharded=True)
        self.optimizer = torch.optim.SGD(self.replicas.parameters().values(), lr=1e-2)
        self.sample = Sample.draw(UNEVEN, 2 * mesh.data.size).of_replica(mesh.layout)
        self.sample = self.sample.on(mesh.layout, UNEVEN)

    def step(self) -> None:
        output = self.network(self.sample.state, self.sample.static)
        output.backward(self.sample.gradient)
        self.optimizer.step()
        self.replicas.finish_step()

    @property
    def weight(self) -> nn.Parameter:
        return self.network.get_parameter(WEIGHT)


LOOKS: dict[str, Callable[[Trained], object]] = {
    "a pass": lambda it: it.network(it.sample.state, it.sample.static),
    "a state dict": lambda it: it.network.state_dict(),
    "a copy": lambda it: copy.deepcopy(it.network),
    "numpy": lambda it: it.weight.detach().numpy(),
    "its data": lambda it: it.weight.data,
    "an element": lambda it: it.weight[0, 0].item(),
    "a list of it": lambda it: torch._foreach_norm([it.weight]),
    "its address": lambda it: it.weight.data_ptr(),
    "its text": lambda it: repr(it.weight),
    "inference": lambda it: torch.inference_mode()(lambda: it.weight.sum())(),
    "a change": lambda it: torch.no_grad()(it.weight.zero_)(),
    "other weights": lambda it: load_whole(it.network, whole_parameters(UNEVEN)),
    "another type": lambda it: it.network.to(torch.float32),
    "the optimizer": lambda it: it.optimizer.step(),
    "another step's end": lambda it: it.replicas.finish_step(),
    "what is owned": lambda it: it.replicas.parameters()[WEIGHT].sum(),
    "a new optimizer": lambda it: Replicas(it.network, it.mesh, sharded=True),
}


@pytest.mark.parametrize("look", LOOKS)
def test_whatever_looks_at_a_weight_waits_for_it(look: str) -> None:
    with fake_mesh(Layout(data=3)) as mesh:
        trained = Trained(mesh)
        trained.step()
        (arriving,) = mesh.data.in_flight
        LOOKS[look](trained)
        assert arriving not in mesh.data.in_flight


def test_a_weight_that_somebody_sees_already_has_arrived_when_a_step_ends() -> None:
    with fake_mesh(Layout(data=3)) as mesh:
        trained = Trained(mesh)
        seen = trained.weight.detach()
        trained.step()
        assert not mesh.data.in_flight
        del seen
        trained.step()
        assert mesh.data.in_flight


def weights_after_steps(mesh: Mesh) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """State dicts after some steps, and what their weights are when all has settled."""
    trained = Trained(mesh)
    for _ in range(3):
        trained.step()
    first = copy.deepcopy(trained.network.state_dict())
    assert all(type(each) is nn.Parameter for each in trained.network.parameters())
    return first, trained.network.state_dict()


def test_replicas_see_the_same_weights_at_once(pool: Pool) -> None:
    layout = Layout(data=3)
    ranks = pool.run(weights_after_steps, layout)
    for first, later in ranks:
        for name, value in ranks[0][0].items():
            assert torch.equal(first[name], value), name
            assert torch.equal(later[name], value), name
