"""Addresses of what lies elsewhere, ``s3://…``, ``gs://…``, ``https://…``, and how they fail."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import aiohttp
import fsspec

from weathermixer.errors import UserError

# What the libraries that decode and download raise when bytes are missing, torn or unreachable.
_READ_ERRORS = (
    OSError,
    EOFError,
    LookupError,
    RuntimeError,
    ValueError,
    zlib.error,
    aiohttp.ClientError,
)
# And those of Amazon's and Google's libraries, which are loaded with the first such address.
_CLOUD_ERRORS = {
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "gcsfs.retry": ("HttpError",),
    "google.auth.exceptions": ("GoogleAuthError",),
}


def local_path(source: str) -> str:
    """The path in an address ``file://...``; any other source as it is."""
    if source.startswith("file://"):
        return unquote(source.removeprefix("file://"))
    return source


def is_address(source: str) -> bool:
    """Whether a source lies elsewhere; a file on this machine that is named like it comes first."""
    source = local_path(source)
    return ("://" in source or "::" in source) and not Path(source).exists()


def read_errors() -> tuple[type[Exception], ...]:
    """What reading raises when bytes are missing, torn or out of reach, near or far."""
    loaded = [
        getattr(sys.modules[module], name)
        for module, names in _CLOUD_ERRORS.items()
        if module in sys.modules
        for name in names
    ]
    return (*_READ_ERRORS, *loaded)


def file_system(address: str) -> tuple[Any, str]:
    """The file system (fsspec's) of an address, and the path in it.

    Raises UserError where the package for it is not installed, and where there is no such kind.
    """
    try:
        files, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise UserError(
            f"{address} needs a package that is not installed ({error}): "
            "pip install 'weathermixer[cloud]'"
        ) from error
    except ValueError as error:
        raise UserError(f"{address} cannot be reached ({error}): correct the address") from error
    return files, path
