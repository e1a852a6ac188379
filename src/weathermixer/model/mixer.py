"""WeatherMixer: patches of the atmosphere become tokens, which mix along space and along channels.

The network maps a normalised state to the normalised state one step later (arXiv 2507.05753). It is
plain PyTorch, and knows neither files nor units nor ranks: how it is cut over a mesh is said in
``cuts.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from weathermixer.jigsaw.halo import Halo
from weathermixer.jigsaw.layers import feed_forward
from weathermixer.model.architecture import Architecture
from weathermixer.model.patches import from_patches, to_patches, to_rings
from weathermixer.model.smoothing import Smoothing


def activate(hidden: Tensor, dropout: nn.Module) -> Tensor:
    """What lies between the two maps of a mixing, of any shape."""
    active: Tensor = dropout(F.gelu(hidden))
    return active


Noise: TypeAlias = tuple[Tensor, Tensor | None]
"""Numbers that are drawn for samples ``(batch, noise)``, and for their tokens ``(tokens, batch,
local noise)``, if any."""


class Modulation(nn.Module):
    """Scales and shifts what a norm made by numbers that are drawn: ``y ← y (1 + z S) + z T``.

    ``y (tokens, batch, channels)``; ``z`` are first those of a whole sample, then those of each of
    its tokens. ``scale`` and ``shift`` are ``(noise + local noise, channels)``, and begin as zeros,
    which leave ``y`` as it is. So do the ensembles of Lang et al. 2024 (arXiv 2412.15832) and Alet
    et al. 2025 (arXiv 2506.10772) condition their norms.
    """

    def __init__(self, noise: int, local_noise: int, channels: int, device: Any = None) -> None:
        super().__init__()
        self.noise = noise
        self.scale, self.shift = (
            nn.Parameter(torch.zeros(noise + local_noise, channels, device=device))
            for _ in range(2)
        )

    @property
    def is_local(self) -> bool:
        """Whether tokens have numbers of their own."""
        return self.scale.shape[0] > self.noise

    def forward(self, y: Tensor, noise: Noise) -> Tensor:
        """``y`` of each sample, modulated by its ``noise``."""
        of_samples, of_tokens = noise
        scale, shift = (
            (of_samples @ each[: self.noise]).to(y.dtype) for each in (self.scale, self.shift)
        )
        scale = 1.0 + scale
        if of_tokens is not None:
            # What both kinds make is added up in the type of the blocks, as large as y is.
            own_scale, own_shift = (each[self.noise :] for each in (self.scale, self.shift))
            of_tokens = of_tokens.to(y.dtype)
            scale = scale + of_tokens @ own_scale.to(y.dtype)
            shift = shift + of_tokens @ own_shift.to(y.dtype)
        return torch.addcmul(shift, y, scale)

    def reset(self, seed: int, name: str) -> None:
        """Zeros, whatever the seed."""
        with torch.no_grad():
            self.scale.zero_()
            self.shift.zero_()


class PointNoise(nn.Module):
    """Adds noise of small scales to what was decoded, of an amplitude that each channel learns.

    ``amplitude (predicted, latitude, 1)`` is in units of what was decoded. The noise, which all
    channels have alike, is made of a number that is drawn for each grid point, smoothed with
    weights of 1, 2 and 1 along longitude and latitude: zonal wavenumber *k* of *N* longitudes has
    ``cos²(π k / N)`` of its amplitude left, and so the smallest scale nothing. What a token decodes
    to is smoothed more than that, over its edges: this is what members differ by at small scales.
    """

    def __init__(self, predicted: int, latitudes: int, device: Any = None) -> None:
        super().__init__()
        self.amplitude = nn.Parameter(torch.empty(predicted, latitudes, 1, device=device))
        self.reset()

    def forward(self, decoded: Tensor, drawn: Tensor, longitudes: range) -> Tensor:
        """``decoded (batch, predicted, latitude, longitude)`` with noise.

        ``drawn (batch, 1, latitude, all longitudes)`` has a variance of 1, as the noise has but at
        the first and the last latitude, beyond which these go on; ``longitudes`` are the rank's.
        """
        columns = torch.arange(longitudes.start - 1, longitudes.stop + 1, device=drawn.device)
        drawn = drawn[..., columns % drawn.shape[-1]]
        drawn = torch.cat([drawn[..., :1, :], drawn, drawn[..., -1:, :]], dim=-2)
        for dim in (-1, -2):
            inner = drawn.shape[dim] - 2
            beside = drawn.narrow(dim, 0, inner) + drawn.narrow(dim, 2, inner)
            drawn = beside.add(drawn.narrow(dim, 1, inner), alpha=2.0)
        return torch.addcmul(decoded, self.amplitude, drawn / 6.0)

    def reset(self, seed: int = 0, name: str = "") -> None:
        """A small amplitude, the same everywhere, whatever the seed.

        From zero no gradient would lead to either sign.
        """
        with torch.no_grad():
            self.amplitude.fill_(0.05)


class Mixing(nn.Module):
    """Two linear maps with GELU between, over tokens or over channels, added to the input.

    ``x ← x + W₂ gelu(W₁ norm(x))``; ``x (tokens, batch, channels)``. The norm is always over
    channels, and modulated where there is noise.
    """

    def __init__(
        self, over: Literal["tokens", "channels"], architecture: Architecture, device: Any = None
    ) -> None:
        super().__init__()
        self.over = over
        size, hidden = {
            "tokens": (architecture.tokens, architecture.token_hidden),
            "channels": (architecture.channels, architecture.channel_hidden),
        }[over]
        self.norm = nn.LayerNorm(architecture.channels, device=device)
        self.modulation = (
            Modulation(architecture.noise, architecture.local_noise, architecture.channels, device)
            if architecture.drawn
            else None
        )
        self.expand = nn.Linear(size, hidden, device=device)
        self.contract = nn.Linear(hidden, size, device=device)
        self.dropout = nn.Dropout(architecture.dropout)
        # What lies between products can be replaced by the same, compiled (compiling.py).
        self.activation = activate

    def forward(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """``x`` with what the mixing adds to it."""
        between = partial(self.activation, dropout=self.dropout)
        y = self.norm(x)
        if noise is not None and self.modulation is not None:
            y = self.modulation(y, noise)
        if self.over == "channels":
            return x + feed_forward(y, self.expand, between, self.contract)
        mixed = feed_forward(y.movedim(0, -1), self.expand, between, self.contract)
        return x + mixed.movedim(-1, 0)


class Block(nn.Sequential):
    """A mixing over tokens, then one over channels."""

    def forward(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """``x (tokens, batch, channels)`` after both, with noise, if any."""
        for mixing in self:
            x = mixing(x, noise)
        return x


class Decoder(nn.Module):
    """From latent tokens, and what the encoder made of the input, to the values of patches.

    ``x`` and ``encoded (tokens, batch, channels)`` → ``(tokens, batch, predicted · points)``.
    """

    def __init__(self, architecture: Architecture, device: Any = None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(architecture.channels, device=device)
        self.linear = nn.Linear(
            2 * architecture.channels, architecture.predicted_features.size, device=device
        )

    def forward(self, x: Tensor, encoded: Tensor) -> Tensor:
        """The values of patches, in the latent type."""
        return self.linear(torch.cat([self.norm(x), encoded], dim=-1))


class Increment(nn.Module):
    """Adds the decoded values, in units of each channel's step standard deviation, to the state.

    ``scale (prognostic, 1, 1)`` is that deviation divided by the channel's standard deviation.
    Diagnostic channels, of which there is no state, are the decoded values themselves.
    """

    scale: Tensor

    def __init__(self, architecture: Architecture, device: Any = None) -> None:
        super().__init__()
        scale = torch.ones(architecture.prognostic, 1, 1, device=device)
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, decoded: Tensor, state: Tensor) -> Tensor:
        """The next state ``(batch, predicted, latitude, longitude)``."""
        prognostic = state.shape[1]
        if decoded.shape[1] == prognostic:
            return torch.addcmul(state, decoded, self.scale)
        increment, diagnostic = decoded[:, :prognostic], decoded[:, prognostic:]
        return torch.cat([torch.addcmul(state, increment, self.scale), diagnostic], dim=1)


class Blend(nn.Module):
    """The published output: at each grid point, a linear map of decoded values and input state.

    ``norm([norm(decoded), state])`` over the channels of a point → the next state.
    """

    def __init__(self, architecture: Architecture, device: Any = None) -> None:
        super().__init__()
        predicted, both = architecture.predicted, architecture.predicted + architecture.prognostic
        self.decoded_norm = nn.LayerNorm(predicted, device=device)
        self.norm = nn.LayerNorm(both, device=device)
        self.linear = nn.Linear(both, predicted, device=device)

    def forward(self, decoded: Tensor, state: Tensor) -> Tensor:
        """The next state ``(batch, predicted, latitude, longitude)``."""
        points = torch.cat([self.decoded_norm(decoded.movedim(1, -1)), state.movedim(1, -1)], -1)
        return self.linear(self.norm(points)).movedim(-1, 1)


def patches_of(state: Tensor, given: Sequence[Tensor], patch: tuple[int, int]) -> Tensor:
    """What the encoder maps: the patches of a state and of the fields that are given beside it."""
    expanded = [fields.expand(len(state), -1, -1, -1) for fields in given]
    return to_patches(torch.cat([state, *expanded], dim=1), patch)


def fields_of(
    values: Tensor, patch: tuple[int, int], grid: tuple[int, int], dtype: torch.dtype
) -> Tensor:
    """What the decoder made of patches, as fields in the type of a state."""
    return from_patches(values.to(dtype), patch, grid)


class WeatherMixer(nn.Module):
    """The network, with the initial weights that ``torch.nn`` draws.

    ``arithmetic`` is the type in which encoder, blocks and decoder compute, where it is not that of
    the weights; what is made of the decoded values keeps the type of the weights. (Without
    Jigsaw's layers, which cast their weights, those of the three have to be of it.) With
    ``recompute``, a block's activations are not kept for the backward pass but computed again:
    memory for a third more operations.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        arithmetic: torch.dtype | None = None,
        recompute: bool = False,
        device: Any = None,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.arithmetic = arithmetic
        self.recompute = recompute
        self.encoder = nn.Linear(
            architecture.input_features.size, architecture.channels, device=device
        )
        self.halo: Halo | None = None
        self.ring: nn.Linear | None = None
        if architecture.overlap:
            self.halo = Halo(architecture.overlap)
            self.ring = nn.Linear(
                architecture.ring_features.size, architecture.channels, bias=False, device=device
            )
        self.blocks = nn.ModuleList(
            Block(Mixing("tokens", architecture, device), Mixing("channels", architecture, device))
            for _ in range(architecture.blocks)
        )
        self.decoder = Decoder(architecture, device)
        self.smoothing: Smoothing | None = None
        if architecture.smoothing:
            self.smoothing = Smoothing(
                architecture.predicted,
                architecture.prognostic,
                architecture.grid,
                architecture.smoothing,
                device,
            )
        self.point_noise: PointNoise | None = None
        if architecture.local_noise:
            self.point_noise = PointNoise(architecture.predicted, architecture.grid[0], device)
        head = Increment if architecture.prediction == "increment" else Blend
        self.head = head(architecture, device)
        self.patches, self.fields = patches_of, fields_of
        # Of the rank, where the network is cut.
        self.prognostic = architecture.prognostic
        self.tokens = range(architecture.tokens)
        self.longitudes = range(architecture.grid[1])

    def forward(
        self,
        state: Tensor,
        *given: Tensor,
        applications: int = 1,
        noise: Tensor | None = None,
    ) -> Tensor:
        """The state one step later, or ``applications`` steps later by repeating the blocks.

        ``state (batch, prognostic, latitude, longitude)``, of which further channels, such as an
        earlier result has them, are left alone. ``given`` are the earlier states of as many, the
        newest first, where there are ``input_times``; then the static fields ``(static, latitude,
        longitude)``, and the forcings ``(batch, forcing, latitude, longitude)`` where there are
        any; all normalised. The result, of the type of ``state``, has the prognostic channels, then
        the diagnostic ones. ``noise (batch, drawn)``, as many numbers as the architecture says,
        normally distributed, makes it one of several that are possible; the middle one without. On
        a mesh, per rank, variables are divided by ``tensor`` and longitudes, patch columns whole,
        by ``domain``; noise is whole on all ranks.
        """
        num_earlier = self.architecture.input_times - 1
        earlier, given = map(self._prognostic_of, given[:num_earlier]), given[num_earlier:]
        state = self._prognostic_of(state)
        x = encoded = self._encode(state, (*earlier, *given))
        drawn, of_points = (None, None) if noise is None else self._own_noise(noise)
        for _ in range(applications):
            for block in self.blocks:
                # Dropout keeps no state of a generator, so there is none to restore.
                x = (
                    checkpoint(block, x, drawn, use_reentrant=False, preserve_rng_state=False)
                    if self.recompute
                    else block(x, drawn)
                )
        return self.head(self._decode(x, encoded, state, of_points), state)

    def _own_noise(self, noise: Tensor) -> tuple[Noise, Tensor | None]:
        """What is drawn for samples and the rank's tokens, and for all grid points.

        The last is ``(batch, 1, latitude, longitude)``.
        """
        a = self.architecture
        if not a.local_noise:
            return (noise, None), None
        sizes = [a.noise, a.tokens * a.local_noise, a.grid[0] * a.grid[1]]
        of_samples, of_tokens, of_points = noise.split(sizes, dim=1)
        own = slice(self.tokens.start, self.tokens.stop)
        of_tokens = of_tokens.unflatten(1, (a.tokens, a.local_noise))[:, own].movedim(1, 0)
        return (of_samples, of_tokens), of_points.unflatten(1, (1, *a.grid))

    def _prognostic_of(self, state: Tensor) -> Tensor:
        """The channels that the network is given of a state or of an earlier result."""
        return state if state.shape[1] <= self.prognostic else state[:, : self.prognostic]

    def _encode(self, state: Tensor, given: Sequence[Tensor]) -> Tensor:
        patch, overlap = self.architecture.patch, self.architecture.overlap
        if self.arithmetic is not None:
            state, given = state.to(self.arithmetic), [each.to(self.arithmetic) for each in given]
        # The neighbours' edges travel while the patches are mapped.
        wait_for_edges = None if self.halo is None else self.halo(state)
        encoded: Tensor = self.encoder(self.patches(state, given, patch))
        if wait_for_edges is not None:
            assert self.ring is not None
            encoded = encoded + self.ring(to_rings(wait_for_edges(), patch, overlap))
        return encoded

    def _decode(
        self, x: Tensor, encoded: Tensor, state: Tensor, of_points: Tensor | None
    ) -> Tensor:
        """What the head adds to a state or blends with it, as fields of the state's type."""
        grid = (state.shape[2], state.shape[3])
        # No name for what the decoder makes, as large as the state: it is gone before the head's.
        fields = self.fields(self.decoder(x, encoded), self.architecture.patch, grid, state.dtype)
        if self.smoothing is not None:
            unit = self.head.scale if isinstance(self.head, Increment) else None
            fields = self.smoothing(fields, state, unit)
        if self.point_noise is not None and of_points is not None:
            fields = self.point_noise(fields, of_points, self.longitudes)
        return fields


def count_parameters(architecture: Architecture) -> int:
    """Parameters of a network, counted without allocating any."""
    model = WeatherMixer(architecture, device="meta")
    return sum(parameter.numel() for parameter in model.parameters())
