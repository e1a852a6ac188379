"""A network of every layer that can be cut, small enough for many ranks on one processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from oracles.layers import Held, Ranges, cut, join, part
from weathermixer.jigsaw.cost import PAIRS, Pair, cheapest_pair
from weathermixer.jigsaw.cutting import Cut, CutLinear, CutNorm, parallelize
from weathermixer.jigsaw.layers import Linear
from weathermixer.jigsaw.layout import Dimension, Layout
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.pieces import local_parameters
from weathermixer.jigsaw.product import Scheme

# Every shape of a mesh that differs from the others in what its ranks do.
MESHES = [
    Layout(domain=domain, tensor=tensor)
    for domain, tensor in ((1, 2), (2, 1), (3, 1), (1, 3), (2, 2), (4, 1), (1, 4), (3, 2), (4, 2))
]


def mesh_name(layout: Layout) -> str:
    return f"{layout.data}x{layout.domain}x{layout.tensor}"


@dataclass(frozen=True)
class Sizes:
    tokens: Dimension
    variables: int
    constants: int
    points: int  # in a patch
    channels: int
    token_hidden: int
    channel_hidden: int
    blocks: int = 1

    @property
    def state(self) -> Dimension:
        return Dimension((self.variables,), unit=self.points)

    @property
    def inputs(self) -> Dimension:
        return Dimension((self.variables, self.constants), unit=self.points)

    @property
    def static(self) -> Dimension:
        return Dimension((self.constants,), unit=self.points)


# No size is a multiple of 2, 3 or 4 in what is cut.
UNEVEN = Sizes(
    tokens=Dimension((5,), unit=3),
    variables=5,
    constants=2,
    points=2,
    channels=13,
    token_hidden=11,
    channel_hidden=17,
)
EVEN = Sizes(
    tokens=Dimension((12,), unit=2),
    variables=12,
    constants=12,
    points=1,
    channels=24,
    token_hidden=48,
    channel_hidden=24,
)


@dataclass(frozen=True)
class Schemes:
    """How the products are taken; a pair left open is the cheapest one."""

    single: Scheme = "reduce"
    tokens: Pair | None = None
    channels: Pair | None = None

    def __str__(self) -> str:
        pairs = ("+".join(pair) if pair else "cheapest" for pair in (self.tokens, self.channels))
        return "-".join((self.single, *pairs))


ALL_SCHEMES = [
    *(Schemes("reduce", tokens, channels) for tokens, channels in product(PAIRS, PAIRS)),
    Schemes("gather", PAIRS[0], PAIRS[0]),
]


class MixingPair(nn.Module):
    """Token mixing, then channel mixing, each added to its input; ``(tokens, batch, channels)``."""

    def __init__(self, sizes: Sizes, device: torch.device | str | None = None) -> None:
        super().__init__()
        tokens, channels = sizes.tokens.size, sizes.channels
        self.token_norm = nn.LayerNorm(channels, device=device)
        self.token_expand = nn.Linear(tokens, sizes.token_hidden, device=device)
        self.token_contract = nn.Linear(sizes.token_hidden, tokens, device=device)
        self.channel_norm = nn.LayerNorm(channels, device=device)
        self.channel_expand = nn.Linear(channels, sizes.channel_hidden, device=device)
        self.channel_contract = nn.Linear(sizes.channel_hidden, channels, device=device)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(over_tokens(self.token_expand, self.token_norm(x)))
        x = x + over_tokens(self.token_contract, hidden)
        return x + self.channel_contract(F.gelu(self.channel_expand(self.channel_norm(x))))


class Network(nn.Module):
    """The function of :func:`oracles.layers.mixer`, in plain PyTorch."""

    def __init__(self, sizes: Sizes, device: torch.device | str | None = None) -> None:
        super().__init__()
        channels = sizes.channels
        self.encoder = nn.Linear(sizes.inputs.size, channels, device=device)
        self.blocks = nn.ModuleList(MixingPair(sizes, device) for _ in range(sizes.blocks))
        self.norm = nn.LayerNorm(channels, device=device)
        self.decoder = nn.Linear(2 * channels, sizes.state.size, device=device)
        # How blocks are checkpointed, as ``use_reentrant``; not at all where it is None.
        self.reentrant: bool | None = None

    def forward(self, state: Tensor, static: Tensor, *, passes: int = 1) -> Tensor:
        for _ in range(passes):
            x = encoded = self.encoder(torch.cat([state, static], -1))
            for block in self.blocks:
                x = (
                    block(x)
                    if self.reentrant is None
                    else checkpoint(block, x, use_reentrant=self.reentrant)
                )
            state = state + self.decoder(torch.cat([self.norm(x), encoded], -1))
        return state


def over_tokens(linear: nn.Module, x: Tensor) -> Tensor:
    """A map over the tokens of ``x (tokens, batch, channels)``."""
    mapped: Tensor = linear(x.movedim(0, -1)).movedim(-1, 0)
    return mapped


def table(sizes: Sizes, mesh: Mesh, schemes: Schemes) -> dict[str, Cut]:
    """How the modules of a network are cut."""
    tokens, channels = sizes.tokens, sizes.channels
    of_tokens = schemes.tokens or cheapest_pair(
        tokens, sizes.token_hidden, mesh, rows=channels, features="domain"
    )
    of_channels = schemes.channels or cheapest_pair(
        channels, sizes.channel_hidden, mesh, rows=tokens
    )
    both = Dimension((channels, channels))
    return {
        "encoder": CutLinear(tokens, in_features=sizes.inputs, scheme=schemes.single),
        "*norm": CutNorm(tokens),
        "*.token_expand": CutLinear(channels, "domain", tokens, None, of_tokens[0]),
        "*.token_contract": CutLinear(channels, "domain", None, tokens, of_tokens[1]),
        "*.channel_expand": CutLinear(tokens, scheme=of_channels[0]),
        "*.channel_contract": CutLinear(tokens, scheme=of_channels[1]),
        "decoder": CutLinear(
            tokens, in_features=both, out_features=sizes.state, scheme=schemes.single
        ),
    }


def network_on(
    mesh: Mesh,
    sizes: Sizes,
    schemes: Schemes | None = None,
    *,
    whole: Mapping[str, Tensor] | None = None,
) -> Network:
    """This rank's part of a network that has the parameters ``whole``, or no memory for any."""
    network = Network(sizes, device="meta")
    if whole is not None:
        network.load_state_dict(whole, assign=True)
    return parallelize(network, mesh, table(sizes, mesh, schemes or Schemes()))


def whole_parameters(sizes: Sizes, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Global parameters, drawn so that each of them matters."""
    generator = torch.Generator().manual_seed(5)
    network = Network(sizes, device="meta")
    drawn = {}
    for name, parameter in network.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if parameter.ndim > 1:
            noise /= parameter.shape[1] ** 0.5
        elif "norm" in name and name.endswith("weight"):
            noise = 1.0 + 0.3 * noise
        drawn[name] = noise.to(dtype)
    return drawn


@dataclass(frozen=True)
class Sample:
    """Global inputs, and the gradient of the loss with respect to the output."""

    state: Tensor
    static: Tensor
    gradient: Tensor

    @classmethod
    def draw(cls, sizes: Sizes, batch: int, dtype: torch.dtype = torch.float64) -> Sample:
        generator = torch.Generator().manual_seed(batch)
        tokens = sizes.tokens.size
        fields = [
            torch.randn(tokens, batch, size, generator=generator, dtype=torch.float64).to(dtype)
            for size in (sizes.state.size, sizes.static.size, sizes.state.size)
        ]
        return cls(*fields)

    def of_samples(self, start: int, stop: int) -> Sample:
        fields = (self.state, self.static, self.gradient)
        return Sample(*(field[:, start:stop] for field in fields))

    def of_replica(self, layout: Layout) -> Sample:
        """The samples that a replica sees."""
        each = self.state.shape[1] // layout.data
        return self.of_samples(first := layout.coordinates.data * each, first + each)

    def on(self, layout: Layout, sizes: Sizes) -> Sample:
        """The part of a rank."""
        state, static = (
            activation_ranges(layout, sizes.tokens, features, self.state.shape[1])
            for features in (sizes.state, sizes.static)
        )
        return Sample(cut(self.state, state), cut(self.static, static), cut(self.gradient, state))


def activation_ranges(
    layout: Layout, tokens: Dimension, features: Dimension, batch: int
) -> tuple[Ranges, ...]:
    """What a rank holds of an activation ``(tokens, batch, features)``."""
    _, domain, tensor = layout.coordinates
    return (
        part(tokens.sections, tokens.unit, layout.domain, domain),
        (range(batch),),
        part(features.sections, features.unit, layout.tensor, tensor),
    )


def held_activation(layout: Layout, tokens: Dimension, features: Dimension, tensor: Tensor) -> Held:
    batch = tensor.shape[1]
    ranges = activation_ranges(layout, tokens, features, batch)
    return Held((tokens.size, batch, features.size), ranges, tensor.detach())


def linear_layers(layers: nn.Sequential | nn.ModuleList) -> list[Linear]:
    """The modules of ``layers``, all of which are linear layers."""
    found = []
    for layer in layers:
        assert isinstance(layer, Linear)
        found.append(layer)
    return found


def gradient_of(leaf: Tensor) -> Tensor:
    """The gradient of ``leaf``, which a backward pass has reached."""
    assert leaf.grad is not None
    return leaf.grad


def held_parameters(model: nn.Module) -> dict[str, Held]:
    """Each parameter of a model that is cut, as far as the rank holds it."""
    return {
        name: Held(piece.block.shape, piece.block.ranges, parameter.detach().clone())
        for name, parameter, piece in local_parameters(model)
    }


def held_gradients(model: nn.Module) -> dict[str, Held]:
    """The gradient of each parameter that has one, as far as the rank holds it."""
    return {
        name: Held(piece.block.shape, piece.block.ranges, parameter.grad)
        for name, parameter, piece in local_parameters(model)
        if parameter.grad is not None
    }


def join_each(ranks: Sequence[Mapping[str, Held]]) -> dict[str, Tensor]:
    """The global tensors; what several ranks hold is the same bits, and everything is held."""
    whole = {}
    for name in ranks[0]:
        whole[name], holders = join([held[name] for held in ranks])
        assert int(holders.min()) >= 1, f"nobody holds all of {name}"
    return whole


def errors(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    """The largest difference of each tensor, relative to its largest value.

    A layer norm takes away what the last token mixing's biases add, so their gradients are zero
    but for rounding: differences of these are relative to the largest value of any tensor.
    """
    largest = max(float(value.abs().max()) for value in expected.values())
    relative = {}
    for name, value in expected.items():
        own = float(value.abs().max())
        difference = float((actual[name].double() - value).abs().max())
        relative[name] = difference / (own if own > 1e-9 * largest else largest)
    return relative
