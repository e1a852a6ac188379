"""Named tensors on disk: whole or absent, loaded on any mesh, executing nothing from the file.

The format is that of ``torch.distributed.checkpoint`` (DCP): each rank writes its own shards, and
DCP's tools read them. It loads tensors with ``weights_only``; its index is a pickle, which is read
here by one that admits only the few classes that hold it. What the tensors mean is for others.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch.distributed as dist
from torch import Size, Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.distributed.checkpoint.state_dict_saver import save as save_shards

from weathermixer.errors import UserError
from weathermixer.jigsaw.layout import Block
from weathermixer.jigsaw.mesh import is_first_rank, wait_for_all

_INDEX = ".metadata"  # the name that DCP gives it
_CHECKSUM = "metadata.sha256"
_PARTIAL = ".partial"
_REMOVED = ".removed"


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint after ``step`` optimizer steps stands."""
    return folder / f"step-{step:08d}"


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a folder, oldest first."""
    whole = [path for path in folder.glob("step-*") if path.name[5:].isdecimal()]
    return sorted(whole, key=lambda path: int(path.name[5:]))


@dataclass(frozen=True)
class Shard:
    """A rank's block of a tensor that several ranks hold together.

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


def save(path: Path, tensors: Mapping[str, Tensor | Shard]) -> None:
    """Write a checkpoint beside its place and rename it when all of it is on disk.

    Raises UserError where the disk is full or may not be written.
    """
    partial = path.with_name(path.name + _PARTIAL)
    first = is_first_rank()
    try:
        if first:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        wait_for_all()  # before the others put their files there
        with _plain():
            save_shards(
                dict(tensors),
                storage_writer=_Writer(partial),
                planner=_SavePlanner(),
                no_dist=not dist.is_initialized(),
            )
        if first:
            _write_checksum(partial)
            _sync(partial)
            partial.rename(path)
            _sync(path.parent)
        wait_for_all()
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(
            f"the checkpoint {path} cannot be written ({error.strerror or error}): free some space "
            "or make the folder writable, then continue with --resume from the one before"
        ) from error


def load(path: Path, tensors: Mapping[str, Tensor | Shard]) -> None:
    """Fill tensors in place with those of the same names in a checkpoint.

    Raises UserError where the checkpoint is of something else, naming the first tensor that
    differs, or where a file of it is missing, truncated or damaged.
    """
    metadata = _read_metadata(path)
    _check_same(path, metadata, tensors)
    try:
        with _plain():
            load_shards(
                dict(tensors),
                storage_reader=_CheckedReader(path, metadata),
                planner=_LoadPlanner(),
                no_dist=not dist.is_initialized(),
            )
    except OSError as error:
        raise _unreadable(error, path) from error
    except pickle.UnpicklingError as error:
        raise _damaged(path, "holds something other than tensors") from error


def remove_old(folder: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` checkpoints, none of which is ever there in part.

    Raises OSError where one of them cannot be moved out of the way.
    """
    for path in checkpoints(folder)[:-keep]:
        path.rename(path.with_name(path.name + _REMOVED))
    clean(folder)


def clean(folder: Path) -> None:
    """Remove what an interrupted ``save`` or ``remove_old`` left behind, as far as it can be."""
    for path in folder.glob("step-*"):
        if path.suffix in (_PARTIAL, _REMOVED):
            shutil.rmtree(path, ignore_errors=True)


class _SavePlanner(DefaultSavePlanner):
    """DCP's plan for saving, which finds the pieces of a shard."""

    def lookup_object(self, index: MetadataIndex) -> Any:
        value = self.state_dict[index.fqn]
        return value.__get_tensor_shard__(index) if isinstance(value, Shard) else value


class _LoadPlanner(DefaultLoadPlanner):
    """DCP's plan for loading, which finds the pieces of a shard."""

    def set_up_planner(
        self,
        state_dict: dict[str, Any],
        metadata: Metadata | None = None,
        is_coordinator: bool = False,
    ) -> None:
        # DCP empties a state dict of what it does not know, which shards are.
        super().set_up_planner({}, metadata, is_coordinator)
        self.state_dict = self.original_state_dict = state_dict

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        value = self.state_dict[index.fqn]
        if isinstance(value, Shard):
            return value.__get_tensor_shard__(index)
        assert isinstance(value, Tensor)
        return value.detach()


class _Writer(FileSystemWriter):
    """DCP's writer, without the path and the random number that it would record."""

    def storage_meta(self) -> StorageMeta:
        return StorageMeta()


class _CheckedReader(FileSystemReader):
    """DCP's reader of an index that was read already, which verifies what it reads.

    A stored tensor is a zip archive, with a checksum that torch writes but does not look at.
    """

    def __init__(self, path: Path, metadata: Metadata) -> None:
        super().__init__(path)
        self._metadata = metadata

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return self._metadata

    def _slice_file(self, file: Any, sinfo: Any) -> IO[bytes]:
        part = io.BytesIO(super()._slice_file(file, sinfo).read())
        try:
            with zipfile.ZipFile(part) as archive:
                damaged = archive.testzip() is not None
        except (zipfile.BadZipFile, EOFError, RuntimeError):
            damaged = True
        if damaged:
            raise _damaged(Path(self.path) / sinfo.relative_path, "is truncated or damaged")
        part.seek(0)
        return part


class _IndexUnpickler(pickle.Unpickler):
    """Admits the classes of a checkpoint's index, which hold data, and refuses everything else."""

    _ADMITTED = frozenset(
        [
            ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
            ("torch.serialization", "_get_layout"),  # looks a name up among torch's layouts
            ("torch", "Size"),
        ]
        + [
            ("torch.distributed.checkpoint.metadata", name)
            for name in (
                "Metadata",
                "MetadataIndex",
                "ChunkStorageMetadata",
                "StorageMeta",
                "TensorProperties",
                "TensorStorageMetadata",
                "_MEM_FORMAT_ENCODING",
            )
        ]
        + [("torch", name) for name in ("float64", "float32", "bfloat16", "int64")]
    )

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in self._ADMITTED:
            raise pickle.UnpicklingError(f"{module_name}.{global_name} has no place in it")
        return super().find_class(module_name, global_name)


def _read_metadata(path: Path) -> Metadata:
    index = path / _INDEX
    try:
        content = index.read_bytes()
        expected = (path / _CHECKSUM).read_text()
    except OSError as error:
        raise _unreadable(error, path) from error
    if _checksum(content) != expected:
        raise _damaged(index, "is truncated or damaged")
    try:
        metadata = _IndexUnpickler(io.BytesIO(content)).load()
    except pickle.UnpicklingError as error:
        raise _damaged(index, f"is not the index of a checkpoint ({error})") from error
    assert isinstance(metadata, Metadata)
    return metadata


def _write_checksum(path: Path) -> None:
    with (path / _CHECKSUM).open("w") as file:
        file.write(_checksum((path / _INDEX).read_bytes()))
        file.flush()
        os.fsync(file.fileno())


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _check_same(path: Path, metadata: Metadata, tensors: Mapping[str, Tensor | Shard]) -> None:
    stored = metadata.state_dict_metadata
    for name, tensor in tensors.items():
        saved = stored.get(name)
        if not isinstance(saved, TensorStorageMetadata):
            raise UserError(
                f"the checkpoint {path} is of another network: it has no {name}; "
                "use the configuration that it was trained with"
            )
        if tuple(saved.size) != tuple(tensor.shape):
            raise UserError(
                f"the checkpoint {path} is of another network: {name} has the shape "
                f"{tuple(saved.size)} there and {tuple(tensor.shape)} here; "
                "use the configuration that it was trained with"
            )
    for name in stored:
        if name not in tensors and name.partition(".")[0] in _groups(tensors):
            raise UserError(
                f"the checkpoint {path} is of another network: this one has no {name}; "
                "use the configuration that it was trained with"
            )


def _groups(tensors: Mapping[str, Tensor | Shard]) -> set[str]:
    return {name.partition(".")[0] for name in tensors}


def _unreadable(error: OSError, path: Path) -> UserError:
    return _damaged(Path(error.filename or path), f"cannot be read ({error.strerror})")


def _damaged(file: Path, what: str) -> UserError:
    return UserError(
        f"{file} {what}: copy the checkpoint again, or remove {file.parent} to go on from the one "
        "before"
    )


@contextmanager
def _plain() -> Iterator[None]:
    """DCP without its warning that one process is no group, and with errors as they arose."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        try:
            yield
        except CheckpointException as failed:
            error = next(iter(failed.failures.values()))[0]
            # Of a full disk, torch's writer reports its own confusion first.
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def _sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
