"""Named tensors on disk: whole or absent, loaded on any mesh, executing nothing from the file.

The format is that of ``torch.distributed.checkpoint`` (DCP): each rank writes its own shards, and
DCP's tools read them. It loads tensors with ``weights_only``. What the tensors mean is for others.
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.distributed.checkpoint.state_dict_saver import save as save_shards

from weathermixer.errors import UserError
from weathermixer.jigsaw.mesh import gather_objects, is_first_rank, wait_for_all
from weathermixer.runs.checkpoint_index import (
    INDEX,
    damaged,
    read_index,
    require_same_tensors,
    unreadable,
    write_checksum,
)
from weathermixer.runs.shards import (
    IncompleteTensor,
    Shard,
    ShardLoadPlanner,
    ShardSavePlanner,
    own_share,
)

_PARTIAL = ".partial"
_REMOVED = ".removed"


def checkpoint_path(folder: Path, step: int) -> Path:
    """The path in ``folder`` of the checkpoint after ``step`` optimizer steps."""
    return folder / f"step-{step:08d}"


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a folder, oldest first."""
    whole = [path for path in folder.glob("step-*") if path.name[5:].isdecimal()]
    return sorted(whole, key=lambda path: int(path.name[5:]))


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
                own_share(tensors),
                storage_writer=ShardWriter(partial),
                planner=ShardSavePlanner(),
                no_dist=not dist.is_initialized(),
            )
        if first:
            write_checksum(partial)
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


def load(path: Path, tensors: Mapping[str, Tensor | Shard], *, leaves_others: bool = False) -> None:
    """Fill tensors in place with those of the same names in a checkpoint; all ranks call this.

    With ``leaves_others``, the checkpoint may hold more of their kinds. Raises UserError, the same
    on every rank, where the checkpoint is of something else, naming the first tensor that differs,
    or where a file of it is missing, truncated or damaged.
    """
    metadata = read_index(path)
    require_same_tensors(path, metadata, tensors, leaves_others=leaves_others)
    problem: UserError | None = None
    try:
        _read_own(path, metadata, tensors)
    except UserError as error:
        problem = error  # which the others, who have read their parts, must hear of
    problem = next(filter(None, gather_objects(problem)), None)
    if problem is not None:
        raise problem


def _read_own(path: Path, metadata: Metadata, tensors: Mapping[str, Tensor | Shard]) -> None:
    """Read what this rank needs, by itself: every rank has the index, and finds its parts in it."""
    try:
        with _plain():
            load_shards(
                dict(tensors),
                storage_reader=_CheckedReader(path, metadata),
                planner=ShardLoadPlanner(),
                no_dist=True,
            )
    except OSError as error:
        raise unreadable(error, path) from error
    except pickle.UnpicklingError as error:
        raise damaged(path, "holds something other than tensors") from error
    except IncompleteTensor as error:
        raise damaged(path / INDEX, f"lacks a part of {error}") from error


def remove_old(folder: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` checkpoints, none of which is ever there in part.

    Raises OSError where one of them cannot be moved out of the way.
    """
    for path in checkpoints(folder)[:-keep]:
        path.rename(path.with_name(path.name + _REMOVED))
    remove_leftovers(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove what an interrupted ``save`` or ``remove_old`` left behind, as far as it can be."""
    for path in folder.glob("step-*"):
        if path.suffix in (_PARTIAL, _REMOVED):
            shutil.rmtree(path, ignore_errors=True)


class ShardWriter(FileSystemWriter):
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
                is_damaged = archive.testzip() is not None
        except (zipfile.BadZipFile, EOFError, RuntimeError):
            is_damaged = True
        if is_damaged:
            raise damaged(Path(self.path) / sinfo.relative_path, "is truncated or damaged")
        part.seek(0)
        return part


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
