"""The index of a checkpoint: which tensors it holds, read without executing anything.

``torch.distributed.checkpoint`` (DCP) pickles it. Here it is read by an unpickler that admits only
the few classes that hold it, and only where a checksum beside it says that it is whole. With the
checksum stands the number of the format.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from weathermixer import __version__
from weathermixer.errors import UserError
from weathermixer.jigsaw.mesh import from_first_rank
from weathermixer.runs.export_file import SUFFIX, index_of
from weathermixer.runs.shards import Shard

INDEX = ".metadata"
"""The name that DCP gives the index."""

SEAL = "checkpoint.json"
"""The name of the file with a checkpoint's format, the version that wrote it, and a checksum."""

FORMAT = 2
"""What is written, and read. Format 1, which is read too, had no number: its seal was another."""

_FORMER_SEAL = "metadata.sha256"

_REMEDY = (
    "use the configuration that it was trained with, and from Python its network where that is one "
    "of your own"
)


class DamagedCheckpoint(UserError):
    """A checkpoint that is not as it was written: ``problem`` says where, the rest what to do."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}: {remedy}")
        self.problem, self._remedy = problem, remedy

    def __reduce__(self) -> tuple[type[DamagedCheckpoint], tuple[str, str]]:
        return type(self), (self.problem, self._remedy)  # ranks tell each other what they find


def read_index(path: Path) -> Metadata:
    """Read the index of the checkpoint in ``path``; UserError where it is missing or damaged.

    An export, which is a file, counts as one. All ranks call this: the first reads it and tells the
    others. That of a thousand ranks has megabytes, which a file system would have to hand out a
    thousand times.
    """
    if path.suffix == SUFFIX:
        return from_first_rank(lambda: index_of(path))
    content = from_first_rank(lambda: _whole_index(path))
    try:
        metadata = _IndexUnpickler(io.BytesIO(content)).load()
    except pickle.UnpicklingError as error:
        raise damaged(path / INDEX, f"is not the index of a checkpoint ({error})") from error
    assert isinstance(metadata, Metadata)
    return metadata


def _whole_index(path: Path) -> bytes:
    index, seal = path / INDEX, path / SEAL
    try:
        if not seal.exists() and (path / _FORMER_SEAL).exists():
            seal = path / _FORMER_SEAL
        sealed = seal.read_bytes()
        if seal.name != _FORMER_SEAL:
            _require_known_format(path, sealed)
        content = index.read_bytes()
    except OSError as error:
        raise unreadable(error, path) from error
    if seal.name == _FORMER_SEAL:
        is_whole = sealed == hashlib.sha256(content).hexdigest().encode()
    else:
        record = _record_of(seal, sealed)
        expected = _checksum(content, record["format"], record["program"])
        is_whole = record["format"] == FORMAT and record.get("checksum") == expected
    if not is_whole:
        raise damaged(index, f"does not match {seal.name}: one of the two is truncated or damaged")
    return content


def _require_known_format(path: Path, sealed: bytes) -> None:
    """Raise UserError where a later version wrote a checkpoint, whose seal may be made otherwise.

    It is not damaged, and must not be set aside as such. A number that was flipped on the disk is
    told from a later one by the checksum, which is then that of the present format.
    """
    index, record = path / INDEX, _record_of(path / SEAL, sealed)
    number, program = record["format"], record["program"]
    if number <= FORMAT:
        return
    if index.is_file() and record.get("checksum") == _checksum(index.read_bytes(), FORMAT, program):
        return
    raise UserError(
        f"the checkpoint {path} is of format {number}, which WeatherMixer {program} wrote and "
        f"this version, {__version__}, does not read: install WeatherMixer {program} or a newer "
        "one to go on from it"
    )


def _record_of(seal: Path, sealed: bytes) -> dict[str, Any]:
    """What a seal says: at least the number of the ``format`` and the version of the ``program``.

    Raises DamagedCheckpoint where it says none of that.
    """
    try:
        record: dict[str, Any] = json.loads(sealed)
        is_seal = type(record["format"]) is int and isinstance(record["program"], str)
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(seal, "is truncated or damaged") from error
    if not is_seal:
        raise damaged(seal, "is truncated or damaged")
    return record


def write_seal(path: Path) -> None:
    """Leave beside the index of a checkpoint its format and a checksum of both, on the disk."""
    checksum = _checksum((path / INDEX).read_bytes(), FORMAT, __version__)
    record = {"format": FORMAT, "program": __version__, "checksum": checksum}
    with (path / SEAL).open("w", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _checksum(index: bytes, number: int, program: str) -> str:
    return hashlib.sha256(f"{number} {program}\n".encode() + index).hexdigest()


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
                f"the checkpoint {path} is of another network: it has no {name}; {_REMEDY}"
            )
        if tuple(saved.size) != tuple(tensor.shape):
            raise UserError(
                f"the checkpoint {path} is of another network: {name} has the shape "
                f"{tuple(saved.size)} there and {tuple(tensor.shape)} here; {_REMEDY}"
            )
    for name in () if leaves_others else stored:
        if name not in tensors and name.partition(".")[0] in _groups(tensors):
            raise UserError(
                f"the checkpoint {path} is of another network: this one has no {name}; {_REMEDY}"
            )


def stored_kinds(path: Path) -> set[str]:
    """The kinds of tensors in the checkpoint in ``path``; UserError where it is damaged.

    All ranks call this.
    """
    return _groups(read_index(path).state_dict_metadata)


def stored_shapes(path: Path, kind: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors of a kind in the checkpoint in ``path``, by their names within it.

    All ranks call this. Raises UserError where it is damaged.
    """
    return {
        name.removeprefix(f"{kind}."): tuple(stored.size)
        for name, stored in read_index(path).state_dict_metadata.items()
        if isinstance(stored, TensorStorageMetadata) and name.startswith(f"{kind}.")
    }


def _groups(names: Iterable[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def unreadable(error: OSError, path: Path) -> UserError:
    """The error that says which file of a checkpoint cannot be read."""
    file = Path(error.filename or path)
    if isinstance(error, PermissionError):
        return UserError(f"{file} cannot be read ({error.strerror}): make it readable")
    return damaged(file, f"cannot be read ({error.strerror})")


def damaged(file: Path, what: str) -> DamagedCheckpoint:
    """The error that says ``what`` is wrong with a file of a checkpoint, and what to do."""
    folder = file if file.is_dir() else file.parent
    return DamagedCheckpoint(
        f"{file} {what}",
        f"copy the checkpoint again, or remove {folder} to go on from the one before",
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
