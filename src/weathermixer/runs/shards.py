"""A rank's block of a tensor, as ``torch.distributed.checkpoint`` (DCP) stores and finds it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from torch import Size, Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)

from weathermixer.jigsaw.layout import Block
from weathermixer.jigsaw.mesh import Axis, is_first_rank


@dataclass(frozen=True)
class Shard:
    """A rank's ``block`` of a tensor that several ranks hold together; ``tensor`` is its elements.

    All ranks along the axes ``shared_over`` hold the same block, and one of them has to write it.
    DCP asks it for the pieces of the global tensor that the rank has, by these three methods.
    """

    tensor: Tensor
    block: Block
    shared_over: tuple[Axis, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the global tensor."""
        return self.block.shape

    def __create_write_items__(self, name: str, _: Any) -> list[WriteItem]:
        properties = TensorProperties.create_from_tensor(self.tensor)
        return [
            WriteItem(
                MetadataIndex(name, chunk.offsets),
                WriteItemType.SHARD,
                tensor_data=TensorWriteData(chunk, properties, Size(self.shape)),
            )
            for chunk in self.__create_chunk_list__()
        ]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [
            ChunkStorageMetadata(Size(start), Size([len(part) for part in local]))
            for start, local in self.block.pieces()
        ]

    def __get_tensor_shard__(self, index: MetadataIndex) -> Tensor:
        pieces: dict[Size | None, tuple[range, ...]] = {
            Size(start): local for start, local in self.block.pieces()
        }
        piece = self.tensor.detach()
        for dimension, part in enumerate(pieces[index.offset]):
            piece = piece.narrow(dimension, part.start, len(part))
        return piece


def own_share(tensors: Mapping[str, Tensor | Shard]) -> dict[str, Tensor | Shard]:
    """What this rank writes of the tensors of a checkpoint: of what many hold alike, a part.

    Of tensors that are no shards, the first rank writes all.
    """
    places = _divided({name: _axes(tensor) for name, tensor in tensors.items()}, tensors)
    return {
        name: tensor
        for name, tensor in tensors.items()
        if (
            places[name] == tuple(axis.index for axis in tensor.shared_over)
            if isinstance(tensor, Shard)
            else is_first_rank()
        )
    }


def readers(tensors: Mapping[str, Tensor | Shard]) -> dict[str, tuple[Axis, int]]:
    """For each shard that replicas hold alike, their axis and the place on it of the one to read.

    Each replica reads about as much.
    """
    axes = {
        name: tuple(axis for axis in _axes(tensor) if axis.name == "data" and axis.size > 1)
        for name, tensor in tensors.items()
    }
    places = _divided(axes, tensors)
    return {name: (axes[name][0], place[0]) for name, place in places.items() if place}


def _axes(tensor: Tensor | Shard) -> tuple[Axis, ...]:
    return tensor.shared_over if isinstance(tensor, Shard) else ()


def _divided(
    axes: Mapping[str, tuple[Axis, ...]], tensors: Mapping[str, Tensor | Shard]
) -> dict[str, tuple[int, ...]]:
    """Divide tensors among the ranks along the axes of each: the place on them of the one.

    The order and the shapes of the tensors decide, so that ranks which hold the same need not ask
    each other, and each is given about as much.
    """
    given: dict[tuple[str, ...], dict[tuple[int, ...], int]] = {}  # elements, by axes and place
    found = {}
    for name, tensor in tensors.items():
        shared = axes[name]
        elements = given.setdefault(
            tuple(axis.name for axis in shared),
            dict.fromkeys(product(*(range(axis.size) for axis in shared)), 0),
        )
        place = min(elements, key=elements.__getitem__)
        elements[place] += math.prod(tensor.shape)
        found[name] = place
    return found


class ShardSavePlanner(DefaultSavePlanner):
    """DCP's planner for saving, taught to find the pieces of a shard."""

    def lookup_object(self, index: MetadataIndex) -> Any:
        """The tensor to write for an entry of the index: of a shard, one of its pieces."""
        value = self.state_dict[index.fqn]
        return value.__get_tensor_shard__(index) if isinstance(value, Shard) else value


class IncompleteTensor(LookupError):
    """A checkpoint does not hold all elements of a tensor; its text is the tensor's name."""


class ShardLoadPlanner(DefaultLoadPlanner):
    """DCP's planner for loading, taught to find the pieces of a shard."""

    def set_up_planner(
        self,
        state_dict: dict[str, Any],
        metadata: Metadata | None = None,
        is_coordinator: bool = False,
    ) -> None:
        """Keep the state dict whole, with the shards that DCP would drop from it."""
        # DCP empties a state dict of what it does not know, which shards are.
        super().set_up_planner({}, metadata, is_coordinator)
        self.state_dict = self.original_state_dict = state_dict

    def create_local_plan(self) -> LoadPlan:
        """What to read for this rank; IncompleteTensor where that is not all of a tensor."""
        # What was there before would be left, and nobody would notice.
        plan = super().create_local_plan()
        missing = {
            name: (value.tensor if isinstance(value, Shard) else value).numel()
            for name, value in self.state_dict.items()
        }
        for item in plan.items:
            missing[item.dest_index.fqn] -= item.lengths.numel()
        for name, count in missing.items():
            if count:
                raise IncompleteTensor(name)
        return plan

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        """The tensor to fill for an entry of the index: of a shard, one of its pieces."""
        value = self.state_dict[index.fqn]
        if isinstance(value, Shard):
            return value.__get_tensor_shard__(index)
        assert isinstance(value, Tensor)
        return value.detach()
