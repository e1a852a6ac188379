"""A store's states through the library tensorstore, which may not be installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weathermixer.errors import UserError


def open_with_tensorstore(folder: Path) -> Any:
    """The Zarr v3 array in a folder as a ``tensorstore.TensorStore``, for reading.

    Raises UserError where the library is not installed, or where it cannot open the array.
    """
    try:
        import tensorstore
    except ImportError as error:
        raise UserError(
            f"data.reader=tensorstore needs a package that is not installed ({error}): "
            "pip install 'weathermixer[tensorstore]', or set data.reader=zarr"
        ) from error
    file = {"driver": "file", "path": str(folder.absolute())}
    try:
        return tensorstore.open({"driver": "zarr3", "kvstore": file}, read=True).result()
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"tensorstore cannot open {folder} ({reason}): copy or prepare the store again"
        ) from error
