"""Any mesh computes the function of one process, and its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from oracles.layers import Held, join
from support.cut_layers import Chain, Kind, Norm, run_chain, run_norm
from support.network_steps import NetworkStep, joined, run_step
from support.networks import (
    ALL_SCHEMES,
    MESHES,
    UNEVEN,
    Sample,
    Schemes,
    errors,
    held_parameters,
    join_each,
    mesh_name,
    network_on,
    whole_parameters,
)
from support.ranks import Pool
from weathermixer.jigsaw.cost import PAIRS
from weathermixer.jigsaw.layers import initialise
from weathermixer.jigsaw.layout import Dimension, Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.pieces import local_parameters
from weathermixer.jigsaw.product import Features, Scheme


# Tests of one mesh follow one another, so that its ranks are started once.
@pytest.fixture(scope="module", params=MESHES, ids=mesh_name)
def layout(request: pytest.FixtureRequest) -> Layout:
    found: Layout = request.param
    return found


COLUMNS = Dimension((5,), unit=3)
CONCATENATED = Dimension((5, 2), unit=2)
SINGLE: Sequence[tuple[Scheme, ...]] = [("reduce",), ("gather",)]
SIZES: list[tuple[str, tuple[Dimension, ...], Dimension, Sequence[tuple[Scheme, ...]]]] = [
    ("units", (COLUMNS, Dimension((7,), unit=2)), CONCATENATED, SINGLE),
    ("sections", (CONCATENATED, Dimension((9,))), COLUMNS, SINGLE),
    ("split", (COLUMNS, Dimension((5, 3))), CONCATENATED, SINGLE),
    ("plain", (Dimension((7,)), Dimension((13,))), Dimension((5,)), SINGLE),
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
CHAINS |= {
    f"{features}-{'+'.join(schemes)}-unbiased": Chain(
        features, (COLUMNS, Dimension((5, 3))), CONCATENATED, schemes, bias=False
    )
    for features in FEATURES
    for schemes in SINGLE
}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", CHAINS)
def test_linear_layers_and_their_gradients_are_those_of_one_process(
    pool: Pool, layout: Layout, name: str, batch: int
) -> None:
    chain = CHAINS[name]
    held = pool.run(run_chain, layout, chain, batch)
    whole = {}
    for tensor in held[0]:
        whole[tensor], holders = join([one[tensor] for one in held])
        if tensor.endswith("weight"):
            assert torch.all(holders == 1), "a weight is held once"
    assert ("0.bias" in whole) == chain.bias
    expected = chain.expected(batch)
    for tensor, error in errors(whole, {name: expected[name] for name in whole}).items():
        assert error <= 1e-12, tensor


KINDS: tuple[tuple[Kind, float | None], ...] = (("layer", None), ("rms", None), ("rms", 0.5))
NORMS = {
    f"{kind}-{eps}-{name}": Norm(kind, channels, COLUMNS, eps)
    for kind, eps in KINDS
    for name, channels in (
        ("plain", Dimension((13,))),
        ("units", Dimension((5, 2), unit=3)),
        ("sections", Dimension((4, 4))),
    )
}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", NORMS)
def test_norms_are_taken_over_the_channels_of_all_ranks(
    pool: Pool, layout: Layout, name: str, batch: int
) -> None:
    found = join_each(pool.run(run_norm, layout, NORMS[name], batch))
    for tensor, error in errors(found, NORMS[name].expected(batch)).items():
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
    """Tell of each shared parameter whose it is, its bits, and the bits of its gradient."""
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
