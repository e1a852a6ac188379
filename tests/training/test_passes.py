"""A step in several passes has the gradient of one: a few samples at a time, a stage at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from support.architectures import SMALL
from support.networks import mesh_name
from support.ranks import Pool
from support.selection import exhaustive
from weathermixer.config import Parallel, Training
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.tensors import load_whole, whole_gradients
from weathermixer.model.architecture import Architecture
from weathermixer.model.cuts import Part, build
from weathermixer.model.mixer import WeatherMixer
from weathermixer.training.passes import Objective
from weathermixer.training.rehearsal import rehearse
from weathermixer.training.state import TrainingState
from weathermixer.training.step import compute_gradients

SAMPLES, ROLLOUT = 5, 3
NETWORK = replace(SMALL, dropout=0.0, prediction="state")
# Either forecasts several steps at once, or is given several times and forcings.
NETWORKS = {
    "latent": (NETWORK, 2),
    "given": (replace(NETWORK, input_times=3, forcings=2, diagnostic=1, overlap=2, smoothing=1), 1),
}
WAYS = [
    {"micro_batch": 2, "recompute": "stages"},
    *exhaustive({}, {"micro_batch": 1}, {"recompute": "stages"}, {"recompute": "blocks"}),
    *exhaustive({"micro_batch": 3, "recompute": "blocks"}),
]
MESHES = [
    Layout(data=2, tensor=2),
    *exhaustive(Layout(), Layout(tensor=2), Layout(domain=3), Layout(data=2, domain=2)),
]


def training_of(**options: Any) -> Training:
    values = {"instance_batch": SAMPLES, "rollout": ROLLOUT}
    return Training.model_validate({"dtype": "float64", "recompute": "none", **values, **options})


def drawn(a: Architecture, replicas: int) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Parameters; states and forcings of all samples, static fields, and weights of the loss."""
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    parameters = {
        name: 0.3 * draw(*parameter.shape)
        for name, parameter in WeatherMixer(a, device="meta").named_parameters()
    }
    channels = a.prognostic + a.diagnostic
    states = draw(replicas * SAMPLES, a.input_times + ROLLOUT, channels, *a.grid)
    forcings = draw(replicas * SAMPLES, ROLLOUT, a.forcings, *a.grid)
    weights = draw(channels, a.grid[0], 1).square()
    return parameters, [states, forcings, draw(a.static, *a.grid), weights]


def expected(name: str, replicas: int) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of the plain network, all samples at once, nothing computed again."""
    architecture, latent = NETWORKS[name]
    parameters, (states, forcings, static, weights) = drawn(architecture, replicas)
    model = WeatherMixer(architecture).double()
    model.load_state_dict(parameters)
    times, losses = list(states.unbind(1)), []
    known = times[: architecture.input_times]
    for step, target in enumerate(times[architecture.input_times :]):
        recent = known[-1 : -1 - architecture.input_times : -1]
        known.append(model(*recent, static, forcings[:, step], applications=latent))
        losses.append((weights * (known[-1] - target) ** 2).mean())
    loss = sum(losses, torch.zeros(())) / ROLLOUT
    loss.backward()
    gradients = {name: each.grad for name, each in model.named_parameters()}
    return loss.item(), {name: each for name, each in gradients.items() if each is not None}


def pass_through(
    mesh: Mesh, name: str, training: Training, parallel: Parallel
) -> tuple[float, dict[str, Tensor], float]:
    """This rank's part of the loss, all gradients, and their norm."""
    architecture, _ = NETWORKS[name]
    parameters, (states, forcings, static, weights) = drawn(architecture, mesh.layout.data)
    part = Part.on(mesh, architecture)
    model = build(
        architecture,
        mesh,
        seed=None,
        increment_scale=torch.ones(1),
        samples=training.samples_at_once,
        dtype=torch.float64,
        recompute=training.recompute == "blocks",
    )
    load_whole(model, parameters)
    state = TrainingState.initial(model, mesh, training, parallel)
    own = states.chunk(mesh.data.size)[mesh.data.index][:, :, part.channels, :, part.longitudes]
    share = own[0, 0].numel() / states[0, 0].numel() / mesh.data.size
    given = forcings.chunk(mesh.data.size)[mesh.data.index]
    objective = Objective(
        static[part.static, :, part.longitudes],
        weights[part.channels],
        share,
        input_times=architecture.input_times,
    )
    loss, magnitudes = compute_gradients(
        state, training, own, objective, given[:, :, part.forcings, :, part.longitudes]
    )
    assert [each.shape for each in magnitudes] == [own.shape[::2][:1] + own.shape[2:3]] * ROLLOUT
    gradients = {} if parallel.shard_optimizer else whole_gradients(model)
    return loss.item(), gradients, state.replicas.gradient_norm().item()


@pytest.mark.parametrize("options", WAYS, ids=str)
@pytest.mark.parametrize("layout", MESHES, ids=mesh_name)
@pytest.mark.parametrize("network", ["given", *exhaustive("latent")])
def test_any_number_of_passes_has_the_gradient_of_the_plain_network(
    pool: Pool, network: str, layout: Layout, options: dict[str, Any]
) -> None:
    loss, gradients = expected(network, layout.data)
    norm = torch.stack([each.square().sum() for each in gradients.values()]).sum().sqrt().item()
    for sharded in {False, layout.data > 1}:
        parallel = Parallel(data=layout.data, shard_optimizer=sharded)
        training = training_of(latent_rollout=NETWORKS[network][1], **options)
        found = pool.run(pass_through, layout, network, training, parallel)
        assert sum(part for part, *_ in found) == pytest.approx(loss, rel=1e-12)
        for _, ours, our_norm in found:
            assert our_norm == pytest.approx(norm, rel=1e-12)
            for name in gradients if not sharded else ():
                torch.testing.assert_close(ours[name], gradients[name], rtol=1e-11, atol=1e-12)


@pytest.mark.exhaustive
def test_gradients_travel_between_replicas_once_however_many_passes_make_them() -> None:
    layout, short = Layout(data=2), {"rollout": 2, "latent_rollout": 1, "instance_batch": 2}
    together, apart = (
        rehearse(NETWORK, layout, training_of(**short, **options), Parallel(data=2)).counted
        for options in ({}, {"micro_batch": 1, "recompute": "stages"})
    )
    weights = sum(each.numel() for each in WeatherMixer(NETWORK, device="meta").parameters())
    assert together.bytes_sent == pytest.approx(8 * weights, rel=0.1)
    assert (apart.bytes_sent, apart.calls) == (together.bytes_sent, together.calls)
