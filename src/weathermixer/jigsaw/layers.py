"""The layers that a mixer is made of. Activations are ``(tokens, batch, channels)`` throughout.

With tokens in front, mixing tokens is one matrix product from the left and mixing channels one from
the right, for any batch: neither needs a transpose or a copy. A rank at ``(i, j)`` of the mesh has
tokens block ``i`` and channels block ``j`` of every activation, except between the two halves of a
pair in which the weights stay (:mod:`~weathermixer.jigsaw.product`). A layer computes in the type
of its input and casts its weights to it, so that the weights can stay in a wider one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weathermixer.jigsaw.gradients import shared
from weathermixer.jigsaw.initial import derive_key, fill_uniform, linear_bound
from weathermixer.jigsaw.layout import Block, Dimension
from weathermixer.jigsaw.matmul import multiply, multiply_normalised
from weathermixer.jigsaw.mesh import Axis, Mesh
from weathermixer.jigsaw.normalise import EPSILON, Channels, NormGradient, NormStatistics, normalise
from weathermixer.jigsaw.product import Product, Scheme
from weathermixer.jigsaw.weights import WeightGather, link


class Linear(nn.Module):
    """What the two linear maps share: this rank's blocks of weight and bias.

    ``blocks`` tells for each parameter which elements of the global tensor the rank holds.
    """

    over_tokens: ClassVar[bool]

    def __init__(
        self,
        inputs: int | Dimension,
        outputs: int | Dimension,
        mesh: Mesh,
        *,
        rows: int | Dimension,
        scheme: Scheme = "reduce",
        device: Any = None,
    ) -> None:
        super().__init__()
        product = self.product_of(inputs, outputs, mesh, rows=rows, scheme=scheme)
        self.product = product
        self.blocks = {"weight": product.weight, "bias": product.bias}
        self.weight = nn.Parameter(torch.empty(product.weight.local_shape, device=device))
        self.bias = nn.Parameter(torch.empty(product.bias.local_shape, device=device))
        # The axes whose ranks hold the same elements, each seeing a part of their gradient. Those
        # of the weight are summed over `data` as a whole model's are: see replicas.py.
        self.shared_over = {"weight": (), "bias": product.bias_axes}
        self.summed_over = {"weight": (), "bias": (mesh.data, *product.bias_axes)}
        self.gathered = WeightGather(self)

    @classmethod
    def product_of(
        cls,
        inputs: int | Dimension,
        outputs: int | Dimension,
        mesh: Mesh,
        *,
        rows: int | Dimension,
        scheme: Scheme,
    ) -> Product:
        """The layer's product on a rank, known before any layer is made."""
        axes = (mesh.domain, mesh.tensor) if cls.over_tokens else (mesh.tensor, mesh.domain)
        return Product(
            scheme,
            Dimension.of(inputs),
            Dimension.of(outputs),
            Dimension.of(rows),
            along=axes[0],
            across=axes[1],
            features_first=cls.over_tokens,
        )

    def apply_to(self, x: Tensor, norm: LayerNorm | None = None) -> Tensor:
        """The map of ``norm(x)``, or of ``x`` itself, as the matrix that the product makes.

        With the norm given to it, its sums travel in the backward pass while this map computes.
        """
        weight, bias = self.gathered.get(x.dtype), shared(self.bias, self.summed_over["bias"])
        if norm is not None and norm.axis.size > 1:
            gain, shift = norm.affine()
            return multiply_normalised(
                x.contiguous(), gain, shift, norm.channels, weight, bias, self.product
            )
        matrix = self.product.stored(x if norm is None else norm(x)).contiguous()
        return multiply(matrix, weight, bias, self.product)

    @torch.no_grad()
    def initialise(self, seed: int, name: str) -> None:
        """Weights uniform and biases zero, whichever way the layer is applied."""
        block = self.product.weight
        columns = block.shape[1]
        for (row, column), (rows, within) in block.pieces():
            fill_uniform(
                self.weight[rows.start : rows.stop, within.start : within.stop],
                key=derive_key(seed, name),
                bound=linear_bound(columns),
                start=row * columns + column,
                stride=columns,
            )
        self.bias.zero_()


class ChannelLinear(Linear):
    """A linear map over channels: ``y = x Wᵀ + b``.

    ``x (..., in_channels)``, ``weight (out_channels, in_channels)``, ``y (..., out_channels)``,
    where ``...`` starts with the rows: tokens, or what stands for them. Per rank, ``x (tokens /
    domain, batch, in_channels / tensor)`` and ``y (tokens / domain, batch, out_channels /
    tensor)``; after ``turn`` and before ``fold``, ``(tokens, batch, channels / ways)``. With a
    ``norm``, ``x`` is normalised first.
    """

    over_tokens = False

    def forward(self, x: Tensor, norm: LayerNorm | None = None) -> Tensor:
        y = self.apply_to(x, norm)
        if self.product.scheme in ("reduce", "gather"):
            return y.view(*x.shape[:-1], y.shape[-1])
        rows = y.shape[0] // x.shape[1:-1].numel()
        return y.view(rows, *x.shape[1:-1], y.shape[-1])


class TokenLinear(Linear):
    """A linear map over tokens: ``y = W x + b``, the same for each channel.

    ``x (in_tokens, batch, channels)``, ``weight (out_tokens, in_tokens)``,
    ``y (out_tokens, batch, channels)``. Per rank, ``x (in_tokens / domain, batch, channels /
    tensor)`` and ``y (out_tokens / domain, batch, channels / tensor)``; after ``turn`` and before
    ``fold``, ``(tokens / ways, 1, batch · channels)``. With a ``norm``, ``x`` is normalised first.
    """

    over_tokens = True

    def forward(self, x: Tensor, norm: LayerNorm | None = None) -> Tensor:
        y = self.apply_to(x, norm)
        if self.product.scheme in ("reduce", "gather"):
            return y.view(-1, *x.shape[1:])
        if self.product.scheme == "turn":
            return y.unsqueeze(1)
        side = self.product.target
        return y.view(y.shape[0], -1, side.rows[side.axis.index])


class LayerNorm(nn.Module):
    """Normalisation of each token over all of its channels, with a gain and a bias per channel.

    Ba, Kiros and Hinton 2016, https://arxiv.org/abs/1607.06450. ``x (..., channels)``, per rank
    ``(..., channels / tensor)``.
    """

    def __init__(
        self,
        channels: int | Dimension,
        mesh: Mesh,
        *,
        rows: int | Dimension,
        device: Any = None,
    ) -> None:
        super().__init__()
        dimension = Dimension.of(channels)
        self.own_rows = Dimension.of(rows).sizes(mesh.domain.size)[mesh.domain.index]
        self.axis = mesh.tensor
        self.shared_over = dict.fromkeys(("weight", "bias"), (mesh.domain,))
        self.summed_over = dict.fromkeys(("weight", "bias"), (mesh.data, mesh.domain))
        ranges = dimension.ranges(self.axis.size, self.axis.index)
        block = Block((dimension.size,), (ranges,))
        self.blocks = {"weight": block, "bias": block}
        self.channels = Channels(self.axis, dimension.sizes(self.axis.size))
        self.weight = nn.Parameter(torch.empty(block.local_shape, device=device))
        self.bias = nn.Parameter(torch.empty(block.local_shape, device=device))

    def forward(self, x: Tensor) -> Tensor:
        gain, bias = self.affine()
        if self.axis.size == 1:
            return F.layer_norm(x, gain.shape, gain.to(x.dtype), bias.to(x.dtype), eps=EPSILON)
        y: Tensor = _Normalise.apply(x, gain, bias, self.channels)  # type: ignore[no-untyped-call]
        return y

    def affine(self) -> tuple[Tensor, Tensor]:
        """Gain and bias, whose gradients will be summed over the ranks that share them."""
        return (
            shared(self.weight, self.summed_over["weight"]),
            shared(self.bias, self.summed_over["bias"]),
        )

    @torch.no_grad()
    def initialise(self, seed: int, name: str) -> None:
        self.weight.fill_(1.0)
        self.bias.zero_()


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, bias: Tensor, channels: Channels) -> Tensor:
        y, statistics = normalise(x, gain, bias, channels)
        ctx.save_for_backward(x, gain, statistics.mean, statistics.scale)
        ctx.channels = channels
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, gain, mean, scale = ctx.saved_tensors
        gradient = NormGradient(dy, x, gain, NormStatistics(mean, scale), ctx.channels)
        return gradient.finish(), gradient.gain, gradient.bias, None


class Dropout(nn.Module):
    """Zeroes each value with probability ``p`` and divides the others by ``1 − p``, in training.

    What is zeroed depends on ``key`` and on the rank alone, so a step can be repeated, and a run
    continued, without saving the state of a generator. Instead of a draw per value there is a draw
    per zero: the gaps between the successes of a Bernoulli process are geometric.
    """

    def __init__(self, p: float, mesh: Mesh) -> None:
        super().__init__()
        self.p = p
        self.rank = mesh.layout.rank
        self.key = 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        generator = torch.Generator(device=x.device)
        generator.manual_seed(derive_key(self.key, self.rank) & (1 << 63) - 1)
        zeroed: Tensor = _Zero.apply(  # type: ignore[no-untyped-call]
            x, self._positions(x.numel(), generator), 1.0 / (1.0 - self.p)
        )
        return zeroed

    def _positions(self, size: int, generator: torch.Generator) -> Tensor:
        # Eight standard deviations more than expected: that all gaps end before the tensor does
        # has a probability of about 1e-15.
        expected = size * self.p
        count = math.ceil(expected + 8.0 * math.sqrt(expected) + 8.0)
        gaps = torch.empty(count, dtype=torch.int64, device=generator.device)
        positions = gaps.geometric_(self.p, generator=generator).cumsum(0) - 1
        return positions[positions < size]


class _Zero(torch.autograd.Function):
    """Scales a tensor and zeroes some of its elements; its own adjoint."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, positions: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(positions)
        ctx.scale = scale
        return _zeroed(x, positions, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (positions,) = ctx.saved_tensors
        return _zeroed(grad, positions, ctx.scale), None, None


def _zeroed(x: Tensor, positions: Tensor, scale: float) -> Tensor:
    y = (x * scale).contiguous()
    y.view(-1).index_fill_(0, positions, 0.0)
    return y


def local_parameters(
    model: nn.Module,
) -> Iterator[tuple[str, nn.Parameter, Block, tuple[Axis, ...]]]:
    """Every parameter with its name, this rank's block of it, and the axes that share it."""
    for prefix, module in model.named_modules():
        if isinstance(module, Linear | LayerNorm):
            for name, parameter in module.named_parameters(recurse=False):
                whole_name = f"{prefix}.{name}" if prefix else name
                yield whole_name, parameter, module.blocks[name], module.shared_over[name]


def initialise(model: nn.Module, seed: int) -> None:
    """Give each layer of a model its initial weights: the same elements on any mesh."""
    for name, module in model.named_modules():
        if isinstance(module, Linear | LayerNorm):
            module.initialise(seed, name)


def prefetch_in_order(model: nn.Module) -> None:
    """Let each weight be gathered while the layer before it computes.

    The order is that in which the layers were registered, which must be the one they are used in.
    """
    link([module.gathered for module in model.modules() if isinstance(module, Linear)])
