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

from weathermixer.config import Config
from weathermixer.data.channels import channels_of
from weathermixer.errors import UserError
from weathermixer.jigsaw.initial import derive_key
from weathermixer.jigsaw.layers import ChannelLinear, Dropout, LayerNorm, TokenLinear
from weathermixer.jigsaw.layout import Layout
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
        self,
        linear: type[TokenLinear] | type[ChannelLinear],
        size: int,
        hidden: int,
        architecture: Architecture,
        layout: Layout,
        device: Any,
    ) -> None:
        super().__init__()
        self.norm = LayerNorm(architecture.channels, layout, device)
        self.expand = linear(size, hidden, layout, device)
        self.contract = linear(hidden, size, layout, device)
        self.dropout = Dropout(architecture.dropout, layout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.contract(self.dropout(F.gelu(self.expand(self.norm(x)))))


class Decoder(nn.Module):
    """From latent tokens, and what the encoder made of the input, to the values of patches.

    ``x`` and ``encoded (tokens, batch, channels)`` → ``(tokens, batch, prognostic · points)``.
    """

    def __init__(self, architecture: Architecture, layout: Layout, device: Any) -> None:
        super().__init__()
        self.norm = LayerNorm(architecture.channels, layout, device)
        self.linear = ChannelLinear(
            2 * architecture.channels,
            architecture.prognostic * architecture.points_per_patch,
            layout,
            device,
        )

    def forward(self, x: Tensor, encoded: Tensor) -> Tensor:
        return self.linear(torch.cat([self.norm(x), encoded], dim=-1))


class Increment(nn.Module):
    """Adds the decoded values, in units of each channel's step standard deviation, to the state."""

    scale: Tensor

    def __init__(self, architecture: Architecture, layout: Layout, device: Any) -> None:
        super().__init__()
        self.register_buffer(
            "scale", torch.empty(architecture.prognostic, 1, 1, device=device), persistent=False
        )

    def forward(self, decoded: Tensor, state: Tensor) -> Tensor:
        return torch.addcmul(state, decoded, self.scale)


class Blend(nn.Module):
    """The published output: at each grid point, a linear map of decoded values and input state.

    ``norm([norm(decoded), state])`` over the channels of a point → the next state.
    """

    def __init__(self, architecture: Architecture, layout: Layout, device: Any) -> None:
        super().__init__()
        channels = architecture.prognostic
        self.decoded_norm = LayerNorm(channels, layout, device)
        self.norm = LayerNorm(2 * channels, layout, device)
        self.linear = ChannelLinear(2 * channels, channels, layout, device)

    def forward(self, decoded: Tensor, state: Tensor) -> Tensor:
        points = torch.cat([self.decoded_norm(decoded.movedim(1, -1)), state.movedim(1, -1)], -1)
        return self.linear(self.norm(points)).movedim(-1, 1)


class WeatherMixer(nn.Module):
    """The network. Build it with :func:`build`; the constructor alone leaves weights unset.

    ``arithmetic`` is the type in which blocks and decoder compute; the encoder and the addition to
    the state keep the type of the weights.
    """

    def __init__(
        self,
        architecture: Architecture,
        layout: Layout,
        *,
        arithmetic: torch.dtype = torch.float32,
        device: Any = None,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.arithmetic = arithmetic
        features = architecture.points_per_patch * (architecture.prognostic + architecture.static)
        self.encoder = ChannelLinear(features, architecture.channels, layout, device)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                Mixing(
                    TokenLinear,
                    architecture.tokens,
                    architecture.token_hidden,
                    architecture,
                    layout,
                    device,
                ),
                Mixing(
                    ChannelLinear,
                    architecture.channels,
                    architecture.channel_hidden,
                    architecture,
                    layout,
                    device,
                ),
            )
            for _ in range(architecture.blocks)
        )
        self.decoder = Decoder(architecture, layout, device)
        head = Increment if architecture.prediction == "increment" else Blend
        self.head = head(architecture, layout, device)

    def forward(self, state: Tensor, static: Tensor, *, applications: int = 1) -> Tensor:
        """The state one step later, or ``applications`` steps later by repeating the blocks.

        ``state (batch, prognostic, latitude, longitude)``, ``static (static, latitude,
        longitude)``, both normalised; the result has the shape and type of ``state``.
        """
        patch = self.architecture.patch
        fields = torch.cat([state, static.expand(len(state), -1, -1, -1)], dim=1)
        encoded = self.encoder(to_patches(fields, patch)).to(self.arithmetic)
        x = encoded
        for _ in range(applications):
            for block in self.blocks:
                x = block(x)
        decoded = self.decoder(x, encoded).to(state.dtype)
        grid = (state.shape[2], state.shape[3])
        return self.head(from_patches(decoded, patch, grid), state)

    def set_dropout_key(self, seed: int, step: int) -> None:
        """Fix what dropout zeroes in the next passes: the same for the same seed and step."""
        for name, module in self.named_modules():
            if isinstance(module, Dropout):
                module.key = derive_key(seed, step, name)


def build(
    architecture: Architecture,
    layout: Layout,
    *,
    seed: int,
    increment_scale: Tensor,
    dtype: torch.dtype = torch.float32,
    arithmetic: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> WeatherMixer:
    """A network with its initial weights, which depend on the seed and their names alone.

    It is described on the meta device first, so that nothing is allocated but what a rank keeps.
    ``increment_scale (prognostic,)`` is each channel's step standard deviation divided by its
    standard deviation. ``dtype`` is that of the weights, ``arithmetic`` (the same where unset) that
    of the products.
    """
    model = WeatherMixer(architecture, layout, arithmetic=arithmetic or dtype, device="meta")
    model = model.to(dtype).to_empty(device=device)
    for name, module in model.named_modules():
        if isinstance(module, ChannelLinear | TokenLinear | LayerNorm):
            module.initialise(seed, name)
    if isinstance(model.head, Increment):
        # Starting from persistence, the best forecast that needs no weights.
        nn.init.zeros_(model.decoder.linear.weight)
        model.head.scale.copy_(increment_scale.view(-1, 1, 1))
    return model


def count_parameters(architecture: Architecture) -> int:
    """Parameters of a network, counted without allocating any."""
    model = WeatherMixer(architecture, Layout(), device="meta")
    return sum(parameter.numel() for parameter in model.parameters())


def forward_multiply_adds(architecture: Architecture, batch: int) -> int:
    """Multiply-adds of the matrix products of one forward pass over ``batch`` samples.

    The backward pass does twice as many, less the encoder's gradient of its input, which the first
    step of a rollout does not need.
    """
    a = architecture
    points = a.points_per_patch
    per_channel = 2 * a.tokens * a.token_hidden * a.channels
    per_token = 2 * a.channels * a.channel_hidden * a.tokens
    encoder = a.tokens * points * (a.prognostic + a.static) * a.channels
    decoder = a.tokens * 2 * a.channels * points * a.prognostic
    blend = a.grid[0] * a.grid[1] * 2 * a.prognostic**2 if a.prediction == "state" else 0
    return batch * (a.blocks * (per_channel + per_token) + encoder + decoder + blend)
