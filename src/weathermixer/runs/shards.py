"""A rank's block of a tensor, as ``torch.distributed.checkpoint`` (DCP) stores and finds it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
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

    The order and the shapes of the tensors decide who writes what, so that ranks which hold the
    same need not ask each other, and each writes about as much. Of tensors that are no shards, the
    first rank writes all.
    """
    share: dict[str, Tensor | Shard] = {}
    written: dict[tuple[str, ...], list[int]] = {}  # elements by each rank, for each set of axes
    for name, tensor in tensors.items():
        if isinstance(tensor, Shard):
            axes = tensor.shared_over
            place = 0
            for axis in axes:
                place = place * axis.size + axis.index
            by_rank = written.setdefault(
                tuple(axis.name for axis in axes), [0] * math.prod(axis.size for axis in axes)
            )
            least = by_rank.index(min(by_rank))
            by_rank[least] += math.prod(tensor.shape)
            if least == place:
                share[name] = tensor
        elif is_first_rank():
            share[name] = tensor
    return share


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
