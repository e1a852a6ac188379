"""The states at a path or address: a prepared store, or an archive that is read as it is."""

from __future__ import annotations

from pathlib import Path

from weathermixer.config import Data
from weathermixer.console import Progress, waiting_for
from weathermixer.data.addresses import is_address, local_path
from weathermixer.data.archives.analyses import is_store
from weathermixer.data.archives.arranging import ArrangedStates
from weathermixer.data.archives.direct import DirectStates
from weathermixer.data.archives.lent import is_lent
from weathermixer.data.archives.overview import ArchiveOverview, inspect_archive
from weathermixer.data.grid import Grid
from weathermixer.data.states import States
from weathermixer.data.store.inspection import Inspection, inspect_store
from weathermixer.data.store.store import Store
from weathermixer.errors import UserError


def open_states(source: Path | str, data: Data) -> Store | DirectStates:
    """Open states to learn from, with the channels, step and reader that ``data`` asks for.

    Raises UserError where nothing is there, or nothing of which ranks can read their parts.
    """
    states = _open(source, data)
    if isinstance(states, DirectStates) and not states.is_partial:
        raise UserError(
            f"{source} is not Zarr, which alone can be read in parts: make a store of it "
            "with 'weathermixer data prepare'"
        )
    return states


def open_states_on(source: Path | str, data: Data, grid: Grid) -> States:
    """Open states to forecast from, in any format, on the grid that a network was trained on.

    Rows and longitudes may be in another order there. Raises UserError where nothing is there, or
    where it is on another grid.
    """
    return ArrangedStates.on(grid, _open(source, data))


def inspect(
    source: str, *, full: bool = False, progress: Progress | None = None
) -> Inspection | ArchiveOverview:
    """Look into a store or an archive; with ``full``, read every state to find damaged ones.

    Raises UserError where nothing is there, or nothing that can be used.
    """
    name = local_path(source)
    if is_store(name) or not _is_there(name):
        return inspect_store(name, full=full, progress=progress)
    return inspect_archive(name, full=full, progress=progress)


def _is_there(name: str) -> bool:
    """Whether there is, or may be, anything at a path or an address."""
    return is_lent(name) or Path(name).exists() or is_address(name)


def _open(source: Path | str, data: Data) -> Store | DirectStates:
    with waiting_for(f"{source} to be opened"):
        return _open_named(local_path(str(source)), data)


def _open_named(name: str, data: Data) -> Store | DirectStates:
    if is_store(name) or not _is_there(name):
        return Store.open(name, reader=data.reader)
    if data.reader != "zarr":
        raise UserError(
            f"data.reader={data.reader} reads prepared stores alone, and {name} is none: set "
            "data.reader=zarr, or make a store of it with 'weathermixer data prepare'"
        )
    return DirectStates.open(name, data)
