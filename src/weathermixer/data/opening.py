"""The states at a path or address: a prepared store, or an archive that is read as it is."""

from __future__ import annotations

from pathlib import Path

from weathermixer.config import Data
from weathermixer.console import waiting_for
from weathermixer.data.archives.archive import is_store
from weathermixer.data.archives.direct import DirectStates
from weathermixer.data.store.store import Store
from weathermixer.errors import UserError


def open_states(source: Path | str, data: Data) -> Store | DirectStates:
    """What is there, opened for the channels, step and reader that ``data`` asks for.

    Raises UserError where nothing is there, or nothing that can be read directly.
    """
    with waiting_for(f"{source} to be opened"):
        return _open(str(source), data)


def _open(name: str, data: Data) -> Store | DirectStates:
    if "://" not in name and (not Path(name).exists() or is_store(name)):
        return Store.open(name, reader=data.reader)
    if data.reader != "zarr":
        raise UserError(
            f"data.reader={data.reader} reads prepared stores alone, and {name} is none: set "
            "data.reader=zarr, or make a store of it with 'weathermixer data prepare'"
        )
    return DirectStates.open(name, data)
