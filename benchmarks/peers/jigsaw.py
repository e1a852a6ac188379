"""Jigsaw, on the mesh and with the movements that its cost model finds cheapest.

The blocks are the network's own (``weathermixer.model.mixer.Mixing``), without dropout. A second
row has each exchange waited for before anything is computed: what overlap is worth.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from peers.blocks import Blocks, BlockSizes, SchemeStep, forward_and_backward, sample
from weathermixer.jigsaw.cost import Cost, busiest, cheapest, layers_cost, layouts, shared_cost
from weathermixer.jigsaw.layers import ChannelLinear, TokenLinear, local_parameters
from weathermixer.jigsaw.layers import prefetch_in_order as prefetch
from weathermixer.jigsaw.layout import Block, Dimension, Layout
from weathermixer.jigsaw.mesh import Mesh, connect
from weathermixer.model.mixer import Architecture, Mixing


def build(sizes: BlockSizes, rank: int, world_size: int, device: torch.device) -> SchemeStep:
    """Jigsaw on its cheapest mesh, with exchanges that overlap products."""
    return _build(sizes, world_size, device, overlap=True)


def build_without_overlap(
    sizes: BlockSizes, rank: int, world_size: int, device: torch.device
) -> SchemeStep:
    """Jigsaw on its cheapest mesh, with each exchange done before the next product."""
    return _build(sizes, world_size, device, overlap=False)


def stack(sizes: BlockSizes, mesh: Mesh, device: torch.device | str) -> nn.Sequential:
    """The blocks on a rank of a mesh, with weights that are not yet set."""
    architecture = Architecture(
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
    blocks = nn.Sequential(
        *(
            Mixing(kind, architecture, mesh, 1, device)
            for _ in range(sizes.blocks)
            for kind in (TokenLinear, ChannelLinear)
        )
    ).to(sizes.dtype)
    prefetch(blocks)
    return blocks


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
    _set_weights(model, Blocks(sizes))
    part = Block(
        (sizes.tokens, 1, sizes.channels),
        (
            Dimension.of(sizes.tokens).ranges(mesh.domain.size, mesh.domain.index),
            (range(1),),
            Dimension.of(sizes.channels).ranges(mesh.tensor.size, mesh.tensor.index),
        ),
    )
    x, upstream = (
        _cut(tensor.transpose(0, 1), part).to(device).contiguous() for tensor in sample(sizes, 0)
    )
    x.requires_grad_()

    def gather(local: Tensor) -> Tensor:
        return _whole(local, part).transpose(0, 1)

    def gradients() -> dict[str, Tensor]:
        found = {}
        for name, parameter, block, _ in local_parameters(model):
            assert parameter.grad is not None
            found[_plain_name(name)] = _whole(parameter.grad, block)
        return found

    return SchemeStep(lambda: forward_and_backward(model, x, upstream), gather, gradients)


def _plain_name(name: str) -> str:
    """``2.expand.weight`` is ``1.token_mlp.expand.weight`` among the plain blocks."""
    number, module, parameter = name.split(".")
    block, second = divmod(int(number), 2)
    kind = "channel" if second else "token"
    inside = f"{kind}_norm" if module == "norm" else f"{kind}_mlp.{module}"
    return f"{block}.{inside}.{parameter}"


@torch.no_grad()
def _set_weights(model: nn.Module, plain: nn.Module) -> None:
    whole = dict(plain.named_parameters())
    for name, parameter, block, _ in local_parameters(model):
        parameter.copy_(_cut(whole[_plain_name(name)], block))


def _cut(whole: Tensor, block: Block) -> Tensor:
    """A rank's block of a whole tensor."""
    for dimension, ranges in enumerate(block.ranges):
        places = torch.tensor([place for part in ranges for place in part])
        whole = whole.index_select(dimension, places)
    return whole


def _whole(local: Tensor, block: Block) -> Tensor:
    """The tensor that the ranks hold together."""
    everywhere: list[tuple[Tensor, Block]] = [None] * dist.get_world_size()  # type: ignore[list-item]
    dist.all_gather_object(everywhere, (local.detach().cpu(), block))
    whole = local.new_empty(block.shape, device="cpu")
    for there, part in everywhere:
        for start, places in part.pieces():
            inside = tuple(slice(r.start, r.stop) for r in places)
            outside = tuple(
                slice(first, first + len(r)) for first, r in zip(start, places, strict=True)
            )
            whole[outside] = there[inside]
    return whole.to(local.device)
