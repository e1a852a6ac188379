"""Data sets in memory that are read like archives: each has a name for as long as it is lent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import xarray as xr

_LENT: dict[str, xr.Dataset] = {}


@contextmanager
def lent(what: str, source: xr.Dataset | Path | str) -> Iterator[str]:
    """The name by which ``source`` can be opened while entered: a path's or an address's own.

    ``what`` is what messages call a data set, such as ``the analysis``.
    """
    if not isinstance(source, xr.Dataset):
        yield str(source)
        return
    names = (f"{what} ({number})" if number else what for number in count())
    name = next(name for name in names if name not in _LENT and not Path(name).exists())
    _LENT[name] = source
    try:
        yield name
    finally:
        del _LENT[name]


def is_lent(name: str) -> bool:
    """Whether a data set is lent by this name."""
    return name in _LENT


def lent_dataset(name: str) -> xr.Dataset:
    """The data set of a name, whose variables say in what pieces they are best read.

    What lies in memory is read point by point as fast as whole.
    """
    dataset = _LENT[name].copy()
    for variable in dataset.variables.values():
        pieces = {dim: sizes[0] for dim, sizes in variable.chunksizes.items()}
        whole = dict.fromkeys(variable.dims, 1)
        variable.encoding = {"preferred_chunks": {**whole, **pieces}}
    return dataset
