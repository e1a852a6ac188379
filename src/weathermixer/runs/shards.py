"""A rank's block of a tensor, as ``torch.distributed.checkpoint`` (DCP) stores and finds it."""

from __future__ import annotations

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
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

from weathermixer.jigsaw.layout import Block


@dataclass(frozen=True)
class Shard:
    """A rank's ``block`` of a tensor that several ranks hold together; ``tensor`` is its elements.

    DCP asks it for the pieces of the global tensor that the rank has, by these three methods.
    """

    tensor: Tensor
    block: Block

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


class ShardSavePlanner(DefaultSavePlanner):
    """DCP's planner for saving, taught to find the pieces of a shard."""

    def lookup_object(self, index: MetadataIndex) -> Any:
        """The tensor to write for an entry of the index: of a shard, one of its pieces."""
        value = self.state_dict[index.fqn]
        return value.__get_tensor_shard__(index) if isinstance(value, Shard) else value


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

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        """The tensor to fill for an entry of the index: of a shard, one of its pieces."""
        value = self.state_dict[index.fqn]
        if isinstance(value, Shard):
            return value.__get_tensor_shard__(index)
        assert isinstance(value, Tensor)
        return value.detach()
