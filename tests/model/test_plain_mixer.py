"""The network as plain PyTorch: what torch does with modules it does with this one, too."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from oracles.layers import Held, cut, join, part
from support.architectures import SMALL
from support.networks import gradient_of
from support.ranks import Pool
from weathermixer.jigsaw.cutting import parallelize
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.pieces import local_parameters
from weathermixer.model.cuts import cuts, describe
from weathermixer.model.mixer import Increment, WeatherMixer

Prediction = Literal["increment", "state"]
PREDICTIONS: list[Prediction] = ["increment", "state"]

ARCHITECTURE = replace(SMALL, grid=(6, 14), overlap=1, smoothing=2)
MESHES = [Layout(domain=3), Layout(domain=2, tensor=2)]


def plain(prediction: Prediction) -> WeatherMixer:
    """A float64 network of which every parameter matters."""
    model = WeatherMixer(replace(ARCHITECTURE, prediction=prediction)).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            # Weights keep the size of what they multiply; gains are about one.
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter.shape[1] ** 0.5)
            else:
                parameter.copy_(1.0 + 0.3 * noise)
        if isinstance(model.head, Increment):
            model.head.scale.copy_(torch.linspace(0.1, 0.5, ARCHITECTURE.prognostic)[:, None, None])
    return model


def sample(batch: int = 2, seed: int = 1) -> tuple[Tensor, Tensor]:
    """A state and static fields."""
    generator = torch.Generator().manual_seed(seed)
    state = (batch, ARCHITECTURE.prognostic, *ARCHITECTURE.grid)
    static = (ARCHITECTURE.static, *ARCHITECTURE.grid)
    draw = [torch.randn(shape, generator=generator, dtype=torch.float64)
            for shape in (state, static)]  # fmt: skip
    return draw[0], draw[1]


# Without a compiler, and in seconds, torch runs the same graph of forward and backward pass.
@pytest.mark.exhaustive
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_it_compiles_as_one_graph_to_the_same_function(backend: str) -> None:
    if backend == "inductor" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("torch.compile needs a C++ compiler, and none of c++, g++, clang++ is there")
    model = plain("increment")
    state, static = sample()
    compiled = copy.deepcopy(model)
    function = torch.compile(compiled, fullgraph=True, backend=backend)
    for network in (model, function):
        network(state, static).square().mean().backward()
    with torch.no_grad():
        torch.testing.assert_close(
            function(state, static), model(state, static), rtol=1e-12, atol=1e-12
        )
    for theirs, own in zip(compiled.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(gradient_of(theirs), gradient_of(own), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_functions_of_its_parameters_are_differentiated_and_mapped_over_an_ensemble(
    prediction: Prediction,
) -> None:
    model = plain(prediction)
    members, static = sample(batch=4)
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], state: Tensor) -> Tensor:
        result = functional_call(model, parameters, (state[None], static))
        assert isinstance(result, Tensor)
        return result.square().mean()

    losses = vmap(loss, in_dims=(None, 0))(parameters, members)
    gradients = vmap(grad(loss), in_dims=(None, 0))(parameters, members)
    for number, member in enumerate(members):
        model.zero_grad()
        expected = model(member[None], static).square().mean()
        expected.backward()
        torch.testing.assert_close(losses[number], expected.detach(), rtol=1e-12, atol=0.0)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(
                gradients[name][number], gradient_of(parameter), rtol=1e-10, atol=1e-12
            )
    changed = {name: 1.1 * value for name, value in parameters.items()}
    other = plain(prediction)
    other.load_state_dict(changed)
    result = functional_call(model, changed, (members, static))
    torch.testing.assert_close(result, other(members, static), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_pieces_have_its_names_and_global_shapes(prediction: Prediction) -> None:
    architecture = replace(ARCHITECTURE, prediction=prediction)
    expected = {name: tuple(value.shape) for name, value in plain(prediction).state_dict().items()}
    layout = Layout(domain=2, tensor=2)
    for rank in range(layout.world_size):
        model = describe(architecture, Mesh.describe(layout.at(rank)))
        pieces = {name: piece.block for name, _, piece in local_parameters(model)}
        assert {name: block.shape for name, block in pieces.items()} == expected
        assert list(model.state_dict()) == list(expected)
        for name, value in model.state_dict().items():
            assert tuple(value.shape) == pieces[name].local_shape


def apply_part(mesh: Mesh, model: nn.Module) -> Held:
    """What a rank has of the next state, from its part of a network that was plain."""
    assert isinstance(model, WeatherMixer)
    a, layout = model.architecture, mesh.layout
    model = parallelize(model, mesh, cuts(a, mesh))
    state, static = sample()
    _, domain, tensor = layout.coordinates
    grid = (
        (range(a.grid[0]),),
        part([a.grid[1] // a.patch[1]], a.patch[1], layout.domain, domain),
    )
    batch = (range(len(state)),)
    ranges = (batch, part([a.prognostic], 1, layout.tensor, tensor), *grid)
    own_static = cut(static, (part([a.static], 1, layout.tensor, tensor), *grid))
    with torch.no_grad():
        result = model(cut(state, ranges), own_static)
    return Held(tuple(state.shape), ranges, result)


@pytest.mark.parametrize("layout", MESHES, ids=str)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_cut_it_gives_what_it_gave_before(
    pool: Pool, layout: Layout, prediction: Prediction
) -> None:
    model = plain(prediction)
    found, holders = join(pool.run(apply_part, layout, model))
    assert bool((holders == 1).all())
    expected = model(*sample()).detach()
    assert float((found - expected).abs().max()) <= 1e-12 * float(expected.abs().max())
