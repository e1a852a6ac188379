"""A plain model, cut by a table: the same function, names and settings."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from oracles.layers import Held, cut
from support.networks import (
    activation_ranges,
    errors,
    gradient_of,
    held_parameters,
    join_each,
    mesh_name,
)
from support.ranks import Pool
from weathermixer.jigsaw.cutting import Cut, CutLinear, CutNorm, CutTensors, parallelize
from weathermixer.jigsaw.dropout import Dropout
from weathermixer.jigsaw.gradients import JigsawError
from weathermixer.jigsaw.layers import LayerNorm, Linear, RMSNorm
from weathermixer.jigsaw.layout import Dimension, Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.replicas import Replicas

TOKENS, CHANNELS, SAMPLES = 5, 6, 2
RATE = 0.1
MESHES = [
    Layout(domain=3),
    Layout(data=2),
    Layout(domain=2, tensor=2),
    Layout(data=2, tensor=2),
]


class Positions(nn.Module):
    """Learned numbers for each token, each channel, each of both, and one for all."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(draw(TOKENS, 1, 1, seed=0))
        self.channel = nn.Parameter(draw(CHANNELS, seed=1))
        self.both = nn.Parameter(draw(TOKENS, 1, CHANNELS, seed=2))
        self.scale = nn.Parameter(draw(1, seed=3))
        self.register_buffer("mask", draw(TOKENS, 1, CHANNELS, seed=4))

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.token + self.channel) * self.scale + self.both * self.mask


class Positioned(nn.Module):
    """Positions that are used twice, with maps between."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = Positions()
        self.linear = nn.Linear(CHANNELS, CHANNELS, dtype=torch.float64)
        with torch.no_grad():
            self.linear.weight.copy_(draw(CHANNELS, CHANNELS, seed=5))
            self.linear.bias.copy_(draw(CHANNELS, seed=6))

    def forward(self, x: Tensor) -> Tensor:
        return self.positions(self.linear(self.positions(x)).tanh())


TABLE: dict[str, Cut] = {
    "positions": CutTensors(
        {
            "token": [("domain", TOKENS), None, None],
            "channel": [("tensor", CHANNELS)],
            "both": [("domain", TOKENS), None, ("tensor", CHANNELS)],
            "scale": [None],
            "mask": [("domain", TOKENS), None, ("tensor", CHANNELS)],
        }
    ),
    "linear": CutLinear(TOKENS),
}


def draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module", params=MESHES, ids=mesh_name)
def layout(request: pytest.FixtureRequest) -> Layout:
    found: Layout = request.param
    return found


def own_part(mesh: Mesh, whole: Tensor) -> Tensor:
    """The part of an activation, and of its samples, that a rank has."""
    each = SAMPLES // mesh.data.size
    tokens, channels = Dimension.of(TOKENS), Dimension.of(CHANNELS)
    ranges = activation_ranges(mesh.layout, tokens, channels, SAMPLES)
    first = mesh.data.index * each
    return cut(whole, (ranges[0], (range(first, first + each),), ranges[2]))


def train_positions(mesh: Mesh, sharded: bool, copies: bool) -> dict[str, Held]:
    """Parameters after two steps of two backward passes each."""
    model = parallelize(Positioned(), mesh, TABLE)
    if copies:
        model(own_part(mesh, draw(TOKENS, SAMPLES, CHANNELS, seed=9)))
        model = copy.deepcopy(model)
    replicas = Replicas(model, mesh, sharded=sharded)
    optimizer = torch.optim.SGD(replicas.parameters().values(), lr=RATE)
    for step in range(2):
        for seed in (10 + step, 20 + step):
            y = model(own_part(mesh, draw(TOKENS, SAMPLES, CHANNELS, seed=seed)))
            y.square().sum().backward()
        replicas.clip_gradients(1.0)
        optimizer.step()
        replicas.finish_step()
    return held_parameters(model)


@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
@pytest.mark.parametrize("copies", [False, True], ids=["", "copied"])
def test_positions_are_learned_as_on_one_process(
    pool: Pool, layout: Layout, sharded: bool, copies: bool
) -> None:
    found = join_each(pool.run(train_positions, layout, sharded, copies))
    plain = Positioned()
    optimizer = torch.optim.SGD(plain.parameters(), lr=RATE)
    for step in range(2):
        optimizer.zero_grad()
        for seed in (10 + step, 20 + step):
            plain(draw(TOKENS, SAMPLES, CHANNELS, seed=seed)).square().sum().backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
    expected = {name: value.detach() for name, value in plain.named_parameters()}
    assert found.keys() == expected.keys()
    for name, error in errors(found, expected).items():
        assert error <= 1e-12, name


def ask_for_a_gradient(mesh: Mesh) -> None:
    model = parallelize(Positioned(), mesh, TABLE)
    y = model(own_part(mesh, draw(TOKENS, SAMPLES, CHANNELS, seed=9)))
    with pytest.raises(JigsawError, match=r"come from backward\(\)"):
        torch.autograd.grad(y.sum(), model.positions.scale)


def test_the_gradient_of_positions_that_ranks_share_is_not_given_in_part(
    pool: Pool, layout: Layout
) -> None:
    pool.run(ask_for_a_gradient, layout, deadline_seconds=20)


def compute_in_bfloat16(mesh: Mesh) -> tuple[Tensor, torch.dtype]:
    model = parallelize(Positioned(), mesh, TABLE).float().linear
    x = own_part(mesh, draw(TOKENS, SAMPLES, CHANNELS, seed=9)).float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(x)
    y.float().square().sum().backward()
    return y.detach(), gradient_of(model.weight).dtype


def test_linear_maps_are_computed_in_the_type_that_autocast_asks_for(
    pool: Pool, layout: Layout
) -> None:
    x = draw(TOKENS, SAMPLES, CHANNELS, seed=9)
    exact = Positioned().linear(x).detach()
    for rank, (y, of_gradient) in enumerate(pool.run(compute_in_bfloat16, layout)):
        assert y.dtype is torch.bfloat16
        assert of_gradient is torch.float32
        own = own_part(Mesh.describe(layout.at(rank)), exact)
        assert float((y.double() - own).norm()) <= 2.0**-6 * float(own.norm())


def norm_dtypes(mesh: Mesh) -> list[torch.dtype]:
    norms = (
        LayerNorm(CHANNELS, mesh, rows=TOKENS),
        RMSNorm(CHANNELS, mesh, rows=TOKENS),
    )
    return dtypes_of(norms, own_part(mesh, torch.ones(TOKENS, SAMPLES, CHANNELS)))


def dtypes_of(norms: tuple[nn.Module, ...], x: Tensor) -> list[torch.dtype]:
    """The types that norms give under autocast, to inputs of two types."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return [norm(x.to(dtype)).dtype for norm in norms for dtype in (x.dtype, torch.bfloat16)]


def test_norms_give_the_type_that_those_of_torch_give_under_autocast(
    pool: Pool, layout: Layout
) -> None:
    plain = (nn.LayerNorm(CHANNELS), nn.RMSNorm(CHANNELS))
    expected = dtypes_of(plain, torch.ones(TOKENS, SAMPLES, CHANNELS))
    assert pool.run(norm_dtypes, layout) == [expected] * layout.world_size


def described(model: nn.Module, table: dict[str, Cut]) -> nn.Module:
    return parallelize(model, Mesh.describe(Layout(domain=2, tensor=2)), table)


def test_names_shapes_and_settings_stay_those_of_the_plain_model() -> None:
    plain = nn.Sequential(
        nn.Linear(6, 4, bias=False), nn.LayerNorm(4, eps=1e-3), nn.Dropout(0.3), nn.GELU(),
        nn.Sequential(nn.RMSNorm(4), nn.Linear(4, 6)),
    )  # fmt: skip
    plain[0].requires_grad_(False)
    plain.eval()
    state = copy.deepcopy(plain.state_dict())
    table: dict[str, Cut] = {
        "0": CutLinear(5),
        "1": CutNorm(5),
        "4.0": CutNorm(5),
        "*.1": CutLinear(5),
    }
    model = described(plain, table)
    assert model is plain
    kinds = [type(module) for module in model.modules() if not list(module.children())]
    assert kinds == [Linear, LayerNorm, Dropout, nn.GELU, RMSNorm, Linear]
    assert list(model.state_dict()) == list(state)
    for name, held in held_parameters(model).items():
        assert held.shape == state[name].shape
        assert torch.equal(held.tensor, cut(state[name], held.ranges))
    assert [parameter.requires_grad for parameter in model.parameters()] == [False] + [True] * 5
    assert not any(module.training for module in model.modules())
    assert model.get_submodule("1").eps == 1e-3
    assert model.get_submodule("2").p == 0.3


def test_the_first_name_of_the_table_that_fits_counts() -> None:
    table: dict[str, Cut] = {"0.1": CutLinear(5, scheme="gather"), "0.*": CutLinear(5)}
    model = described(nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))), table)
    schemes = [module.product.scheme for module in model.modules() if isinstance(module, Linear)]
    assert schemes == ["reduce", "gather"]


def test_a_model_that_is_itself_in_the_table_has_a_twin() -> None:
    plain = nn.Linear(4, 4)
    twin = described(plain, {"": CutLinear(5)})
    assert isinstance(twin, Linear)
    assert list(twin.state_dict()) == list(plain.state_dict())


def test_a_module_that_is_used_twice_has_one_twin() -> None:
    linear = nn.Linear(4, 4)
    model = nn.Sequential(linear, nn.GELU(), linear)
    described(model, {"0": CutLinear(5), "2": CutLinear(5)})
    assert isinstance(model[0], Linear)
    assert model[0] is model[2]
