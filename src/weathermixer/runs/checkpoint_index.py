"""The index of a checkpoint: which tensors it holds, read without executing anything.

``torch.distributed.checkpoint`` (DCP) pickles it. Here it is read by an unpickler that admits only
the few classes that hold it, and only where a checksum beside it says that it is whole.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from weathermixer.errors import UserError
from weathermixer.jigsaw.mesh import from_first_rank
from weathermixer.runs.shards import Shard

INDEX = ".metadata"
"""The name that DCP gives the index."""

_CHECKSUM = "metadata.sha256"


def read_index(path: Path) -> Metadata:
    """Read the index of the checkpoint in ``path``; UserError where it is missing or damaged.

    All ranks call this: the first reads it and tells the others. That of a thousand ranks has
    megabytes, which a file system would have to hand out a thousand times.
    """
    content = from_first_rank(lambda: _whole_index(path))
    try:
        metadata = _IndexUnpickler(io.BytesIO(content)).load()
    except pickle.UnpicklingError as error:
        raise damaged(path / INDEX, f"is not the index of a checkpoint ({error})") from error
    assert isinstance(metadata, Metadata)
    return metadata


def _whole_index(path: Path) -> bytes:
    index = path / INDEX
    try:
        content = index.read_bytes()
        expected = (path / _CHECKSUM).read_text(encoding="utf-8")
    except OSError as error:
        raise unreadable(error, path) from error
    if _checksum(content) != expected:
        raise damaged(index, "is truncated or damaged")
    return content


def write_checksum(path: Path) -> None:
    """Leave the checksum of a checkpoint's index beside it, on the disk."""
    with (path / _CHECKSUM).open("w", encoding="utf-8") as file:
        file.write(_checksum((path / INDEX).read_bytes()))
        file.flush()
        os.fsync(file.fileno())


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def require_same_tensors(
    path: Path,
    metadata: Metadata,
    tensors: Mapping[str, Tensor | Shard],
    *,
    leaves_others: bool = False,
) -> None:
    """Raise UserError where a checkpoint does not hold these tensors, and of their kinds no others.

    A kind is what the names have before their first dot. With ``leaves_others`` there may be more.
    """
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
    for name in () if leaves_others else stored:
        if name not in tensors and name.partition(".")[0] in _groups(tensors):
            raise UserError(
                f"the checkpoint {path} is of another network: this one has no {name}; "
                "use the configuration that it was trained with"
            )


def stored_kinds(path: Path) -> set[str]:
    """The kinds of tensors in the checkpoint in ``path``; UserError where it is damaged.

    All ranks call this.
    """
    return _groups(read_index(path).state_dict_metadata)


def _groups(names: Iterable[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def unreadable(error: OSError, path: Path) -> UserError:
    """The error that says which file of a checkpoint cannot be read."""
    return damaged(Path(error.filename or path), f"cannot be read ({error.strerror})")


def damaged(file: Path, what: str) -> UserError:
    """The error that says ``what`` is wrong with a file of a checkpoint, and what to do."""
    return UserError(
        f"{file} {what}: copy the checkpoint again, or remove {file.parent} to go on from the one "
        "before"
    )


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
