"""Any mesh computes the function of one process, and its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oracles.layers import Held, cut, join, layer_norm, over_channels, over_tokens
from support.network_steps import NetworkStep, joined, run_step
from support.networks import (
    ALL_SCHEMES,
    MESHES,
    UNEVEN,
    Sample,
    Schemes,
    activation_ranges,
    errors,
    gradient_of,
    held_activation,
    held_gradients,
    held_parameters,
    mesh_name,
    network_on,
    whole_parameters,
)
from support.ranks import Pool
from weathermixer.jigsaw.cost import PAIRS
from weathermixer.jigsaw.layers import LayerNorm, Linear, initialise
from weathermixer.jigsaw.layout import Dimension, Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.pieces import local_parameters
from weathermixer.jigsaw.product import Features, Scheme
from weathermixer.jigsaw.tensors import load_whole


# Tests of one mesh follow one another, so that its ranks are started once.
@pytest.fixture(scope="module", params=MESHES, ids=mesh_name)
def layout(request: pytest.FixtureRequest) -> Layout:
    found: Layout = request.param
    return found


class Chain(NamedTuple):
    """Linear maps from ``sizes[0]`` to the last of them, with GELU between."""

    features: Features
    sizes: tuple[Dimension, ...]
    rows: Dimension
    schemes: tuple[Scheme, ...]

    def layers(self, mesh: Mesh) -> nn.ModuleList:
        return nn.ModuleList(
            Linear(inputs, outputs, mesh, rows=self.rows, features=self.features, scheme=scheme)
            for inputs, outputs, scheme in zip(
                self.sizes[:-1], self.sizes[1:], self.schemes, strict=True
            )
        )

    def end(self, size: Dimension) -> tuple[Dimension, Dimension]:
        """Tokens and channels of an activation with ``size`` features."""
        return (size, self.rows) if self.features == "domain" else (self.rows, size)

    def apply(self, layers: nn.ModuleList, x: Tensor) -> Tensor:
        """The maps in turn, of ``x (tokens, batch, channels)``."""
        x = layers[0](x.movedim(0, -1) if self.features == "domain" else x)
        for layer in layers[1:]:
            x = layer(F.gelu(x))
        return x.movedim(-1, 0) if self.features == "domain" else x


COLUMNS = Dimension((5,), unit=3)
CONCATENATED = Dimension((5, 2), unit=2)
SIZES: list[tuple[str, tuple[Dimension, ...], Dimension, Sequence[tuple[Scheme, ...]]]] = [
    # Only where output features are not scattered may they have more sections than one.
    ("units", (COLUMNS, Dimension((7,), unit=2)), CONCATENATED, [("reduce",), ("gather",)]),
    ("sections", (CONCATENATED, Dimension((9,))), COLUMNS, [("reduce",), ("gather",)]),
    ("plain", (Dimension((7,)), Dimension((13,))), Dimension((5,)), [("reduce",), ("gather",)]),
    ("mixing", (COLUMNS, Dimension((11,)), COLUMNS), CONCATENATED, PAIRS),
    ("wide", (CONCATENATED, Dimension((29,)), CONCATENATED), COLUMNS, [("turn", "fold")]),
    # Some ranks have none of the hidden values.
    ("narrow", (COLUMNS, Dimension((3,)), COLUMNS), CONCATENATED, PAIRS),
]
FEATURES: tuple[Features, ...] = ("domain", "tensor")
CHAINS = {
    f"{features}-{'+'.join(schemes)}-{name}": Chain(features, sizes, rows, schemes)
    for features in FEATURES
    for name, sizes, rows, all_schemes in SIZES
    for schemes in all_schemes
}


def draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def chain_inputs(chain: Chain, batch: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Global parameters, input, and gradient with respect to the output."""
    weights = {}
    for index, (inputs, outputs) in enumerate(zip(chain.sizes[:-1], chain.sizes[1:], strict=True)):
        weights[f"{index}.weight"] = draw(outputs.size, inputs.size, seed=index)
        weights[f"{index}.bias"] = draw(outputs.size, seed=10 + index)
    ends = [[size.size for size in chain.end(chain.sizes[place])] for place in (0, -1)]
    x, dy = (draw(ends[i][0], batch, ends[i][1], seed=20 + i) for i in (0, 1))
    return weights, x, dy


def run_chain(mesh: Mesh, name: str, batch: int) -> dict[str, Held]:
    chain = CHAINS[name]
    weights, x, dy = chain_inputs(chain, batch)
    first, last = chain.end(chain.sizes[0]), chain.end(chain.sizes[-1])
    layers = chain.layers(mesh).double()
    load_whole(layers, weights)
    x = cut(x, activation_ranges(mesh.layout, *first, batch)).requires_grad_()
    y = chain.apply(layers, x)
    y.backward(cut(dy, activation_ranges(mesh.layout, *last, batch)))
    return {
        "y": held_activation(mesh.layout, *last, y),
        "x": held_activation(mesh.layout, *first, gradient_of(x)),
    } | held_gradients(layers)


def expected_of_chain(chain: Chain, batch: int) -> dict[str, Tensor]:
    weights, x, dy = chain_inputs(chain, batch)
    leaves = {"x": x, **weights}
    for leaf in leaves.values():
        leaf.requires_grad_()
    mix = over_tokens if chain.features == "domain" else over_channels
    y = mix(weights, "0", x)
    for index in range(1, len(chain.schemes)):
        y = mix(weights, str(index), F.gelu(y))
    y.backward(dy)
    return {"y": y.detach()} | {name: gradient_of(leaf) for name, leaf in leaves.items()}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", CHAINS)
def test_linear_layers_and_their_gradients_are_those_of_one_process(
    pool: Pool, layout: Layout, name: str, batch: int
) -> None:
    held = pool.run(run_chain, layout, name, batch)
    whole = {}
    for tensor in held[0]:
        whole[tensor], holders = join([one[tensor] for one in held])
        if tensor.endswith("weight"):
            assert torch.all(holders == 1), "a weight is held once"
    for tensor, error in errors(whole, expected_of_chain(CHAINS[name], batch)).items():
        assert error <= 1e-12, tensor


NORM_CHANNELS = [Dimension((13,)), Dimension((5, 2), unit=3), Dimension((4, 4))]


def norm_inputs(channels: Dimension, batch: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    weights = {"norm.weight": draw(channels.size, seed=0), "norm.bias": draw(channels.size, seed=1)}
    shape = (COLUMNS.size, batch, channels.size)
    scales = torch.logspace(-2, 2, channels.size, dtype=torch.float64)
    return weights, draw(*shape, seed=2) * scales + 3.0, draw(*shape, seed=3)


def run_norm(mesh: Mesh, channels: Dimension, batch: int) -> dict[str, Held]:
    weights, x, dy = norm_inputs(channels, batch)
    norm = nn.ModuleDict({"norm": LayerNorm(channels, mesh, rows=COLUMNS)}).double()
    load_whole(norm, weights)
    own = activation_ranges(mesh.layout, COLUMNS, channels, batch)
    x = cut(x, own).requires_grad_()
    y = norm["norm"](x)
    y.backward(cut(dy, own))
    return {
        "y": held_activation(mesh.layout, COLUMNS, channels, y),
        "x": held_activation(mesh.layout, COLUMNS, channels, gradient_of(x)),
    } | held_gradients(norm)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("channels", NORM_CHANNELS, ids=["plain", "units", "sections"])
def test_layer_norm_normalises_over_the_channels_of_all_ranks(
    pool: Pool, layout: Layout, channels: Dimension, batch: int
) -> None:
    held = pool.run(run_norm, layout, channels, batch)
    weights, x, dy = norm_inputs(channels, batch)
    for leaf in (x, *weights.values()):
        leaf.requires_grad_()
    y = layer_norm(weights, "norm", x)
    y.backward(dy)
    expected = {"y": y.detach(), "x": gradient_of(x)}
    expected |= {name: gradient_of(weight) for name, weight in weights.items()}
    whole = {tensor: join([one[tensor] for one in held])[0] for tensor in held[0]}
    for tensor, error in errors(whole, expected).items():
        assert error <= 1e-12, tensor


def step_of(
    schemes: Schemes,
    batch: int = 2,
    dtype: torch.dtype = torch.float64,
    parameter_dtype: torch.dtype | None = None,
) -> NetworkStep:
    parameters = whole_parameters(UNEVEN, parameter_dtype or dtype)
    return NetworkStep(UNEVEN, schemes, Sample.draw(UNEVEN, batch, dtype), parameters)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("schemes", ALL_SCHEMES, ids=str)
def test_a_network_and_its_gradients_are_those_of_one_process(
    pool: Pool, layout: Layout, schemes: Schemes, batch: int
) -> None:
    step = step_of(schemes, batch)
    found = joined(pool.run(run_step, layout, step))
    for name, error in errors(found, step.expected()).items():
        assert error <= 1e-12, name


def test_a_rollout_and_its_gradients_are_those_of_one_process(pool: Pool, layout: Layout) -> None:
    step = replace(step_of(Schemes()), passes=3)
    found = joined(pool.run(run_step, layout, step))
    for name, error in errors(found, step.expected()).items():
        assert error <= 1e-12, name


def initial_parameters(mesh: Mesh, schemes: Schemes) -> dict[str, Held]:
    network = network_on(mesh, UNEVEN, schemes).to_empty(device="cpu")
    initialise(network, seed=3)
    return held_parameters(network)


@pytest.mark.parametrize("shape", MESHES, ids=mesh_name)
@pytest.mark.parametrize("schemes", ALL_SCHEMES, ids=str)
def test_initial_parameters_are_the_bits_of_one_rank(shape: Layout, schemes: Schemes) -> None:
    one = initial_parameters(Mesh.describe(), Schemes())
    meshes = [Mesh.describe(shape.at(rank)) for rank in range(shape.world_size)]
    held = [initial_parameters(mesh, schemes) for mesh in meshes]
    for name, (_, _, expected) in one.items():
        whole, holders = join([parameters[name] for parameters in held])
        assert torch.equal(whole, expected), name
        if expected.ndim > 1:
            assert torch.all(holders == 1), name


@pytest.mark.parametrize("schemes", [Schemes(), *ALL_SCHEMES[::4]], ids=str)
def test_waiting_for_each_exchange_changes_no_bit(
    pool: Pool, layout: Layout, schemes: Schemes
) -> None:
    step = step_of(schemes, dtype=torch.float32)
    overlapping = pool.run(run_step, layout, step)
    waiting = pool.run(run_step, layout, step, overlap=False)
    for one, other in zip(overlapping, waiting, strict=True):
        for name, held in one.tensors.items():
            assert torch.equal(held.tensor, other.tensors[name].tensor), name


@pytest.mark.parametrize("schemes", ALL_SCHEMES[::4], ids=str)
def test_computing_activations_again_changes_no_bit_of_a_gradient(
    pool: Pool, layout: Layout, schemes: Schemes
) -> None:
    step = replace(step_of(schemes, dtype=torch.float32), passes=2)
    kept = pool.run(run_step, layout, step)
    again = pool.run(run_step, layout, replace(step, reentrant=False))
    for one, other in zip(kept, again, strict=True):
        assert one.backward.multiply_adds < other.backward.multiply_adds
        for name, held in one.tensors.items():
            assert torch.equal(held.tensor, other.tensors[name].tensor), name


def test_float32_agrees_with_float64_to_1e_5(pool: Pool, layout: Layout) -> None:
    step = step_of(Schemes(), dtype=torch.float32)
    found = joined(pool.run(run_step, layout, step))
    for name, error in errors(found, step.expected()).items():
        assert error <= 1e-5, name


@pytest.mark.parametrize("schemes", ALL_SCHEMES[::4], ids=str)
def test_bfloat16_errs_no_more_on_many_ranks_than_on_one(
    pool: Pool, layout: Layout, schemes: Schemes
) -> None:
    step = step_of(schemes, dtype=torch.bfloat16, parameter_dtype=torch.float32)
    expected = step.expected()
    found = joined(pool.run(run_step, layout, step))
    alone = joined([step(Mesh.describe())])
    assert not torch.equal(found["output"].double(), expected["output"])
    squares: dict[str, list[float]] = {}
    for name, exact in expected.items():
        # The gradient of these biases is zero: what there is of it is rounding, and no error of it.
        if name.endswith("token_contract.bias"):
            continue
        # One bias's error is a matter of chance: those of all small parameters are taken together.
        group = squares.setdefault("vectors" if exact.ndim == 1 else name, [0.0, 0.0])
        for place, tensors in enumerate((found, alone)):
            group[place] += float(((tensors[name].double() - exact).norm() / exact.norm()) ** 2)
    for name, (many, one) in squares.items():
        assert many**0.5 <= 2.0 * one**0.5, name


def gradients_of_the_same(
    mesh: Mesh, step: NetworkStep
) -> dict[str, tuple[object, Tensor, Tensor]]:
    """Of each parameter that is shared: whose it is, its bits and those of its gradient."""
    outcome = step(mesh)
    network = network_on(mesh, step.sizes, step.schemes).to_empty(device="cpu")
    initialise(network, seed=0)
    return {
        name: (
            tuple(axis.ranks for axis in piece.shared_over),
            parameter.detach(),
            outcome.tensors[name].tensor,
        )
        for name, parameter, piece in local_parameters(network)
        if piece.shared_over
    }


@pytest.mark.parametrize("schemes", ALL_SCHEMES[::4], ids=str)
def test_ranks_that_share_a_parameter_have_the_same_bits_of_it_and_its_gradient(
    pool: Pool, layout: Layout, schemes: Schemes
) -> None:
    found = pool.run(gradients_of_the_same, layout, step_of(schemes, dtype=torch.float32))
    pairs = 0
    for rank, own in enumerate(found):
        for name, (axes, parameter, gradient) in own.items():
            assert isinstance(axes, tuple)
            for ranks in axes:
                assert rank in ranks
                for other in ranks:
                    _, its_parameter, its_gradient = found[other][name]
                    assert torch.equal(parameter, its_parameter), name
                    assert torch.equal(gradient, its_gradient), name
                    pairs += other != rank
    assert pairs > 0
