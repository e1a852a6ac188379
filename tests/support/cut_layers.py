"""Single layers on every rank of a mesh, and the same on one process in plain PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oracles.layers import Held, cut, layer_norm, over_channels, over_tokens
from support.networks import activation_ranges, gradient_of, held_activation, held_gradients
from weathermixer.jigsaw.layers import LayerNorm, Linear, RMSNorm
from weathermixer.jigsaw.layout import Dimension
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.jigsaw.product import Features, Scheme
from weathermixer.jigsaw.tensors import load_whole

Kind = Literal["layer", "rms"]


@dataclass(frozen=True)
class Chain:
    """Linear maps from ``sizes[0]`` to the last of them, with GELU between."""

    features: Features
    sizes: tuple[Dimension, ...]
    rows: Dimension
    schemes: tuple[Scheme, ...]
    bias: bool = True

    def layers(self, mesh: Mesh) -> nn.ModuleList:
        return nn.ModuleList(
            Linear(
                inputs,
                outputs,
                mesh,
                rows=self.rows,
                features=self.features,
                scheme=scheme,
                bias=self.bias,
            )
            for (inputs, outputs), scheme in zip(pairwise(self.sizes), self.schemes, strict=True)
        )

    def apply(self, layers: nn.ModuleList, x: Tensor) -> Tensor:
        """The maps in turn, of ``x (tokens, batch, channels)``."""
        x = layers[0](x.movedim(0, -1) if self.features == "domain" else x)
        for layer in layers[1:]:
            x = layer(F.gelu(x))
        return x.movedim(-1, 0) if self.features == "domain" else x

    def end(self, size: Dimension) -> tuple[Dimension, Dimension]:
        """Tokens and channels of an activation with ``size`` features."""
        return (size, self.rows) if self.features == "domain" else (self.rows, size)

    def draw(self, batch: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Global parameters, input, and gradient with respect to the output."""
        weights = {}
        for index, (inputs, outputs) in enumerate(pairwise(self.sizes)):
            weights[f"{index}.weight"] = draw(outputs.size, inputs.size, seed=index)
            bias = draw(outputs.size, seed=10 + index)
            weights[f"{index}.bias"] = bias if self.bias else torch.zeros_like(bias)
        ends = [[size.size for size in self.end(self.sizes[place])] for place in (0, -1)]
        x, dy = (draw(ends[i][0], batch, ends[i][1], seed=20 + i) for i in (0, 1))
        return weights, x, dy

    def expected(self, batch: int) -> dict[str, Tensor]:
        """The output and all gradients, on one process."""
        weights, x, dy = self.draw(batch)
        leaves = {"x": x, **weights}
        for leaf in leaves.values():
            leaf.requires_grad_()
        mix = over_tokens if self.features == "domain" else over_channels
        y = mix(weights, "0", x)
        for index in range(1, len(self.schemes)):
            y = mix(weights, str(index), F.gelu(y))
        y.backward(dy)
        return {"y": y.detach()} | {name: gradient_of(leaf) for name, leaf in leaves.items()}


def run_chain(mesh: Mesh, chain: Chain, batch: int) -> dict[str, Held]:
    """Work for a pool: what a rank has of the output and of the gradients."""
    weights, x, dy = chain.draw(batch)
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


@dataclass(frozen=True)
class Norm:
    """A norm over ``channels``; an ``eps`` left open is that of the layer."""

    kind: Kind
    channels: Dimension
    rows: Dimension
    eps: float | None = None

    def draw(self, batch: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Global parameters, input, and gradient with respect to the output."""
        size = self.channels.size
        weights = {"norm.weight": draw(size, seed=0)}
        if self.kind == "layer":
            weights["norm.bias"] = draw(size, seed=1)
        shape = (self.rows.size, batch, size)
        scales = torch.logspace(-2, 2, size, dtype=torch.float64)
        return weights, draw(*shape, seed=2) * scales + 3.0, draw(*shape, seed=3)

    def expected(self, batch: int) -> dict[str, Tensor]:
        """The output and all gradients, on one process."""
        weights, x, dy = self.draw(batch)
        leaves = {"x": x, **weights}
        for leaf in leaves.values():
            leaf.requires_grad_()
        if self.kind == "layer":
            y = layer_norm(weights, "norm", x)
        else:
            y = F.rms_norm(x, x.shape[-1:], weights["norm.weight"], self.eps)
        y.backward(dy)
        return {"y": y.detach()} | {name: gradient_of(leaf) for name, leaf in leaves.items()}


def run_norm(mesh: Mesh, norm: Norm, batch: int) -> dict[str, Held]:
    """Work for a pool: what a rank has of the output and of the gradients."""
    weights, x, dy = norm.draw(batch)
    layer = (
        LayerNorm(norm.channels, mesh, rows=norm.rows)
        if norm.kind == "layer"
        else RMSNorm(norm.channels, mesh, rows=norm.rows, eps=norm.eps)
    )
    module = nn.ModuleDict({"norm": layer}).double()
    load_whole(module, weights)
    own = activation_ranges(mesh.layout, norm.rows, norm.channels, batch)
    x = cut(x, own).requires_grad_()
    y = layer(x)
    y.backward(cut(dy, own))
    return {
        "y": held_activation(mesh.layout, norm.rows, norm.channels, y),
        "x": held_activation(mesh.layout, norm.rows, norm.channels, gradient_of(x)),
    } | held_gradients(module)


def draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)
