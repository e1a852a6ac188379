"""Jigsaw, on the mesh and with the movements that its cost model finds cheapest.

The blocks are the network's own (``weathermixer.model.mixer.Mixing``) and cut as there, without
dropout. A second row has each exchange waited for before anything is computed: what overlap is
worth.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from peers.blocks import Blocks, BlockSizes, SchemeStep, forward_and_backward, sample
from weathermixer.jigsaw.cost import Cost, busiest, cheapest, layers_cost, shared_cost
from weathermixer.jigsaw.layout import Block, Layout, layouts
from weathermixer.jigsaw.mesh import Mesh, connect
from weathermixer.jigsaw.tensors import block_of, cut, gather, load_whole, whole_gradients
from weathermixer.model.architecture import Architecture
from weathermixer.planning.block_timing import mixer_blocks


def build(sizes: BlockSizes, rank: int, world_size: int, device: torch.device) -> SchemeStep:
    """Jigsaw on its cheapest mesh, with exchanges that overlap products."""
    return _build(sizes, world_size, device, overlap=True)


def build_without_overlap(
    sizes: BlockSizes, rank: int, world_size: int, device: torch.device
) -> SchemeStep:
    """Jigsaw on its cheapest mesh, with each exchange done before the next product."""
    return _build(sizes, world_size, device, overlap=False)


def architecture(sizes: BlockSizes) -> Architecture:
    """A network whose blocks have these sizes."""
    return Architecture(
        prognostic=1,
        static=0,
        grid=(1, sizes.tokens),
        patch=(1, 1),
        channels=sizes.channels,
        blocks=sizes.blocks,
        token_hidden=sizes.token_hidden,
        channel_hidden=sizes.channel_hidden,
        dropout=0.0,
        prediction="increment",
    )


def stack(sizes: BlockSizes, mesh: Mesh, device: torch.device | str) -> nn.Sequential:
    """The blocks on a rank of a mesh, with weights that are not yet set."""
    return mixer_blocks(architecture(sizes), mesh, device, sizes.dtype)


def own_part(sizes: BlockSizes, mesh: Mesh) -> Block:
    """What a rank has of the activations ``(tokens, 1, channels)`` between the blocks."""
    return block_of(
        (sizes.tokens, 1, sizes.channels),
        mesh,
        {0: (mesh.domain, sizes.tokens), 2: (mesh.tensor, sizes.channels)},
    )


def predicted(sizes: BlockSizes, layout: Layout) -> Cost:
    """What the busiest rank of a mesh sends, computes and keeps in a step."""
    width = sizes.dtype.itemsize
    ranks = [stack(sizes, Mesh.describe(layout.at(rank)), "meta") for rank in range(layout.ways)]
    return busiest(
        layers_cost(model, samples=1, element_bytes=width)
        + shared_cost(model, parameter_bytes=width)
        for model in ranks
    )


def cheapest_layout(sizes: BlockSizes, world_size: int) -> Layout:
    """The mesh of so many ranks on which a step of the blocks sends least."""
    return cheapest(layouts(world_size), lambda layout: predicted(sizes, layout))


def _build(
    sizes: BlockSizes, world_size: int, device: torch.device, *, overlap: bool
) -> SchemeStep:
    mesh = connect(cheapest_layout(sizes, world_size), device=device, overlap=overlap)
    model = stack(sizes, mesh, device)
    plain = dict(Blocks(sizes).named_parameters())
    load_whole(model, {name: plain[_plain_name(name)] for name, _ in model.named_parameters()})
    part = own_part(sizes, mesh)
    x, upstream = (cut(tensor.transpose(0, 1), part).to(device) for tensor in sample(sizes, 0))
    x.requires_grad_()

    def gather_whole(local: Tensor) -> Tensor:
        return gather(local, part).transpose(0, 1)

    def gradients() -> dict[str, Tensor]:
        return {_plain_name(name): whole for name, whole in whole_gradients(model).items()}

    return SchemeStep(lambda: forward_and_backward(model, x, upstream), gather_whole, gradients)


def _plain_name(name: str) -> str:
    """``1.0.expand.weight`` is ``1.token_mlp.expand.weight`` among the plain blocks."""
    block, half, module, parameter = name.split(".")
    kind = ("token", "channel")[int(half)]
    inside = f"{kind}_norm" if module == "norm" else f"{kind}_mlp.{module}"
    return f"{block}.{inside}.{parameter}"
