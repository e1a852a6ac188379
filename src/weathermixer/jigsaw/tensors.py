"""Tensors and state dicts, cut into the pieces of ranks and put together again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from weathermixer.jigsaw.layout import Block, Dimension
from weathermixer.jigsaw.mesh import Axis, Mesh, gather_objects, losing_ranks
from weathermixer.jigsaw.pieces import local_parameters


def cut(whole: Tensor, block: Block) -> Tensor:
    """A rank's block of a whole tensor, as a copy; both are on the tensor's device."""
    for dim, ranges in enumerate(block.ranges):
        parts = [whole.narrow(dim, part.start, len(part)) for part in ranges]
        whole = torch.cat(parts, dim) if len(parts) > 1 else parts[0]
    return whole.clone(memory_format=torch.contiguous_format)


def block_of(
    shape: Sequence[int], mesh: Mesh, dims: Mapping[int, tuple[Axis, int | Dimension]]
) -> Block:
    """What a rank holds of a tensor of a global ``shape``, some dimensions of which are cut.

    ``dims`` gives the axis of each dimension that is, and how; every rank has all of the others.
    """
    ranges = [
        Dimension.of(dims[dim][1]).ranges(dims[dim][0].size, dims[dim][0].index)
        if dim in dims
        else (range(size),)
        for dim, size in enumerate(shape)
    ]
    return Block(tuple(shape), tuple(ranges))


def own_part(x: Tensor, mesh: Mesh, *, features: int | Dimension | None = None) -> Tensor:
    """A rank's part of an activation ``(rows, ..., features)``, as the layers take it.

    Rows are cut over ``domain`` and features over ``tensor``; ``features`` tells how, where they
    are not cut between single elements.
    """
    rows, last = (mesh.domain, x.shape[0]), (mesh.tensor, features or x.shape[-1])
    return cut(x, block_of(x.shape, mesh, {0: rows, x.ndim - 1: last}))


def join(held: Sequence[tuple[Tensor, Block]]) -> Tensor:
    """The whole tensor of what ranks hold of it, such as the parts of all ranks of an instance."""
    first, block = held[0]
    whole = first.new_empty(block.shape)
    for tensor, there in held:
        for start, local in there.pieces():
            inside = tuple(slice(part.start, part.stop) for part in local)
            outside = tuple(
                slice(offset, offset + len(part)) for offset, part in zip(start, local, strict=True)
            )
            whole[outside] = tensor[inside]
    return whole


def gather(local: Tensor, block: Block) -> Tensor:
    """The whole tensor that all ranks hold together, on each of them; all ranks call this.

    ``local`` is on the device that they exchange over.
    """
    if not dist.is_initialized():
        return join([(local.detach(), block)])
    local = local.detach().contiguous()
    blocks = gather_objects(block)
    parts = [local.new_empty(there.local_shape) for there in blocks]
    parts[dist.get_rank()] = local
    with losing_ranks("gathering a whole tensor"):
        for rank, part in enumerate(parts):
            if part.numel():
                dist.broadcast(part, rank)
    return join(list(zip(parts, blocks, strict=True)))


def spread(whole: Tensor | None, blocks: Sequence[Block], like: Tensor, mesh: Mesh) -> Tensor:
    """This rank's block of a whole tensor that the first rank alone has.

    ``blocks`` are those of all ranks of the mesh, each of which calls this; the result is in the
    place and type of ``like``.
    """
    own = blocks[mesh.layout.rank]
    if whole is None:
        part = like.new_empty(own.local_shape)
        _transfer([(dist.irecv, part, 0)], mesh)
        return part
    pieces = ((cut(whole, block).to(like), rank) for rank, block in enumerate(blocks) if rank)
    _transfer([(dist.isend, piece, rank) for piece, rank in pieces], mesh)
    return cut(whole, own).to(like)


def collect(part: Tensor, blocks: Sequence[Block], mesh: Mesh) -> Tensor | None:
    """The whole tensor on the first rank, of the blocks that ranks have of it; None on the others.

    ``blocks`` are those of all ranks of the mesh, each of which calls this.
    """
    if mesh.layout.rank:
        _transfer([(dist.isend, part.contiguous(), 0)], mesh)
        return None
    parts = [part, *(part.new_empty(block.local_shape) for block in blocks[1:])]
    _transfer([(dist.irecv, there, rank) for rank, there in enumerate(parts) if rank], mesh)
    return join(list(zip(parts, blocks, strict=True)))


def _transfer(
    messages: Sequence[tuple[Callable[..., dist.Work | None], Tensor, int]], mesh: Mesh
) -> None:
    """Send to ranks, or receive from them, tensors that are not empty."""
    operations = []
    for way, tensor, rank in messages:
        if tensor.numel():
            operations.append(dist.P2POp(way, tensor, rank))
            if way is dist.isend:
                mesh.counter.bytes_sent += tensor.numel() * tensor.element_size()
                mesh.counter.messages += 1
    with losing_ranks("passing on whole tensors"):
        for work in dist.batch_isend_irecv(operations) if operations else []:
            work.wait()


def load_whole(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Take this rank's parts of a whole model's parameters, such as its ``state_dict()``.

    Raises KeyError for a parameter that ``state`` lacks, ValueError for one of another shape.
    """
    with torch.no_grad():
        for name, parameter, piece in local_parameters(model):
            whole = state[name]
            if tuple(whole.shape) != piece.block.shape:
                raise ValueError(f"{name} is {tuple(whole.shape)}, not {piece.block.shape}")
            parameter.copy_(cut(whole.to(parameter.device), piece.block))


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """The parameters of the whole model under their names, on each rank; all ranks call this."""
    return {
        name: gather(parameter, piece.block) for name, parameter, piece in local_parameters(model)
    }


def largest_difference(model: nn.Module, plain: nn.Module) -> float:
    """How far any parameter is from that of a plain model, to which it should be equal.

    All ranks call this, each with a plain model of its own.
    """
    expected = {name: parameter.detach() for name, parameter in plain.named_parameters()}
    return max(
        float((whole - expected[name]).abs().max()) for name, whole in whole_state(model).items()
    )


def whole_gradients(model: nn.Module) -> dict[str, Tensor]:
    """The gradients of the whole model, of parameters that have one; all ranks call this."""
    return {
        name: gather(parameter.grad, piece.block)
        for name, parameter, piece in local_parameters(model)
        if parameter.grad is not None
    }
