"""Named tensors on disk: whole or absent, loaded on any mesh, executing nothing from the file.

The format is that of ``torch.distributed.checkpoint`` (DCP), whose tools read it; ``saving`` writes
it. DCP loads tensors with ``weights_only``. What the tensors mean is for others.
"""

from __future__ import annotations

import io
import pickle
import shutil
import struct
import warnings
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any

from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict_loader import load as load_shards

from weathermixer.errors import UserError
from weathermixer.jigsaw.collectives import begin_broadcast
from weathermixer.jigsaw.mesh import gather_objects
from weathermixer.runs.checkpoint_index import (
    INDEX,
    damaged,
    read_index,
    require_same_tensors,
    unreadable,
)
from weathermixer.runs.export_file import SUFFIX, fill
from weathermixer.runs.saving import PARTIAL
from weathermixer.runs.shards import IncompleteTensor, Shard, ShardLoadPlanner, readers

_REMOVED = ".removed"
_DAMAGED = ".damaged"


def checkpoint_path(folder: Path, step: int) -> Path:
    """The path in ``folder`` of the checkpoint after ``step`` optimizer steps."""
    return folder / f"step-{step:08d}"


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a folder, oldest first."""
    whole = [path for path in folder.glob("step-*") if path.name[5:].isdecimal()]
    return sorted(whole, key=lambda path: int(path.name[5:]))


def load(path: Path, tensors: Mapping[str, Tensor | Shard], *, leaves_others: bool = False) -> None:
    """Fill tensors in place with those of the same names in a checkpoint; all ranks call this.

    An export, which is a file, counts as one.
    What replicas hold alike is read by one of them, and passed on to the others. With
    ``leaves_others``, the checkpoint may hold more of their kinds.

    Raises UserError, the same on every rank, where the checkpoint is of something else, naming the
    first tensor that differs, or of another version of the program, and DamagedCheckpoint where a
    file of it is missing, truncated or damaged.
    """
    metadata = read_index(path)
    require_same_tensors(path, metadata, tensors, leaves_others=leaves_others)
    passed_on = readers(tensors)
    own = {
        name: tensor
        for name, tensor in tensors.items()
        if name not in passed_on or passed_on[name][0].index == passed_on[name][1]
    }
    problem: UserError | None = None
    try:
        _read(path, metadata, own)
    except UserError as error:
        problem = error  # which the others, who have read their parts, must hear of
    problem = next(filter(None, gather_objects(problem)), None)
    if problem is not None:
        raise problem
    for name, (axis, reader) in passed_on.items():
        shard = tensors[name]
        assert isinstance(shard, Shard), "nothing else is held by replicas alike"
        if shard.tensor.numel():
            begin_broadcast(axis, shard.tensor.detach(), source=reader).wait()


def _read(path: Path, metadata: Metadata, tensors: Mapping[str, Tensor | Shard]) -> None:
    """Read what this rank needs, by itself: every rank has the index, and finds its parts in it."""
    if path.suffix == SUFFIX:
        fill(path, tensors)
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        reader = _CheckedReader(path, metadata)
        try:
            load_shards(
                dict(tensors),
                storage_reader=reader,
                planner=ShardLoadPlanner(),
                no_dist=True,
            )
        except CheckpointException as failed:
            error = next(iter(failed.failures.values()))[0]
            if isinstance(error, OSError):
                raise unreadable(error, path) from error
            if isinstance(error, pickle.UnpicklingError):
                raise damaged(path, "holds something other than tensors") from error
            if isinstance(error, IncompleteTensor):
                raise damaged(path / INDEX, f"lacks a part of {error}") from error
            if isinstance(error, (RuntimeError, ValueError)) and not isinstance(error, UserError):
                raise damaged(reader.file, "is truncated or damaged") from error  # says torch
            raise error from None


def set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint, so that it is none any more; returns its new path."""
    aside = path.with_name(path.name + _DAMAGED)
    shutil.rmtree(aside, ignore_errors=True)
    return path.rename(aside)


def remove_old(folder: Path, keep: int, *, but: Collection[Path] = ()) -> None:
    """Remove all but the newest ``keep`` checkpoints, none of which is ever there in part.

    Those in ``but`` are kept too. Raises OSError where one cannot be moved out of the way.
    """
    for path in checkpoints(folder)[:-keep]:
        if path not in but:
            path.rename(path.with_name(path.name + _REMOVED))
    remove_leftovers(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove what an interrupted writer or ``remove_old`` left behind, as far as it can be."""
    for path in folder.glob("step-*"):
        if path.suffix in (PARTIAL, _REMOVED):
            shutil.rmtree(path, ignore_errors=True)


class _CheckedReader(FileSystemReader):
    """DCP's reader of an index that was read already, which verifies what it reads.

    A stored tensor is a zip archive, with a checksum that torch writes but does not look at.
    ``file`` is the one that is being read.
    """

    def __init__(self, path: Path, metadata: Metadata) -> None:
        super().__init__(path)
        self._metadata = metadata
        self.file = Path(path)

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return self._metadata

    def _slice_file(self, file: Any, sinfo: Any) -> IO[bytes]:
        self.file = Path(self.path) / sinfo.relative_path
        part = io.BytesIO(super()._slice_file(file, sinfo).read())
        try:
            with zipfile.ZipFile(part) as archive:
                is_damaged = archive.testzip() is not None
        except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, struct.error, zlib.error):
            is_damaged = True
        if is_damaged:
            raise damaged(self.file, "is truncated or damaged")
        part.seek(0)
        return part
