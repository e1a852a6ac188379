"""A run as one file in safetensors: weights, configuration and normalisation.

The file's header has texts: the configuration, the sizes of the network, what it is an export of,
and a checksum of all. Its tensors are the network's parameters, named ``model.…``, and the
arrays of the normalisation, ``normalisation.…``. Reading it executes nothing, and any rank reads
the parts that it needs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Size, Tensor
from torch.distributed.checkpoint.metadata import (
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from weathermixer import __version__
from weathermixer.data.feeding.normalisation import Normalisation
from weathermixer.errors import UserError, reason
from weathermixer.runs.shards import Shard

FORMAT = 1
"""The number of the format that is written, and read."""

SUFFIX = ".safetensors"
"""What the name of an export ends with, so that ranks need not ask the disk whether it is one."""

WEIGHTS = "model."
"""What the names of weights begin with."""

_ARRAYS = "normalisation."
_ABOUT, _ARCHITECTURE, _CONFIG = "weathermixer", "architecture", "config"
_CHECKSUM = "sha256"
_REMEDY = "copy it again, or export the run again"


@dataclass(frozen=True)
class ExportFile:
    """What an export says but for its weights.

    ``config`` is the configuration as YAML, ``about`` the format, the ``program``'s version, the
    name of the ``checkpoint``, and which ``weights`` of it they are.
    """

    path: Path
    about: Mapping[str, Any]
    config: str
    normalisation: Normalisation

    @classmethod
    def open(cls, path: Path) -> ExportFile:
        """Read an export, all of it, against its checksum.

        Raises UserError where the file is none, or of a later format, and where it was cut short or
        changed.
        """
        with _opened(path) as file:
            texts = file.metadata() or {}
            about = _about(path, texts)
            names = sorted(file.keys())
            checksum = _checksum(texts, ((name, file.get_tensor(name)) for name in names))
            if checksum != texts.get(_CHECKSUM):
                raise UserError(f"the export {path} is not as it was written: {_REMEDY}")
            values: dict[str, Any] = {
                name.removeprefix(_ARRAYS): file.get_tensor(name).numpy()
                for name in names
                if name.startswith(_ARRAYS)
            }
        values |= {name: tuple(json.loads(texts[name])) for name in _names_of_fields()}
        return cls(path, about, texts[_CONFIG], Normalisation(**values))


def write_export(
    path: Path,
    about: Mapping[str, str],
    architecture: Mapping[str, Any],
    config: str,
    normalisation: Normalisation,
    weights: Mapping[str, Tensor],
) -> None:
    """Write the file, which is never there in part; UserError where that is impossible.

    ``architecture`` are the sizes of the network, from which plain PyTorch builds it.
    """
    texts = {
        _ABOUT: json.dumps({"format": FORMAT, "program": __version__, **about}),
        _ARCHITECTURE: json.dumps(architecture),
        _CONFIG: config,
    }
    tensors = {f"{WEIGHTS}{name}": tensor for name, tensor in weights.items()}
    for field in fields(normalisation):
        value = getattr(normalisation, field.name)
        if isinstance(value, tuple):
            texts[field.name] = json.dumps(value)
        else:
            tensors[f"{_ARRAYS}{field.name}"] = torch.from_numpy(np.ascontiguousarray(value))
    texts[_CHECKSUM] = _checksum(texts, ((name, tensors[name]) for name in sorted(tensors)))
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()  # with the usual permissions, which safetensors leaves as they are
        save_file(tensors, partial, metadata=texts)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            partial.unlink()
        raise UserError(
            f"the export {path} cannot be written ({error}): choose another place, free some "
            "space, or make the folder writable"
        ) from error


def index_of(path: Path) -> Metadata:
    """Which weights an export holds, as the index of a checkpoint would tell it."""
    with _opened(path) as file:
        _about(path, file.metadata() or {})
        names = [name for name in sorted(file.keys()) if name.startswith(WEIGHTS)]
        shapes = {name: Size(file.get_slice(name).get_shape()) for name in names}
    return Metadata(
        {
            name: TensorStorageMetadata(TensorProperties(), shape, [])
            for name, shape in shapes.items()
        }
    )


def fill(path: Path, tensors: Mapping[str, Tensor | Shard]) -> None:
    """Fill tensors in place with those of the same names in an export, of shards their part."""
    with _opened(path) as file:
        for name, tensor in tensors.items():
            if not isinstance(tensor, Shard):
                tensor.detach().copy_(file.get_tensor(name))
                continue
            stored = file.get_slice(name)
            for chunk in tensor.__create_chunk_list__():
                box = tuple(
                    slice(begin, begin + size)
                    for begin, size in zip(chunk.offsets, chunk.sizes, strict=True)
                )
                place = MetadataIndex(name, chunk.offsets)
                tensor.__get_tensor_shard__(place).copy_(stored[box])


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except OSError as error:
        raise UserError(f"the export {path} cannot be read ({reason(error)}): {_REMEDY}") from error
    except SafetensorError as error:
        raise UserError(
            f"{path} is not a whole file in safetensors ({error}): give the one that 'weathermixer "
            f"export' wrote; if this is it, {_REMEDY}"
        ) from error


def _about(path: Path, texts: Mapping[str, str]) -> dict[str, Any]:
    """What a file says of itself; UserError where that is not what this version reads."""
    try:
        about = json.loads(texts[_ABOUT])
        number, program = int(about["format"]), str(about["program"])
        complete = {_CONFIG, _CHECKSUM, *_names_of_fields()} <= texts.keys()
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} is a file in safetensors, but no export: give the one that 'weathermixer "
            "export' wrote"
        ) from error
    if number > FORMAT:
        raise UserError(
            f"the export {path} is of format {number}, which WeatherMixer {program} wrote and this "
            f"version, {__version__}, does not read: install WeatherMixer {program} or a newer one"
        )
    if not complete:
        raise UserError(f"the export {path} is not as it was written: {_REMEDY}")
    return dict(about)


def _checksum(texts: Mapping[str, str], tensors: Iterator[tuple[str, Tensor]]) -> str:
    """The SHA-256 by which an export is known to be whole, in hexadecimal digits.

    It is that of all ``texts`` of the header but itself, and of names, types, shapes and values of
    ``tensors``, which come in the order of their names.
    """
    digest = hashlib.sha256()
    kept = {name: text for name, text in texts.items() if name != _CHECKSUM}
    digest.update(json.dumps(kept, sort_keys=True).encode())
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        values: Any = tensor.contiguous().view(-1).view(torch.uint8).numpy()
        digest.update(values)
    return digest.hexdigest()


def _names_of_fields() -> list[str]:
    """The fields of a normalisation that are names, and no arrays."""
    return [field.name for field in fields(Normalisation) if field.name.endswith("channels")]
