"""Layers that are cut over a mesh: the twins of those of ``torch.nn``, for the part of a rank.

A rank at ``(i, j)`` of *domain × tensor* has rows block ``i`` (tokens, say) and features block
``j`` (channels) of every activation, except between the two halves of a pair in which the weights
stay (:mod:`~weathermixer.jigsaw.product`). A map over what is cut over ``domain`` is the same
product with the axes exchanged. A layer computes in the type of its input, or that of an entered
``torch.autocast``, and casts its weights to it, so that the weights can stay in a wider one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from weathermixer.jigsaw.gradients import JigsawError, use
from weathermixer.jigsaw.initial import derive_key, fill_uniform, linear_bound
from weathermixer.jigsaw.layout import Block, Dimension, LayoutError
from weathermixer.jigsaw.matmul import Map, multiply
from weathermixer.jigsaw.mesh import Axis, Mesh
from weathermixer.jigsaw.normalise import Channels, normalise, scale_by_rms
from weathermixer.jigsaw.opaque import opaque
from weathermixer.jigsaw.operations import all_gather, reduce_scatter
from weathermixer.jigsaw.pieces import CutModule, Piece, label, local_parameters
from weathermixer.jigsaw.product import Features, Product, Scheme
from weathermixer.jigsaw.weights import Ahead, WeightGather

EPSILON = 1e-5  # torch.nn.LayerNorm's


class Linear(CutModule):
    """The twin of ``torch.nn.Linear``: ``y = x Wᵀ + b`` for features that are cut over the mesh.

    ``weight (out_features, in_features)`` is held once: each rank has a block of it. With
    ``features="tensor"``, ``x (rows, ..., in_features)`` is, per rank, ``(rows / domain, ...,
    in_features / tensor)``. With ``features="domain"``, of a map over what is cut over that axis,
    ``x (..., rows, in_features)`` is ``(..., rows / tensor, in_features / domain)``: a transposed
    view costs nothing, and the result is one. After the scheme ``turn`` and before ``fold``, a rank
    has all rows of ``features / ways``; only elementwise functions may lie between.

    ``rows`` counts those of one sample; an input may hold several. Raises LayoutError for a cut
    that the scheme cannot follow, and for an input of another shape.
    """

    def __init__(
        self,
        in_features: int | Dimension,
        out_features: int | Dimension,
        mesh: Mesh,
        *,
        rows: int | Dimension,
        features: Features = "tensor",
        scheme: Scheme = "reduce",
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.name = "Linear"  # in the model, once it is part of one
        self.product = product = Product.on(
            mesh, in_features, out_features, rows=rows, features=features, scheme=scheme
        )
        self.pieces = {"weight": Piece.cut(product.weight, mesh)}
        self.weight = nn.Parameter(
            torch.empty(product.weight.local_shape, device=device, dtype=dtype)
        )
        self.bias: nn.Parameter | None = None
        if bias:
            self.bias = nn.Parameter(
                torch.empty(product.bias.local_shape, device=device, dtype=dtype)
            )
            self.pieces["bias"] = Piece.shared(product.bias, product.bias_axes, mesh)
        self.gathered = WeightGather(self)
        self.ahead = Ahead()
        label(self)

    @opaque
    def forward(self, x: Tensor) -> Tensor:
        """This rank's part of ``x Wᵀ + b``."""
        return _apply_maps(x, [self])

    def reset(self, seed: int, name: str) -> None:
        """Weights uniform and biases zero, whichever way the layer is applied."""
        block = self.product.weight
        columns = block.shape[1]
        with torch.no_grad():
            for (row, column), (rows, within) in block.pieces():
                fill_uniform(
                    self.weight[rows.start : rows.stop, within.start : within.stop],
                    key=derive_key(seed, name),
                    bound=linear_bound(columns),
                    start=row * columns + column,
                    stride=columns,
                )
            if self.bias is not None:
                self.bias.zero_()

    def use(self, dtype: torch.dtype) -> Map:
        """The map for one use of it, in one type."""
        return Map(
            self.product,
            self.gathered.use(dtype),
            None if self.bias is None else use(self.bias, self.pieces["bias"].destination),
            partial(self.gathered.begin, dtype),
            partial(self.gathered.fetch, dtype),
            self.ahead.begin_next,
            self.name,
        )

    def _rows_and_batch(self, x: Tensor) -> tuple[int, torch.Size]:
        """The rows of an input, and the sizes of its dimensions that are not rows or features."""
        product = self.product
        if x.ndim >= 2:
            rows, batch = x.shape[0], x.shape[1:-1]
            if product.features_first:
                rows, batch = x.shape[-2], x.shape[:-2]
            expected = product.source.own_rows
            fits = rows == expected
            if not product.moves_rows:  # the rows of an input may take several of its dimensions
                total = x.shape[:-1].numel()
                fits = total % expected == 0 if expected else total == 0
            if fits and x.shape[-1] == product.source.own_features:
                return rows, batch
        order = "(..., rows, features)" if product.features_first else "(rows, ..., features)"
        raise LayoutError(
            f"a Linear of {product.inputs.size} to {product.outputs.size} features takes "
            f"{product.source.own_rows} rows of {product.source.own_features} features on this "
            f"rank, as {order}, but its input is {tuple(x.shape)}"
        )


def feed_forward(
    x: Tensor, expand: nn.Module, between: Callable[[Tensor], Tensor], contract: nn.Module
) -> Tensor:
    """``contract(between(expand(x)))``, of which a part travels while another computes.

    ``between`` is elementwise, such as an activation function with dropout. Of two :class:`Linear`
    the columns go through both in pieces, and ``between`` is called with matrices of them, in
    the forward pass and once more in the backward pass; hooks of the two do not run. Of other
    modules, this is what it says.

    Raises JigsawError where ``between`` changes its input or its shape, draws random numbers, or
    has parameters.
    """
    if isinstance(expand, Linear) and isinstance(contract, Linear):
        return _apply_maps(x, [expand, contract], between)
    y: Tensor = contract(between(expand(x)))
    return y


@opaque
def _apply_maps(
    x: Tensor, layers: list[Linear], between: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """One linear map, or two with ``between`` them, in the type that autocast wants."""
    device = x.device.type
    if torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return _apply_maps(x.to(torch.get_autocast_dtype(device)), layers, between)
    first, last = layers[0].product, layers[-1].product
    rows, batch = layers[0]._rows_and_batch(x)
    turns = len(layers) == 1 and first.moves_rows
    samples = batch.numel() if first.moves_rows else _samples(x, first)
    matrix = x.movedim(-1, 0).flatten(1) if first.features_first else x.flatten(0, -2)
    y = multiply(
        matrix.contiguous(),
        tuple(layer.use(x.dtype) for layer in layers),
        samples=samples,
        between=between,
    )
    if turns:
        rows = last.target.own_rows
    if first.features_first:
        return y.view(y.shape[0], *batch, rows).movedim(0, -1)
    return y.view(rows, *batch, y.shape[1])


def _samples(x: Tensor, product: Product) -> int:
    """How many times an input holds the rows of a sample."""
    rows = product.source.own_rows
    return x.shape[:-1].numel() // rows if rows else 0


class LayerNorm(CutModule):
    """The twin of ``torch.nn.LayerNorm``: normalises each row over all of its channels.

    Ba, Kiros and Hinton 2016, https://arxiv.org/abs/1607.06450. ``x (..., channels)``, per rank
    ``(..., channels / tensor)``; ``weight`` and ``bias (channels,)``, one gain and one shift for
    each channel. ``rows`` counts those of one sample.
    """

    def __init__(
        self,
        channels: int | Dimension,
        mesh: Mesh,
        *,
        rows: int | Dimension,
        eps: float = EPSILON,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.name = "LayerNorm"  # in the model, once it is part of one
        self.cut = _Channelwise(channels, rows, mesh)
        self.eps = eps
        self.ahead = Ahead(is_first=self.cut.axis.size > 1)
        self.pieces = {
            name: Piece.shared(self.cut.block, (mesh.domain,), mesh) for name in ("weight", "bias")
        }
        self.weight = nn.Parameter(torch.empty(self.cut.own, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(self.cut.own, device=device, dtype=dtype))
        label(self)

    @opaque
    def forward(self, x: Tensor) -> Tensor:
        """This rank's channels of the normalised rows, in the type of ``x``."""
        gain = use(self.weight, self.pieces["weight"].destination)
        shift = use(self.bias, self.pieces["bias"].destination)
        x = _as_autocast(x).contiguous()
        channels = Channels(self.cut.axis, self.cut.sizes, self.eps, self.name)
        return normalise(x, gain, shift, channels, then=self.ahead.begin_next)

    def reset(self, seed: int, name: str) -> None:
        """Gains of one and shifts of zero."""
        with torch.no_grad():
            self.weight.fill_(1.0)
            self.bias.zero_()


class RMSNorm(CutModule):
    """The twin of ``torch.nn.RMSNorm``: divides each row by its root mean square over all channels.

    Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467. ``x (..., channels)``, per rank
    ``(..., channels / tensor)``; ``weight (channels,)``. Without ``eps`` it is the smallest step of
    the type. ``rows`` counts those of one sample.
    """

    def __init__(
        self,
        channels: int | Dimension,
        mesh: Mesh,
        *,
        rows: int | Dimension,
        eps: float | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.name = "RMSNorm"  # in the model, once it is part of one
        self.cut = _Channelwise(channels, rows, mesh)
        self.ahead = Ahead(is_first=self.cut.axis.size > 1)
        self.eps = eps
        self.pieces = {"weight": Piece.shared(self.cut.block, (mesh.domain,), mesh)}
        self.weight = nn.Parameter(torch.empty(self.cut.own, device=device, dtype=dtype))
        label(self)

    @opaque
    def forward(self, x: Tensor) -> Tensor:
        """This rank's channels of the scaled rows, in the type of ``x``."""
        gain = use(self.weight, self.pieces["weight"].destination)
        x = _as_autocast(x)
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        channels = Channels(self.cut.axis, self.cut.sizes, eps, self.name)
        return scale_by_rms(x, gain, channels, then=self.ahead.begin_next)

    def reset(self, seed: int, name: str) -> None:
        """Gains of one."""
        with torch.no_grad():
            self.weight.fill_(1.0)


class _Channelwise:
    """How the channels of a norm are cut over ``tensor``, and how many rows a rank normalises."""

    def __init__(self, channels: int | Dimension, rows: int | Dimension, mesh: Mesh) -> None:
        dimension = Dimension.of(channels)
        self.axis: Axis = mesh.tensor
        self.sizes = dimension.sizes(self.axis.size)
        self.block = Block((dimension.size,), (dimension.ranges(self.axis.size, self.axis.index),))
        self.own = self.sizes[self.axis.index]
        self.rows = Dimension.of(rows).sizes(mesh.domain.size)[mesh.domain.index]


def _as_autocast(x: Tensor) -> Tensor:
    """A norm's input as ``torch.autocast`` gives it: in float32, but on the processor."""
    device = x.device.type
    return x.float() if device != "cpu" and torch.is_autocast_enabled(device) else x


class GatherRows(nn.Module):
    """Gives every rank all rows: ``(rows / domain, ...)`` → ``(rows, ...)``, for attention, say.

    ``rows`` counts those of all ranks, which are the dimension ``dim``.
    """

    def __init__(self, rows: int | Dimension, mesh: Mesh, *, dim: int = 0) -> None:
        super().__init__()
        self.axis, self.sizes = mesh.domain, Dimension.of(rows).sizes(mesh.domain.size)
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """The rows of all ranks along ``domain``, in their order."""
        return all_gather(x, self.axis, self.dim, self.sizes)


class MeanRows(nn.Module):
    """The mean over all rows, as one: ``(rows / domain, ...)`` → ``(1, ...)`` on the first rank.

    The others along ``domain`` have none of it, ``(0, ...)``: it is held once, as everything is.
    ``rows`` counts those of the first dimension on all ranks. Without a mesh the mean
    is an ordinary one.
    """

    def __init__(self, rows: int | Dimension, mesh: Mesh | None = None) -> None:
        super().__init__()
        self.axis = (mesh or Mesh.describe()).domain
        self.rows = Dimension.of(rows).size

    def forward(self, x: Tensor) -> Tensor:
        """The mean of the rows of all ranks along ``domain``."""
        own = x.sum(0, keepdim=True) / self.rows
        return reduce_scatter(own, self.axis, 0, Dimension.of(1).sizes(self.axis.size))


def initialise(model: nn.Module, seed: int) -> None:
    """Give each layer of a model that is cut its initial weights: the same elements on any mesh.

    Raises JigsawError, naming it, for a module that has its own way to begin: set its parameters
    yourself.
    """
    layers = {local.name.rpartition(".")[0] for local in local_parameters(model)}
    for name, module in model.named_modules():
        if name not in layers:
            continue
        if not hasattr(module, "reset"):
            raise JigsawError(f"{name} has parameters of its own, which only you can initialise")
        module.reset(seed, name)
