from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from support.networks import over_tokens
from weathermixer.jigsaw.dropout import Dropout
from weathermixer.jigsaw.initial import derive_key, fill_uniform
from weathermixer.jigsaw.layers import LayerNorm, Linear, initialise
from weathermixer.jigsaw.layout import Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.product import Features, Scheme

MASK = (1 << 64) - 1


def splitmix64(index: int, key: int) -> int:
    """The published finaliser in Python's unbounded integers."""
    z = (index * 0x9E3779B97F4A7C15 + key) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def whole(rows: int, columns: int, key: int) -> torch.Tensor:
    block = torch.empty(rows, columns, dtype=torch.float64)
    fill_uniform(block, key=key, bound=1.0, start=0, stride=columns)
    return block


def test_a_weight_is_a_hash_of_its_index() -> None:
    key = derive_key(7, "blocks.0.expand")
    drawn = whole(5, 11, key)
    for index, value in enumerate(drawn.flatten().tolist()):
        assert value == 2.0 * (splitmix64(index, key) >> 11) * 2.0**-53 - 1.0


@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 20),
    data=st.data(),
)
def test_any_block_of_a_parameter_has_the_bits_of_the_whole(
    rows: int, columns: int, data: st.DataObject
) -> None:
    top = data.draw(st.integers(0, rows))
    bottom = data.draw(st.integers(top, rows))
    left = data.draw(st.integers(0, columns))
    right = data.draw(st.integers(left, columns))
    block = torch.empty(bottom - top, right - left, dtype=torch.float64)
    fill_uniform(block, key=5, bound=1.0, start=top * columns + left, stride=columns)
    assert torch.equal(block, whole(rows, columns, 5)[top:bottom, left:right])


def test_initial_weights_are_uniform_and_those_of_two_names_independent() -> None:
    one, other = (whole(300, 300, derive_key(0, name)).flatten().numpy() for name in "ab")
    assert stats.kstest(one, stats.uniform(-1, 2).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(one.size)
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 4 / np.sqrt(one.size)


def test_linear_layers_multiply_from_their_side() -> None:
    x = torch.randn(6, 2, 5, dtype=torch.float64)
    channels = Linear(5, 3, Mesh.describe(), rows=6).double()
    tokens = Linear(6, 4, Mesh.describe(), rows=5, features="domain").double()
    for parameter in (*channels.parameters(), *tokens.parameters()):
        torch.nn.init.normal_(parameter)
    weight, bias = (p.detach().numpy() for p in channels.parameters())
    expected = np.einsum("nbc,oc->nbo", x.numpy(), weight) + bias
    np.testing.assert_allclose(channels(x).detach().numpy(), expected, rtol=1e-13, atol=1e-13)
    weight, bias = (p.detach().numpy() for p in tokens.parameters())
    expected = np.einsum("nbc,on->obc", x.numpy(), weight) + bias[:, None, None]
    mixed = over_tokens(tokens, x).detach().numpy()
    np.testing.assert_allclose(mixed, expected, rtol=1e-13, atol=1e-13)


def test_layer_norm_normalises_over_all_channels() -> None:
    norm = LayerNorm(8, Mesh.describe(), rows=4).double()
    initialise(norm, seed=0)
    y = norm(torch.randn(4, 3, 8, dtype=torch.float64) * 5 + 2).detach().numpy()
    np.testing.assert_allclose(y.mean(axis=-1), 0, atol=1e-14)
    np.testing.assert_allclose(y.var(axis=-1), 1, rtol=1e-5)


@settings(max_examples=20)
@given(p=st.floats(0.001, 0.9), key=st.integers(0, 2**62))
def test_dropout_zeroes_each_value_with_its_probability_and_scales_the_rest(
    p: float, key: int
) -> None:
    dropout = Dropout(p, Mesh.describe())
    dropout.key = key
    size = 20_000
    x = torch.ones(size, 1, 1, dtype=torch.float64, requires_grad=True)
    y = dropout(x)
    zeros = int((y == 0).sum())
    assert abs(zeros - size * p) < 6 * np.sqrt(size * p * (1 - p)) + 1
    assert torch.all((y == 0) | (y == 1 / (1 - p)))
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


def test_dropout_zeroes_are_independent_of_place() -> None:
    dropout = Dropout(0.2, Mesh.describe())
    zeros = []
    for key in range(200):
        dropout.key = key
        zeros.append((dropout(torch.ones(100, 1, 1)) == 0).flatten())
    counts = torch.stack(zeros).sum(dim=0).numpy()
    assert stats.chisquare(counts).pvalue > 1e-3
    gaps = torch.stack(zeros).flatten().nonzero().flatten().diff().numpy()
    observed = [int((gaps == gap).sum()) for gap in range(1, 8)]
    expected = [0.2 * 0.8 ** (gap - 1) for gap in range(1, 8)]
    scale = sum(observed) / sum(expected)
    assert stats.chisquare(observed, [scale * e for e in expected]).pvalue > 1e-3


def test_ranks_draw_different_zeroes_and_each_its_own_again() -> None:
    def drawn(rank: int) -> torch.Tensor:
        mesh = Mesh.describe(Layout(data=2, domain=2, tensor=2, rank=rank))
        dropout = Dropout(0.5, mesh)
        dropout.key = 9
        return dropout(torch.ones(64, 1, 1))

    masks = [drawn(rank) for rank in range(8)]
    for rank, mask in enumerate(masks):
        assert torch.equal(mask, drawn(rank))
        assert not any(torch.equal(mask, other) for other in masks[rank + 1 :])


@pytest.mark.parametrize("features", ["tensor", "domain"])
def test_bfloat16_activations_are_multiplied_in_bfloat16_and_gradients_stay_wide(
    features: Features,
) -> None:
    module = Linear(4, 4, Mesh.describe(), rows=4, features=features)
    initialise(module, seed=0)
    y = module(torch.randn(4, 1, 4, dtype=torch.bfloat16))
    assert y.dtype is torch.bfloat16
    y.float().sum().backward()
    assert module.weight.grad is not None
    assert module.weight.grad.dtype is torch.float32


@pytest.mark.parametrize("features", ["tensor", "domain"])
@pytest.mark.parametrize("schemes", [("reduce",), ("gather",), ("turn", "fold")], ids=str)
def test_gradients_of_linear_layers_equal_finite_differences(
    features: Features, schemes: tuple[Scheme, ...]
) -> None:
    sizes = (6, 4) if len(schemes) == 1 else (6, 4, 5)
    rows = 3
    layers = [
        Linear(
            inputs, outputs, Mesh.describe(), rows=rows, features=features, scheme=scheme
        ).double()
        for inputs, outputs, scheme in zip(sizes[:-1], sizes[1:], schemes, strict=True)
    ]
    parameters = [parameter for one in layers for parameter in one.parameters()]
    for parameter in parameters:
        torch.nn.init.normal_(parameter)
    shape = (2, rows, 6) if features == "domain" else (rows, 2, 6)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)

    def chain(x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        for one in layers:
            x = one(x).tanh()
        return x

    assert torch.autograd.gradcheck(chain, (x, *parameters))


def test_gradients_of_layer_norm_equal_finite_differences() -> None:
    norm = LayerNorm(5, Mesh.describe(), rows=3).double()
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: norm(x), (x, *norm.parameters()))


@pytest.mark.parametrize("features", ["tensor", "domain"])
def test_a_layer_made_without_memory_knows_what_its_rank_holds(features: Features) -> None:
    mesh = Mesh.describe(Layout(domain=2, tensor=3, rank=4))
    module = Linear(100_000, 200_000, mesh, rows=6, features=features, device="meta")
    block = module.pieces["weight"].block
    assert module.weight.is_meta
    assert module.weight.shape == block.local_shape
    assert block.shape == (200_000, 100_000)
    assert abs(module.weight.numel() * 6 / 2e10 - 1) < 1e-4


@pytest.mark.parametrize("size", [1, 3, 40])
def test_dropout_zeroes_what_its_draws_say_in_small_tensors_too(size: int) -> None:
    dropout = Dropout(0.2, Mesh.describe())
    zeroed = 0
    for key in range(60):
        dropout.key = key
        generator = torch.Generator()
        generator.manual_seed(derive_key(key, 0) & (1 << 63) - 1)
        gaps = torch.empty(100, dtype=torch.int64).geometric_(0.2, generator=generator)
        expected = np.full(size, 1.25)
        expected[[place for place in (gaps.cumsum(0) - 1).tolist() if place < size]] = 0.0
        np.testing.assert_array_equal(dropout(torch.ones(size)).numpy(), expected)
        zeroed += int((expected == 0).sum())
    assert 0 < zeroed < 60 * size
