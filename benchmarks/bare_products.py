"""What the network adds to its bare matrix products, on one device: forward and backward.

    python benchmarks/bare_products.py [--tokens 4320 --channels 2160 --token-hidden 0.5 --blocks 1]

Both are timed alternately in one process and compared by their medians. "Bare" is each block's
products and those of their gradients, on tensors that exist already, with nothing between them.
``accelerator.py`` does the same for the whole network on a GPU.
"""

from __future__ import annotations

import argparse

import torch
from device.products import bare_products
from device.timing import alternated, median

from weathermixer.jigsaw.dropout import set_dropout_key
from weathermixer.jigsaw.mesh import Mesh
from weathermixer.model.architecture import Architecture
from weathermixer.model.cuts import build


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4320)
    parser.add_argument("--channels", type=int, default=2160)
    parser.add_argument("--token-hidden", type=float, default=0.5)
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--dropout", type=float, default=0.001)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    for arithmetic in (torch.float32, torch.bfloat16):
        compare(arguments, arithmetic)


def compare(arguments: argparse.Namespace, arithmetic: torch.dtype) -> None:
    """Time the network and its bare products in one arithmetic, and print both."""
    architecture = Architecture(
        prognostic=1,
        static=0,
        grid=(1, arguments.tokens),
        patch=(1, 1),
        channels=arguments.channels,
        blocks=arguments.blocks,
        token_hidden=round(arguments.token_hidden * arguments.tokens),
        channel_hidden=arguments.channels,
        dropout=arguments.dropout,
        prediction="increment",
    )
    model = build(
        architecture,
        Mesh.describe(),
        seed=0,
        increment_scale=torch.ones(1),
        arithmetic=arithmetic,
        device=arguments.device,
    )
    shape = (architecture.tokens, 1, architecture.channels)
    x = torch.randn(shape, dtype=arithmetic, device=arguments.device, requires_grad=True)
    gradient = torch.randn_like(x)

    def network() -> None:
        set_dropout_key(model, 0, 0)
        y = x
        for block in model.blocks:
            y = block(y)
        y.backward(gradient)
        model.zero_grad()
        x.grad = None

    device = torch.device(arguments.device)
    bare = bare_products(model.blocks, lambda _: arithmetic, device)
    seconds = alternated({"network": network, "products": bare}, arguments.repetitions, device)
    network_s, products_s = map(median, seconds.values())
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    print(
        f"{str(arithmetic).removeprefix('torch.'):9} network {network_s:.3f} s, "
        f"products {products_s:.3f} s, ratio {network_s / products_s:.3f} "
        f"(pairs {min(ratios):.3f} to {max(ratios):.3f})"
    )


if __name__ == "__main__":
    main()
