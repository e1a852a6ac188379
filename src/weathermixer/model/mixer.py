"""WeatherMixer: patches of the atmosphere become tokens, which mix along space and along channels.

The network maps a normalised state to the normalised state one step later (arXiv 2507.05753). It
knows no files, units or ranks: its layers own the parallel scheme, ``data`` the normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from weathermixer.config import Config
from weathermixer.data.channels import channels_of
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.errors import UserError
from weathermixer.jigsaw.cost import cheapest_pair, cheapest_scheme
from weathermixer.jigsaw.initial import derive_key
from weathermixer.jigsaw.layers import (
    ChannelLinear,
    Dropout,
    LayerNorm,
    Linear,
    TokenLinear,
    initialise,
    prefetch_in_order,
)
from weathermixer.jigsaw.layout import Dimension
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.patches import from_patches, to_patches


@dataclass(frozen=True)
class Architecture:
    """The sizes that define a WeatherMixer.

    ``grid`` and ``patch`` are latitude × longitude; ``token_hidden`` and ``channel_hidden`` are the
    widths of the hidden layers themselves.
    """

    prognostic: int
    static: int
    grid: tuple[int, int]
    patch: tuple[int, int]
    channels: int
    blocks: int
    token_hidden: int
    channel_hidden: int
    dropout: float
    prediction: Literal["increment", "state"]

    @property
    def points_per_patch(self) -> int:
        return self.patch[0] * self.patch[1]

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1] // self.points_per_patch

    # What is cut over the mesh, and where it may be cut.

    @property
    def token_dimension(self) -> Dimension:
        """Tokens, which are cut between columns of patches."""
        return Dimension((self.grid[1] // self.patch[1],), unit=self.grid[0] // self.patch[0])

    @property
    def longitude_dimension(self) -> Dimension:
        """Longitudes, cut where tokens are."""
        return Dimension((self.grid[1] // self.patch[1],), unit=self.patch[1])

    @property
    def state_features(self) -> Dimension:
        """Values in a patch of a state, cut between variables."""
        return Dimension((self.prognostic,), unit=self.points_per_patch)

    @property
    def input_features(self) -> Dimension:
        """Values in a patch of what the encoder takes: those of the state, then static ones."""
        return Dimension((self.prognostic, self.static), unit=self.points_per_patch)

    def part(self, mesh: Mesh) -> Part:
        """What of a state the rank holds that the mesh describes."""
        prognostic, static = Dimension((self.prognostic, self.static)).ranges(
            mesh.tensor.size, mesh.tensor.index
        )
        (longitudes,) = self.longitude_dimension.ranges(mesh.domain.size, mesh.domain.index)
        return Part(
            slice(prognostic.start, prognostic.stop),
            slice(static.start - self.prognostic, static.stop - self.prognostic),
            slice(longitudes.start, longitudes.stop),
        )

    def check(self, mesh: Mesh) -> None:
        """Raise LayoutError where some rank of the mesh would be left with nothing to do."""
        domain, tensor = mesh.domain.size, mesh.tensor.size
        self.token_dimension.require_parts(domain, "columns of patches", "domain")
        hidden = Dimension((self.token_hidden,))
        hidden.require_parts(domain, "hidden values of token mixing", "domain")
        for size, what in (
            (self.prognostic, "variables"),
            (self.channels, "latent channels"),
            (self.channel_hidden, "hidden values of channel mixing"),
        ):
            Dimension((size,)).require_parts(tensor, what, "tensor")


@dataclass(frozen=True)
class Part:
    """The part of states and static fields that a rank holds: all latitudes of these."""

    channels: slice
    static: slice
    longitudes: slice

    def of(self, normalisation: Normalisation) -> Normalisation:
        """What normalises and describes this part."""
        return normalisation.part(self.channels, self.static, self.longitudes)

    def share(self, normalisation: Normalisation) -> float:
        """The fraction that it is of the values of a whole state."""
        own = self.of(normalisation)
        return (len(own.channels) * own.grid[1]) / (
            len(normalisation.channels) * normalisation.grid[1]
        )


def architecture_of(config: Config, grid: tuple[int, int]) -> Architecture:
    """The architecture that a configuration asks for on a grid; UserError if patches do not fit."""
    model = config.model
    for name, points, size in zip(("latitude", "longitude"), grid, model.patch, strict=True):
        if points % size:
            raise UserError(
                f"model.patch {model.patch[0]}×{model.patch[1]} does not divide the store's grid "
                f"{grid[0]}×{grid[1]} (latitude × longitude): {points} points of {name} are no "
                f"multiple of {size}, so choose a divisor of {points}"
            )
    tokens = (grid[0] // model.patch[0]) * (grid[1] // model.patch[1])
    return Architecture(
        prognostic=len(channels_of(config.data.variables, config.data.levels)),
        static=len(config.data.static),
        grid=grid,
        patch=model.patch,
        channels=model.channels,
        blocks=model.blocks,
        token_hidden=max(1, round(model.token_hidden * tokens)),
        channel_hidden=max(1, round(model.channel_hidden * model.channels)),
        dropout=model.dropout,
        prediction=model.prediction,
    )


class Mixing(nn.Module):
    """Two linear maps with GELU between, over tokens or over channels, added to the input.

    ``x ← x + W₂ gelu(W₁ norm(x))``; ``x (tokens, batch, channels)``.
    """

    def __init__(
        self, kind: type[Linear], architecture: Architecture, mesh: Mesh, samples: int, device: Any
    ) -> None:
        super().__init__()
        a, tokens, channels = architecture, architecture.token_dimension, architecture.channels
        size: int | Dimension
        rows: int | Dimension
        if kind is TokenLinear:
            size, hidden, rows = tokens, a.token_hidden, channels
        else:
            size, hidden, rows = channels, a.channel_hidden, tokens
        expand, contract = cheapest_pair(kind, size, hidden, mesh, rows=rows, samples=samples)
        self.norm = LayerNorm(channels, mesh, rows=tokens, device=device)
        self.expand = kind(size, hidden, mesh, rows=rows, scheme=expand, device=device)
        self.contract = kind(hidden, size, mesh, rows=rows, scheme=contract, device=device)
        self.dropout = Dropout(architecture.dropout, mesh)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.contract(self.dropout(F.gelu(self.expand(x, self.norm))))


class Decoder(nn.Module):
    """From latent tokens, and what the encoder made of the input, to the values of patches.

    ``x`` and ``encoded (tokens, batch, channels)`` → ``(tokens, batch, prognostic · points)``.
    """

    def __init__(self, architecture: Architecture, mesh: Mesh, samples: int, device: Any) -> None:
        super().__init__()
        channels, tokens = architecture.channels, architecture.token_dimension
        self.norm = LayerNorm(channels, mesh, rows=tokens, device=device)
        self.linear = _channel_linear(
            Dimension((channels, channels)),
            architecture.state_features,
            mesh,
            rows=tokens,
            samples=samples,
            device=device,
        )

    def forward(self, x: Tensor, encoded: Tensor) -> Tensor:
        return self.linear(torch.cat([self.norm(x), encoded], dim=-1))


class Increment(nn.Module):
    """Adds the decoded values, in units of each channel's step standard deviation, to the state."""

    scale: Tensor

    def __init__(self, architecture: Architecture, mesh: Mesh, samples: int, device: Any) -> None:
        super().__init__()
        own = Dimension((architecture.prognostic,)).ranges(mesh.tensor.size, mesh.tensor.index)
        self.register_buffer(
            "scale", torch.empty(len(own[0]), 1, 1, device=device), persistent=False
        )

    def forward(self, decoded: Tensor, state: Tensor) -> Tensor:
        return torch.addcmul(state, decoded, self.scale)


class Blend(nn.Module):
    """The published output: at each grid point, a linear map of decoded values and input state.

    ``norm([norm(decoded), state])`` over the channels of a point → the next state.
    """

    def __init__(self, architecture: Architecture, mesh: Mesh, samples: int, device: Any) -> None:
        super().__init__()
        one = Dimension((architecture.prognostic,))
        both = Dimension((architecture.prognostic, architecture.prognostic))
        longitudes = architecture.longitude_dimension
        points = Dimension(longitudes.sections, unit=longitudes.unit * architecture.grid[0])
        self.decoded_norm = LayerNorm(one, mesh, rows=points, device=device)
        self.norm = LayerNorm(both, mesh, rows=points, device=device)
        self.linear = _channel_linear(both, one, mesh, rows=points, samples=samples, device=device)

    def forward(self, decoded: Tensor, state: Tensor) -> Tensor:
        points = torch.cat([self.decoded_norm(decoded.movedim(1, -1)), state.movedim(1, -1)], -1)
        return self.linear(self.norm(points)).movedim(-1, 1)


class WeatherMixer(nn.Module):
    """The network. Build it with :func:`build`; the constructor alone leaves weights unset.

    ``samples`` is the batch that the movement of data is chosen for; any other works too.
    ``arithmetic`` is the type in which blocks and decoder compute; the encoder and the addition to
    the state keep the type of the weights. With ``recompute``, a block's activations are not kept
    for the backward pass but computed again: memory for a third more operations.
    """

    def __init__(
        self,
        architecture: Architecture,
        mesh: Mesh,
        *,
        samples: int = 1,
        arithmetic: torch.dtype = torch.float32,
        recompute: bool = False,
        device: Any = None,
    ) -> None:
        super().__init__()
        architecture.check(mesh)
        self.recompute = recompute
        self.architecture = architecture
        self.arithmetic = arithmetic
        self.encoder = _channel_linear(
            architecture.input_features,
            architecture.channels,
            mesh,
            rows=architecture.token_dimension,
            samples=samples,
            input_gradient=False,
            device=device,
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                Mixing(TokenLinear, architecture, mesh, samples, device),
                Mixing(ChannelLinear, architecture, mesh, samples, device),
            )
            for _ in range(architecture.blocks)
        )
        self.decoder = Decoder(architecture, mesh, samples, device)
        head = Increment if architecture.prediction == "increment" else Blend
        self.head = head(architecture, mesh, samples, device)
        prefetch_in_order(self)

    def forward(self, state: Tensor, static: Tensor, *, applications: int = 1) -> Tensor:
        """The state one step later, or ``applications`` steps later by repeating the blocks.

        ``state (batch, prognostic, latitude, longitude)``, ``static (static, latitude,
        longitude)``, both normalised; the result has the shape and type of ``state``. Per rank,
        variables are divided by ``tensor`` and longitudes, patch columns whole, by ``domain``.
        """
        x = encoded = self._encode(state, static)
        for _ in range(applications):
            for block in self.blocks:
                # Dropout keeps no state of a generator, so there is none to restore.
                x = (
                    checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)
                    if self.recompute
                    else block(x)
                )
        # No name for what the decoder makes, as large as the state: it is gone before the head's.
        grid = (state.shape[2], state.shape[3])
        return self.head(
            from_patches(self.decoder(x, encoded).to(state.dtype), self.architecture.patch, grid),
            state,
        )

    def _encode(self, state: Tensor, static: Tensor) -> Tensor:
        fields = torch.cat([state, static.expand(len(state), -1, -1, -1)], dim=1)
        return self.encoder(to_patches(fields, self.architecture.patch)).to(self.arithmetic)

    def set_dropout_key(self, seed: int, step: int) -> None:
        """Fix what dropout zeroes in the next passes: the same for the same seed and step."""
        for name, module in self.named_modules():
            if isinstance(module, Dropout):
                module.key = derive_key(seed, step, name)


def _channel_linear(
    inputs: int | Dimension,
    outputs: int | Dimension,
    mesh: Mesh,
    *,
    rows: Dimension,
    samples: int,
    input_gradient: bool = True,
    device: Any,
) -> ChannelLinear:
    """A linear map over channels that moves what is cheapest to move."""
    scheme = cheapest_scheme(
        ChannelLinear,
        inputs,
        outputs,
        mesh,
        rows=rows,
        samples=samples,
        input_gradient=input_gradient,
    )
    return ChannelLinear(inputs, outputs, mesh, rows=rows, scheme=scheme, device=device)


def build(
    architecture: Architecture,
    mesh: Mesh,
    *,
    seed: int,
    increment_scale: Tensor,
    samples: int = 1,
    dtype: torch.dtype = torch.float32,
    arithmetic: torch.dtype | None = None,
    recompute: bool = False,
    device: torch.device | str | None = None,
) -> WeatherMixer:
    """A network with its initial weights, which depend on the seed and their names alone.

    It is described on the meta device first, so that nothing is allocated but what a rank keeps.
    ``increment_scale (prognostic,)``, of this rank's channels, is each one's step standard
    deviation divided by its standard deviation. ``samples`` is the batch that the movement of data
    is chosen for. ``dtype`` is that of the weights, ``arithmetic`` (the same where unset) that
    of the products; ``recompute`` is that of :class:`WeatherMixer`.
    """
    model = WeatherMixer(
        architecture,
        mesh,
        samples=samples,
        arithmetic=arithmetic or dtype,
        recompute=recompute,
        device="meta",
    )
    model = model.to(dtype).to_empty(device=device or mesh.device)
    initialise(model, seed)
    if isinstance(model.head, Increment):
        # Starting from persistence, the best forecast that needs no weights.
        nn.init.zeros_(model.decoder.linear.weight)
        model.head.scale.copy_(increment_scale.view(-1, 1, 1))
    return model


def count_parameters(architecture: Architecture) -> int:
    """Parameters of a network, counted without allocating any."""
    model = WeatherMixer(architecture, Mesh.describe(), device="meta")
    return sum(parameter.numel() for parameter in model.parameters())
