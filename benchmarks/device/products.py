"""The matrix products of a network and nothing else, on one rank."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from weathermixer.jigsaw.layers import Linear


def bare_products(
    module: nn.Module,
    dtype_of: Callable[[str], torch.dtype],
    device: torch.device | str,
    *,
    samples: int = 1,
    without_input_gradient: tuple[str, ...] = (),
) -> Callable[[], None]:
    """The products of each linear map: forward, gradient of its input, gradient of its weight.

    They are of the shapes and in the order in memory that the layers of ``module`` use, which one
    rank holds whole, on tensors that exist already; ``dtype_of`` gives the type of each layer.
    Tensors of one shape are one, so that they take less memory than the network's.
    """
    tensors: dict[tuple[torch.dtype, int, int], Tensor] = {}
    products: list[tuple[Tensor, Tensor]] = []
    for name, layer in module.named_modules():
        if not isinstance(layer, Linear):
            continue
        product, dtype = layer.product, dtype_of(name)
        rows = product.rows.size * samples
        shapes = (
            (product.outputs.size, product.inputs.size),
            product.source.shape(product.inputs.size, rows),
            product.source.shape(product.outputs.size, rows),
        )
        stored = [
            tensors.setdefault((dtype, *shape), torch.randn(shape, dtype=dtype, device=device))
            for shape in shapes
        ]
        weight, x, y = stored[0], product.source.matrix(stored[1]), product.target.matrix(stored[2])
        activations = [(weight, x)]
        if name not in without_input_gradient:
            activations.append((weight.t(), y))
        if not product.features_first:  # what is stored is the transpose
            activations = [(right.t(), left.t()) for left, right in activations]
        products += [*activations, (y, x.t())]

    def run() -> None:
        for left, right in products:
            torch.mm(left, right)

    return run
